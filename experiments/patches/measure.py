"""Measure how faithful and how different GPNN's pictures are.

    python experiments/patches/measure.py --image pictures/china.png

The source comes back without noise; with it, diversity is the deviation of each pixel over 20
results, over that of the source's pixels (Shaham et al. 2019, section 3).
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.launch.commands.patches import read_picture
from gen_jax.patches import Settings, generate


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--num", type=int, default=20)
    given = parser.parse_args()
    source = read_picture(given.image, 128)
    x = jnp.asarray(source, jnp.float32) / 255
    same = generate(jax.random.key(0), x, Settings(sigma=0.0))
    equal = np.array_equal(np.round(np.asarray(same) * 255).astype(np.uint8), source)
    print(f"sigma 0: the source, {'to the last gray level' if equal else 'with differences'}")
    for sigma in (0.75, 1.5):
        began = time.perf_counter()
        made = [
            np.asarray(generate(jax.random.key(seed), x, Settings(sigma=sigma)))
            for seed in range(given.num)
        ]
        seconds = (time.perf_counter() - began) / given.num
        diversity = np.std(made, axis=0).mean() / np.asarray(x).std()
        print(f"sigma {sigma}: diversity {diversity:.3f}, {seconds:.1f} s a picture")


if __name__ == "__main__":
    main()
