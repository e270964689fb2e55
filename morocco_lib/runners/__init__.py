"""How a model is run: bytes in, bytes out, one clock. Nothing here knows what a record means."""
