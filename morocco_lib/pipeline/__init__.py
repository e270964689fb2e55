"""Plans: which step runs when, in which kernel; what a notebook opens and closes.

May import every package but `cli` and `legacy`.
"""
