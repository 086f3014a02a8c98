"""The core needs jax, jaxtyping and numpy; whoever asks for more is told which extra has it."""

import subprocess
import sys

import pytest

# Everything else that is installed here is as if it were not.
ALONE = """
import importlib.metadata, sys

CORE = {"jax", "jaxlib", "jaxtyping", "numpy", "gen_jax"}
# What these three need themselves.
CORE |= {"ml_dtypes", "opt_einsum", "scipy", "wadler_lindig", "typing_extensions"}
INSTALLED = set(importlib.metadata.packages_distributions())

class Absent:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in INSTALLED - CORE:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


def alone(program):
    command = [sys.executable, "-c", ALONE + program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_the_mathematics_runs_with_the_core_alone():
    program = """
import importlib, pkgutil
import gen_jax, jax, jax.numpy as jnp

for room in ("ops", "diffusion"):
    package = importlib.import_module(f"gen_jax.{room}")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"gen_jax.{room}.{module.name}")
for name in ("codecs", "patches", "protocols"):
    importlib.import_module(f"gen_jax.{name}")
from gen_jax import diffusion
from gen_jax.ops import keys

schedule = diffusion.cosine(num_steps=100)
denoise = diffusion.denoiser(lambda x, t: x, schedule, diffusion.epsilon)
times = diffusion.uniform_times(4, 100)
some = keys.per_example(jax.random.key(0), 0, 3)
x = diffusion.sample(denoise, schedule, diffusion.ddim(), times, shape=(2,), keys=some)
assert x.shape == (3, 2)
print("fine")
"""
    assert alone(program) == (0, "fine\n")


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import gen_jax; gen_jax.UNet", "needs flax, of an extra: pip install 'gen-jax[train]'"),
        ("import gen_jax; gen_jax.load", "gen_jax.load needs"),
        ("import gen_jax.train; gen_jax.train('vae_mnist')", "gen-jax[train]"),
        ("from gen_jax.__main__ import run; run()", "gen_jax: the command line needs"),
    ],
)
def test_what_is_missing_is_named_with_its_extra(program, words):
    code, said = alone(program)
    assert code != 0
    assert words in said.splitlines()[-1]
