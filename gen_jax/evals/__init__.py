"""Measures of trained models. Knows the protocols and no model."""
