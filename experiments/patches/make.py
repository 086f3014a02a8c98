"""Make the pictures of this record from scikit-learn's two photographs.

    python experiments/patches/make.py --out pictures

``china.png`` and ``flower.png``, a mask of a hole, and ``film.gif``: a window that wanders over
the photograph of China, 16 frames.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

from gen_jax.files import film_bytes, png_bytes, write_file

SIZE = (96, 64)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    for name in ("china", "flower"):
        photograph = Image.fromarray(load_sample_image(f"{name}.jpg"))
        small = photograph.resize(SIZE, Image.Resampling.LANCZOS)
        write_file(out / f"{name}.png", png_bytes(np.asarray(small)))
    mask = np.full((SIZE[1], SIZE[0], 1), 255, np.uint8)
    mask[8:26, 60:80] = 0
    write_file(out / "mask.png", png_bytes(mask))
    wide = np.asarray(Image.fromarray(load_sample_image("china.jpg")).resize((96, 64)))
    turns = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    places = [(round(16 + 12 * np.sin(2 * t)), round(24 + 20 * np.cos(t))) for t in turns]
    frames = [wide[row : row + 32, column : column + 48] for row, column in places]
    write_file(out / "film.gif", film_bytes(frames, 80))


if __name__ == "__main__":
    main()
