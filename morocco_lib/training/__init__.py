"""How a model learns: fitting, fine-tuning of transformers, seeds, several processes.

May import `models`, `data`, `artifacts` and what stands below them.
"""
