"""The original MOROCCO: its lenient scoring, its logs and what it made of them. No other room knows its quirks."""
