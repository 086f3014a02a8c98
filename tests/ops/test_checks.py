"""Arrays of the wrong kind are refused in words, where nobody checks annotations."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.ops import checks

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


def test_what_is_right_passes():
    checks.check_floating(a=jnp.zeros(2, jnp.bfloat16), b=np.zeros(2), c=1)
    checks.check_times(0.5)
    checks.check_times(1)
    checks.check_pixels(np.zeros(2, np.uint8))
