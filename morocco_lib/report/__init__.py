"""Tables, figures and the page, from step folders alone.

May import `analysis`, `artifacts` and what stands below them.
"""
