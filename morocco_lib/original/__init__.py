"""The original MOROCCO: its lenient scoring. No other room knows its quirks."""
