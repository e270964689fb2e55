"""Submissions and ranks: step folders packed, signed, checked one by one, and ranked by what the measurements can tell apart.

Only `cli` imports it; it may import every other package, `legacy` too.
"""
