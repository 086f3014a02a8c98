"""VAR's quantizer: matrices as PyTorch's, sums that end at the whole, and plain quantization."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.ops import keys as rng
from gen_jax.ops.multi_scale import (
    area_matrix,
    bicubic_matrix,
    enlarge,
    multi_scale,
    num_codes_of,
    shrink,
)
from gen_jax.ops.quantizers import vector

SCALES = (1, 2, 4)
Z = jax.random.normal(jax.random.key(0), (6, 4, 4, 3))


def made(scales=SCALES, **options):
    quantizer = multi_scale(scales, 8, 3, **options)
    params, stats = quantizer.init(jax.random.key(1), Z)
    return quantizer, params, stats


def test_averages_and_bicubic_weights():
    np.testing.assert_allclose(area_matrix(2, 5), [[1 / 3] * 3 + [0] * 2, [0] * 2 + [1 / 3] * 3])
    for large, small in ((7, 5), (4, 2), (5, 1), (3, 3)):
        matrix = bicubic_matrix(large, small)
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
        np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-12)
    np.testing.assert_allclose(bicubic_matrix(3, 3), np.eye(3), atol=1e-12)
    # By hand, of Keys' kernel with a = -0.75 at 0.25, 0.75, 1.25 and 1.75 from the middle.
    kernel = [0.87890625, 0.26171875, -0.10546875, -0.03515625]
    np.testing.assert_allclose(
        bicubic_matrix(8, 4)[3, :4], [kernel[2], kernel[0], kernel[1], kernel[3]]
    )


@pytest.mark.parity
def test_matrices_are_torch_s():
    torch = pytest.importorskip("torch")
    x = torch.randn(2, 3, 7, 7, dtype=torch.float64)
    for small in (1, 2, 3, 5):
        down = torch.nn.functional.interpolate(x, (small, small), mode="area")
        m = area_matrix(small, 7)
        np.testing.assert_allclose(np.einsum("ij,bcjk,lk->bcil", m, x, m), down, atol=1e-12)
        up = torch.nn.functional.interpolate(down, (7, 7), mode="bicubic")
        m = bicubic_matrix(7, small)
        np.testing.assert_allclose(np.einsum("ij,bcjk,lk->bcil", m, down, m), up, atol=1e-12)


def test_sums_go_from_coarse_to_fine_and_end_at_the_whole():
    quantizer, params, stats = made()
    quantized = quantizer.quantize(params, stats, Z)
    codes = quantized.codes
    assert codes.shape == (6, num_codes_of(SCALES)) == (6, 21)
    whole = quantizer.vectors(params, stats, codes)
    np.testing.assert_allclose(whole, quantized.z, atol=1e-5)
    errors = [
        float(jnp.mean((quantizer.partial(params, stats, codes, num) - Z) ** 2))
        for num in (1, 2, 3)
    ]
    assert errors[0] > errors[1] > errors[2]
    # Codes of later scales say nothing of earlier sums.
    np.testing.assert_array_equal(
        quantizer.partial(params, stats, codes.at[:, 5:].set(0), 2),
        quantizer.partial(params, stats, codes, 2),
    )
    np.testing.assert_allclose(shrink(enlarge(jnp.ones((1, 2, 2, 3)), 4), 1), 1, atol=1e-6)


def test_one_scale_without_phi_is_a_plain_quantizer():
    quantizer, params, stats = made((4,), num_phi=0)
    plain = vector(8, 3)
    plain_stats = {**stats, "averages": jax.tree.map(lambda x: x[None], stats["averages"])}
    ours, theirs = quantizer.quantize(params, stats, Z), plain.quantize({}, plain_stats, Z)
    np.testing.assert_array_equal(ours.codes, theirs.codes.reshape(6, -1))
    np.testing.assert_allclose(ours.z, theirs.z, atol=1e-6)
    np.testing.assert_allclose(ours.commitment_loss, theirs.commitment_loss, rtol=1e-5)


def test_each_scale_has_as_many_votes_and_reports_its_own_use():
    quantizer, params, stats = made()
    keys = rng.per_example(jax.random.key(2), 0, 6)
    codes = quantizer.quantize(params, stats, Z).codes
    seen = quantizer.observe(params, stats, Z, codes, keys)
    np.testing.assert_allclose(seen["counts"].sum(), 1, rtol=1e-6)
    first = np.bincount(np.asarray(codes[:, 0]), minlength=8) / 6
    np.testing.assert_allclose(seen["scales"][0], first, atol=1e-6)
    np.testing.assert_allclose(seen["counts"], seen["scales"].mean(axis=0), atol=1e-6)

    @jax.jit
    def forgotten(stats):  # the average that it began with
        return jax.lax.scan(lambda s, _: quantizer.update(s, seen), stats, None, length=1000)

    metrics = forgotten(stats)[1]
    used = [float(metrics[f"codes_used_{side}x{side}"][-1]) for side in SCALES]
    wanted = [len(np.unique(part)) / 8 for part in np.split(np.asarray(codes), (1, 5), axis=1)]
    assert used == pytest.approx(wanted, abs=0.01)


@pytest.mark.parametrize("scales", [(), (2, 1), (0, 2), (2, 2)])
def test_scales_must_grow(scales):
    with pytest.raises(ValueError, match="sides from 1 that grow are required"):
        multi_scale(scales, 8, 3)
