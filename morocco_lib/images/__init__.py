"""A trained model as an image that keeps the contract; registries.

May import `benchmark`, `runners` and what stands below them.
"""
