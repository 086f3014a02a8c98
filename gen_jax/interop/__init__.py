"""Weights of other libraries, in and out, by explicit key maps."""

from gen_jax.interop.diffusers import Foreign, read_architecture
from gen_jax.interop.keys import Entry, export_weights, import_weights
from gen_jax.interop.safetensors import read_folder, write_folder

__all__ = [
    "Entry",
    "Foreign",
    "export_weights",
    "import_weights",
    "read_architecture",
    "read_folder",
    "write_folder",
]
