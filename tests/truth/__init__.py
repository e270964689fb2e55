"""Speeds, start-ups and memory that are known, our way and the original's of measuring them, and how far off they are."""
