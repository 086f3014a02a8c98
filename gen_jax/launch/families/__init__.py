"""One module a family: ``FIELDS`` and ``faults`` for the schema, ``build`` for the rest.

A module's top level imports no JAX, because the schema reads it before anything heavy is loaded.
"""
