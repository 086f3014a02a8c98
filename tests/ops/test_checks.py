"""Arrays of the wrong kind are refused in words, where nobody checks annotations."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import diffusion
from gen_jax.evals.frechet import raw_pixels
from gen_jax.evals.reconstruction import mean_squared_error, psnr, ssim
from gen_jax.ops import checks, keys
from gen_jax.typing import Array, Float

# Without the suite's type checker, which would speak first.
PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from gen_jax import codecs, diffusion
from gen_jax.ops import keys
schedule = diffusion.linear_beta()
x, key = jnp.zeros((2, 4, 4, 1)), keys.per_example(jax.random.key(0), 0, 2)
pixels = np.zeros((2, 4, 4, 1), np.uint8)
denoise = diffusion.denoiser(lambda x, t: x, schedule, diffusion.epsilon)
for what in (
    lambda: codecs.rgb().encode({}, x, key),
    lambda: codecs.dequantize().encode({}, x, key),
    lambda: diffusion.diffuse(schedule, pixels, 0.5, x),
    lambda: diffusion.diffuse(schedule, x, jnp.array([1, 999]), x),
    lambda: diffusion.diffuse(schedule, x, 999, x),
    lambda: denoise(pixels, 0.5),
    lambda: denoise(x, jnp.array([1, 999])),
    lambda: diffusion.denoising_loss(
        lambda x, t: x, schedule, diffusion.epsilon, pixels, jnp.ones(2), x
    ),
):
    try:
        what()
    except (TypeError, ValueError) as error:
        print(type(error).__name__, error)
"""


@pytest.mark.slow
def test_public_functions_refuse_arrays_of_the_wrong_kind():
    out = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    image = "TypeError image: got float32; uint8 in [0, 255] is required"
    assert [line.partition(";")[0] for line in out] == [
        image.partition(";")[0],
        image.partition(";")[0],
        "TypeError x_0: got uint8",
        "TypeError t: got int32",
        "ValueError t: got 999",
        "TypeError x: got uint8",
        "TypeError t: got int32",
        "TypeError x_0: got uint8",
    ]


def functions():
    """List the public functions of the mathematics that take arrays of a kind."""
    for room in ("ops", "diffusion", "nn"):
        package = importlib.import_module(f"gen_jax.{room}")
        for found in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"gen_jax.{room}.{found.name}")
            for name in module.__all__:
                function = getattr(module, name)
                if inspect.isfunction(function) and function.__module__ == module.__name__:
                    _, kinds = checks._annotations(function)
                    if kinds:
                        yield function, kinds


WRONG = {
    "Float": (np.uint8, "floating-point"),
    "Int": (np.float32, "whole numbers"),
    "UInt8": (np.float32, "uint8"),
    "Bool": (np.float32, "true or false"),
}


def test_every_public_function_refuses_arrays_of_another_type():
    found = list(functions())
    assert len(found) > 60
    for function, kinds in found:
        assert hasattr(function, "__checked__"), f"{function.__module__}.{function.__name__}"
        for name in kinds:
            kind = kinds[name][0].dtype.__name__
            dtype, words = WRONG.get(kind, (np.uint32, "keys of jax.random.key"))
            if len(kinds[name]) > 1:  # pixels, or numbers
                dtype = np.int32
            given = dict.fromkeys(inspect.signature(function).parameters, None)
            given[name] = np.zeros(2, dtype)
            with pytest.raises(TypeError, match=f"^{name}: got {np.dtype(dtype)}; {words}"):
                function(**given)


def test_shapes_must_agree():
    x, key = jnp.zeros((2, 4)), jax.random.key(0)
    schedule = diffusion.linear_beta(10)
    with pytest.raises(ValueError, match=r"^eps: got \[3, 4\]; \[batch, \*dims\] is required, b"):
        diffusion.diffuse(schedule, x, jnp.full(2, 0.5), jnp.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"^key: got \[2\]; \[\] is required"):
        keys.per_example(jax.random.split(key), 0, 2)

    @checks.checked
    def mix(x: Float[Array, "batch *dims"], t: Float[Array, "batch"] | float) -> Array:
        return x * t

    # NumPy's arrays are as good, and so are Python's numbers.
    np.testing.assert_array_equal(mix(np.ones((2, 4), np.float32), 0.5), np.full((2, 4), 0.5))
    with pytest.raises(ValueError, match=r"t: got \[3\]; \[batch\] is required, beside x \[2, 4\]"):
        mix(np.ones((2, 4), np.float32), np.ones(3, np.float32))
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        mix(x)


def test_measures_take_pixels():
    floats = np.zeros((2, 8, 8, 1))
    for measure in (mean_squared_error, psnr, ssim):
        with pytest.raises(TypeError, match="image: got float64; uint8"):
            measure(floats, floats)
    with pytest.raises(TypeError, match="image: got float64; uint8"):
        raw_pixels(floats)


def test_what_is_right_passes():
    checks.check_floating(a=jnp.zeros(2, jnp.bfloat16), b=np.zeros(2), c=1)
    checks.check_times(0.5)
    checks.check_times(1)
    checks.check_pixels(np.zeros(2, np.uint8))
