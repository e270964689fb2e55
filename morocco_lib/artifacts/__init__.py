"""Step folders: the record on disk, its digests, and their verification.

May import `analysis`, `monitors` and what stands below them.
"""
