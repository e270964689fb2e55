"""The logs, rules and lenient scoring of the original MOROCCO; no other package knows its quirks.

Only `cli` imports it; it may import every package but `cli`.
"""
