"""``gen-jax sample``: what is asked for, read, drawn and kept."""
