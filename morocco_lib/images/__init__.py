"""A trained model as an image that keeps the contract; registries.

May import `benchmark`, `runners` and what stands below them.
"""

BASE = "python:3.11-slim-bookworm"  # what an image starts from unless another base is named
