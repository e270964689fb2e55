"""Pre-training of encoders by masked language modelling: corpus, masks, sparsity, distillation, schedules, the loop.

May import what `training` may.
"""
