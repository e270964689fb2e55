"""Fine-tuning transformers: where a body comes from, how it is fed in training, the recipe, the seeds."""
