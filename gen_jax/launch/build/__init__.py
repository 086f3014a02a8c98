"""From a config to a model, its optimizers and its weights; loads JAX at the top."""
