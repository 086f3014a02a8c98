"""Training: state, step, loop, checkpoints. Knows the protocols and no model."""
