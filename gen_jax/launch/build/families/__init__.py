"""How each family is built: ``build(values, stage1=None) -> Experiment``.

What their configs may say is in :mod:`gen_jax.launch.config.families`.
"""
