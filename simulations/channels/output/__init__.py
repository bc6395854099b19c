"""Private inference: a model's answers to private images."""
