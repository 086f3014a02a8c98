"""What a config of each family may say. A file here is a family: fields, defaults and rules.

They import no JAX; how a family is built is in :mod:`gen_jax.launch.build.families`.
"""
