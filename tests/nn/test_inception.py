"""Inception of the Fréchet Inception distance: torch's numbers, and no other file's."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.errors import DataError
from gen_jax.evals.features import inception_features
from gen_jax.nn.inception import SIDE, _resize, fold, inception, inception_shapes
from tests.nn.inception_weights import random_weights, some_images


@pytest.mark.nightly  # a large network, compiled
def test_features_are_those_of_torch():
    """Random weights through the same network in torch 2.14's operations, written apart."""
    stored = np.load(Path(__file__).parent / "inception_torch.npz")
    images = jnp.asarray(some_images().transpose(0, 2, 3, 1))
    features, spatial = jax.jit(inception)(fold(random_weights()), images)
    assert (features.shape, spatial.shape) == ((2, 2048), (2, 2023))
    np.testing.assert_allclose(features[:, ::32], stored["features"], atol=1e-4)
    np.testing.assert_allclose(spatial[:, ::32], stored["spatial"], atol=1e-4)


def test_images_are_resized_as_tensorflow_1_did():
    x = jnp.arange(SIDE * SIDE, dtype=jnp.float32).reshape(1, SIDE, SIDE, 1)
    np.testing.assert_allclose(_resize(x), x, rtol=1e-6)  # of the same size as they are
    ramp = jnp.broadcast_to(jnp.arange(4.0)[None, :, None, None], (1, 4, 4, 1))
    made = np.asarray(_resize(ramp))[0, :, 0, 0]
    np.testing.assert_allclose(made, np.minimum(np.arange(SIDE) * 4 / SIDE, 3), atol=1e-5)


def test_the_network_has_the_parameters_of_inception_without_its_heads():
    # 21.8 million, as torchvision's without the last and the auxiliary classifier.
    kernels = sum(int(np.prod(shape)) for shape in inception_shapes().values())
    assert 21_700_000 < kernels < 21_800_000
    tensors = random_weights()
    name = "Mixed_7c.branch3x3_2b"
    with pytest.raises(ValueError, match=rf"{name}\.conv\.weight: got nothing"):
        fold({k: v for k, v in tensors.items() if k != f"{name}.conv.weight"})
    with pytest.raises(ValueError, match=rf"{name}\.bn\.bias: missing"):
        fold({k: v for k, v in tensors.items() if k != f"{name}.bn.bias"})


def test_another_file_is_no_fid(tmp_path):
    path = tmp_path / "pt_inception-2015-12-05-6726825d.pth"
    with pytest.raises(DataError, match="cannot be read"):
        inception_features(path)
    path.write_bytes(b"other weights")
    with pytest.raises(DataError, match="6726825d is required"):
        inception_features(path)
