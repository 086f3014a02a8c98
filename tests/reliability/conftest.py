import numpy as np
import pytest

from gen_jax.files import png_bytes


@pytest.fixture(scope="session")
def folder_of_images(tmp_path_factory):
    """Forty 8x8 PNG files in two classes."""
    root = tmp_path_factory.mktemp("images")
    for index, image in enumerate(np.random.default_rng(0).integers(0, 256, (40, 8, 8), np.uint8)):
        folder = root / str(index % 2)
        folder.mkdir(exist_ok=True)
        (folder / f"{index:02d}.png").write_bytes(png_bytes(image[..., None]))
    return root
