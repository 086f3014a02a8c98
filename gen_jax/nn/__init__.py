"""Flax Linen networks; no losses.

Nothing is imported here, so that ``gen_jax.nn.geometry`` can be asked without loading JAX.
"""
