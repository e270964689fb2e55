"""Images of models, built so that what they share is stored once, and registries that they go to and come from."""

BASE = "python:3.11-slim-bookworm"  # what an image starts from unless another base is named
