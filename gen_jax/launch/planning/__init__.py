"""``gen-jax plan``: what a training step costs on devices that are not there."""
