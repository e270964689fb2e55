"""How a program runs: as a process or in a container; bytes and clocks, no tasks.

May import `monitors` and what stands below it.
"""
