"""The suite runs on eight virtual devices, with shapes of every annotation checked.

These settings must be made before JAX starts, so they stand before the imports that need them.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
# Most tests compile more than they compute.
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
)

import gc
from importlib.metadata import version
from pathlib import Path

import hypothesis
import jax
import pytest
from jaxtyping import install_import_hook

import tests.typechecker  # noqa: F401 named below
from tests import budget, devices
from tests.tiers import NIGHTLY

# Jaxprs are millions of objects: looking through all of them for garbage, again and again, took a
# quarter of the time of tests that compile.
gc.set_threshold(200_000, 50, 1000)
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

# Left installed: modules are imported by the tests. Without gen_jax.data, which knows NumPy alone
# and whose functions travel to worker processes, which decorated ones cannot.
ROOMS = ("ops", "diffusion", "nn", "codecs", "models", "train", "evals", "launch")
install_import_hook([f"gen_jax.{room}" for room in ROOMS], "tests.typechecker.check")


def keep_what_is_compiled():
    """Keep it in the user's cache folder: wherever the checkout lies, the second run finds it.

    JAX_COMPILATION_CACHE_DIR names another folder, as of a run that is to be cold.
    """
    from gen_jax.launch.cli.cache import use_compilation_cache

    use_compilation_cache(os.environ, f"tests-jax-{version('jax')}")
    jax.config.update("jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR"))


keep_what_is_compiled()

# The same examples in every run: a suite that passed passes again. HYPOTHESIS_PROFILE=explore looks
# for new ones.
hypothesis.settings.register_profile("suite", derandomize=True, deadline=None)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=500)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


pytest_runtest_logstart = budget.pytest_runtest_logstart
pytest_runtest_makereport = budget.pytest_runtest_makereport
pytest_terminal_summary = budget.pytest_terminal_summary


@pytest.fixture(scope="module")
def one_device():
    """See tests/devices.py; a whole module asks for it."""
    with devices.one_device():
        yield


@pytest.fixture(scope="module")
def one_device_by_day():
    """As ``one_device``, but eight in the nightly tier."""
    if NIGHTLY:
        yield
    else:
        with devices.one_device():
            yield


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Drop compiled programs before a process has as many memory maps as Linux lets it have.

    Each program is a few maps of its own; at 65,530 of them the next one ends the process with a
    segmentation fault, which the whole suite in two processes came close to.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_text().count("\n") > 20_000:
        jax.clear_caches()
        gc.collect()
