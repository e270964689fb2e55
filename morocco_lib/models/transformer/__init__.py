"""Encoders and decoders of transformers that answer records: inputs, heads, and the backends that compute.

May import `tasks` and what stands below it; a container holds it.
"""
