"""Draw the forward process, linear above cosine: ``python docs/forward_process.py``.

Writes docs/images/forward_process.png: three digits, each under both schedules, at eleven times.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import diffusion as process
from gen_jax.codecs import rgb
from gen_jax.data import open_source
from gen_jax.files import png_bytes, write_file
from gen_jax.ops import keys as rng
from gen_jax.pictures import grid

TIMES = np.linspace(0, 1, 11)


def main() -> None:
    images = open_source("digits", "train", (8, 8, 1)).read(np.array([0, 3, 8]))["image"]
    keys = rng.per_example(jax.random.key(0), 0, len(images))
    codec = rgb()
    x_0 = codec.encode({}, jnp.asarray(images), keys)
    eps = rng.normal(keys, (8, 8, 1))  # the same noise under both schedules
    rows = []
    for example in range(len(images)):
        for schedule in (process.linear_beta(), process.cosine()):
            for t in TIMES:
                x_t = process.diffuse(schedule, x_0, float(t), eps)
                rows.append(codec.decode({}, x_t)[example])
    picture = grid(np.stack(rows), columns=len(TIMES))
    out = Path(__file__).parent / "images" / "forward_process.png"
    write_file(out, png_bytes(picture))
    print(out)


if __name__ == "__main__":
    main()
