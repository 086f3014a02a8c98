"""Generative models, one file a family; each a lower-case factory of a Model."""
