"""The suite runs on eight virtual devices, with shapes of every annotation checked.

These settings must be made before JAX starts, so they stand before the imports that need them.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
# Most tests compile more than they compute.
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"

import gc

import hypothesis
import jax
from jaxtyping import install_import_hook

import tests.typechecker  # noqa: F401 named below

# Jaxprs are millions of objects: looking through all of them for garbage, again and again, took a
# quarter of the time of tests that compile.
gc.set_threshold(200_000, 50, 1000)
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

# Left installed: modules are imported by the tests. Without gen_jax.data, which knows NumPy alone
# and whose functions travel to worker processes, which decorated ones cannot.
ROOMS = ("ops", "diffusion", "nn", "codecs", "models", "train", "evals", "launch")
install_import_hook([f"gen_jax.{room}" for room in ROOMS], "tests.typechecker.check")

# The same examples in every run: a suite that passed passes again. HYPOTHESIS_PROFILE=explore looks
# for new ones.
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=500)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))
