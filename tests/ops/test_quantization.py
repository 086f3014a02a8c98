import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.cluster.vq import kmeans2

from gen_jax.ops import keys as rng, quantization as vq

pytestmark = pytest.mark.slow

CODEBOOK = jax.random.normal(jax.random.key(0), (37, 5))
Z = jax.random.normal(jax.random.key(1), (8, 4, 4, 5))


def brute_force(z, codebook):
    z, codebook = np.asarray(z, np.float64), np.asarray(codebook, np.float64)
    return np.argmin(np.sum((z[..., None, :] - codebook) ** 2, axis=-1), axis=-1)


@pytest.mark.parametrize("chunk", [1, 5, 36, 37, 4096])
def test_the_nearest_code_is_found_in_chunks_of_any_size(chunk):
    codes = vq.nearest_code(Z, CODEBOOK, chunk)
    np.testing.assert_array_equal(codes, brute_force(Z, CODEBOOK))


def test_of_equals_the_first_is_taken():
    codebook = jnp.concatenate([CODEBOOK, CODEBOOK])
    np.testing.assert_array_equal(vq.nearest_code(Z, codebook, 10), brute_force(Z, CODEBOOK))


def test_no_matrix_of_all_distances_is_built():
    shape = jax.ShapeDtypeStruct((4096, 8), jnp.float32)
    codebook = jax.ShapeDtypeStruct((65_536, 8), jnp.float32)
    compiled = jax.jit(lambda z, e: vq.nearest_code(z, e, 1024)).lower(shape, codebook).compile()
    memory = compiled.memory_analysis().temp_size_in_bytes
    assert memory < 4096 * 65_536 * 4 / 10


def test_the_gradient_of_straight_through_is_the_identity_s():
    def total(z):
        quantized = vq.vector_quantize(z, CODEBOOK)
        return jnp.sum(jnp.sin(quantized.z)), quantized.z

    grad, vectors = jax.grad(total, has_aux=True)(Z)
    np.testing.assert_allclose(grad, jnp.cos(vectors), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(vectors, CODEBOOK[vq.nearest_code(Z, CODEBOOK)], atol=1e-6)


def test_each_loss_moves_its_own_side():
    def loss(name):
        return lambda z, e: jnp.sum(getattr(vq.vector_quantize(z, e), name))

    for name, moved in (("codebook_loss", 1), ("commitment_loss", 0)):
        grads = jax.grad(loss(name), argnums=(0, 1))(Z, CODEBOOK)
        assert np.abs(grads[moved]).max() > 0
        assert np.abs(grads[1 - moved]).max() == 0
    quantized = vq.vector_quantize(Z, CODEBOOK)
    expected = np.sum((Z - CODEBOOK[quantized.codes]) ** 2, axis=-1).mean(axis=(1, 2))
    np.testing.assert_allclose(quantized.codebook_loss, expected, rtol=1e-5)
    np.testing.assert_allclose(quantized.commitment_loss, expected, rtol=1e-5)


def test_with_decay_zero_the_codebook_is_exactly_the_centroids_of_k_means():
    averages = vq.init_ema(CODEBOOK)
    flat = np.asarray(Z, np.float64).reshape(-1, 5)
    for _ in range(3):
        codes = vq.nearest_code(Z, averages["codebook"])
        observed = vq.observe_codes(Z, codes, 37)
        averages = vq.ema_codebook(averages, observed, decay=0.0, epsilon=0.0)
    expected, _ = kmeans2(
        flat, np.asarray(CODEBOOK, np.float64), iter=3, minit="matrix", missing="warn"
    )
    np.testing.assert_allclose(averages["codebook"], expected, atol=1e-5)


def test_statistics_of_parts_average_to_those_of_the_whole():
    codes = vq.nearest_code(Z, CODEBOOK)
    whole = vq.observe_codes(Z, codes, 37)
    parts = [vq.observe_codes(Z[i::4], codes[i::4], 37) for i in range(4)]
    mean = jax.tree.map(lambda *x: sum(x) / 4, *parts)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole, mean)
    # Perplexity is not additive: of the parts it is smaller.
    assert np.mean([vq.perplexity(p["counts"]) for p in parts]) < 0.9 * vq.perplexity(
        whole["counts"]
    )


def test_moving_averages_forget_and_smoothing_spares_rare_codes():
    averages = vq.init_ema(CODEBOOK)
    observed = {"counts": jnp.zeros(37).at[3].set(1.0), "sums": jnp.zeros((37, 5)).at[3].set(2.0)}
    for _ in range(500):
        averages = vq.ema_codebook(averages, observed, decay=0.9)
    np.testing.assert_allclose(averages["codebook"][3], 2.0, rtol=1e-3)
    assert np.all(np.isfinite(averages["codebook"]))
    assert float(jnp.sum(averages["counts"])) == pytest.approx(1, rel=1e-4)


def half_dead():
    dead = jnp.arange(37) >= 20
    return dead, {
        "counts": jnp.where(dead, 0.0, 1 / 20),
        "sums": jnp.where(dead[:, None], 0.0, CODEBOOK / 20),
        "codebook": CODEBOOK,
    }


def test_dead_codes_come_back_with_new_statistics():
    dead, averages = half_dead()
    candidates = np.asarray(Z).reshape(-1, 5)
    moved_so_far = np.zeros(37, bool)
    for number in range(30):
        keys = rng.per_example(jax.random.key(number), 0, 8)
        slots = vq.observe_candidates(keys, Z, 37)
        revived, moved = vq.revive(averages, slots)
        moved = np.asarray(moved)
        assert not np.any(moved & ~np.asarray(dead))
        assert not np.any(moved & moved_so_far), "new statistics: not dead again at once"
        for name in averages:
            np.testing.assert_array_equal(revived[name][~moved], averages[name][~moved])
        new = np.asarray(revived["codebook"])[moved]
        distance = np.abs(new[:, None] - candidates[None]).max(axis=-1)
        np.testing.assert_allclose(distance.min(axis=1), 0, atol=1e-6)
        np.testing.assert_allclose(
            np.asarray(revived["sums"])[moved] * 37, revived["codebook"][moved], rtol=1e-5
        )
        averages, moved_so_far = revived, moved_so_far | moved
    np.testing.assert_array_equal(moved_so_far, dead)


@pytest.mark.parametrize("batch", [8, 256, 4096])
def test_candidates_are_single_vectors_however_large_the_batch_is(batch):
    """Means of several would lie near the middle, where no vector is."""
    z = vq.normalize(jax.random.normal(jax.random.key(0), (batch, 4, 5)))
    _, averages = half_dead()
    moved_at_all = 0
    for number in range(5):
        slots = vq.observe_candidates(rng.per_example(jax.random.key(number), 0, batch), z, 37)
        revived, moved = vq.revive(averages, slots)
        lengths = jnp.linalg.norm(revived["codebook"][moved], axis=-1)
        np.testing.assert_allclose(lengths, 1, rtol=1e-4)
        moved_at_all += int(moved.sum())
    assert moved_at_all > 5


def test_candidates_of_parts_average_to_those_of_the_whole():
    keys = rng.per_example(jax.random.key(9), 0, 8)
    whole = vq.observe_candidates(keys, Z, 37)
    parts = [vq.observe_candidates(keys[i::4], Z[i::4], 37) for i in range(4)]
    mean = jax.tree.map(lambda *x: sum(x) / 4, *parts)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole, mean)


def test_k_means_plus_plus_finds_every_cluster():
    centers = 10 * jax.random.normal(jax.random.key(4), (20, 3))
    noise = 0.01 * jax.random.normal(jax.random.key(5), (50, 20, 3))
    vectors = (centers[None] + noise).reshape(-1, 3)
    codebook = vq.codebook_from(jax.random.key(6), vectors, 20)
    assert len(np.unique(vq.nearest_code(centers, codebook))) == 20
    # Fewer different vectors than codes: no code is lost to a nan.
    same = vq.codebook_from(jax.random.key(7), jnp.ones((4, 3)), 8)
    np.testing.assert_allclose(same, 1, atol=1e-3)
    large = vq.codebook_from(jax.random.key(8), vectors, 5000)
    assert large.shape == (5000, 3)


def test_cosine_codes():
    z, codebook = vq.normalize(Z), vq.normalize(CODEBOOK)
    np.testing.assert_allclose(jnp.linalg.norm(z, axis=-1), 1, rtol=1e-5)
    cosine = np.einsum("bijd,kd->bijk", np.asarray(z), np.asarray(codebook))
    np.testing.assert_array_equal(vq.nearest_code(z, codebook), cosine.argmax(axis=-1))


def test_residual_levels_leave_less_and_less():
    codebooks = jnp.stack([CODEBOOK, 0.3 * CODEBOOK, 0.1 * CODEBOOK])
    errors = []
    for levels in (1, 2, 3):
        quantized = vq.residual(Z, codebooks[:levels])
        assert quantized.codes.shape == (8, 4, 4, levels)
        added = sum(codebooks[i][quantized.codes[..., i]] for i in range(levels))
        np.testing.assert_allclose(quantized.z, added, atol=1e-5)
        errors.append(float(jnp.mean((Z - quantized.z) ** 2)))
    assert errors == sorted(errors, reverse=True)
    one, plain = vq.residual(Z, codebooks[:1]), vq.vector_quantize(Z, CODEBOOK)
    np.testing.assert_array_equal(one.codes[..., 0], plain.codes)
    np.testing.assert_allclose(one.commitment_loss, plain.commitment_loss, rtol=1e-5)
    grad = jax.grad(lambda z: jnp.sum(vq.residual(z, codebooks).z ** 2))(Z)
    np.testing.assert_allclose(grad, 2 * vq.residual(Z, codebooks).z, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("levels", [(3,), (8, 5, 5), (4, 2, 7, 6)])
def test_finite_scalars_count_through_all_codes_and_back(levels):
    total = int(np.prod(levels))
    vectors = vq.finite_scalar_vectors(jnp.arange(total), levels)
    assert float(jnp.abs(vectors).max()) <= 1
    assert len(np.unique(np.asarray(vectors), axis=0)) == total
    np.testing.assert_array_equal(vq.finite_scalar_codes(vectors, levels), np.arange(total))
    z = 4 * jax.random.normal(jax.random.key(0), (64, 500, len(levels)))
    quantized = vq.finite_scalar(z, levels)
    np.testing.assert_allclose(
        vq.finite_scalar_vectors(quantized.codes, levels), quantized.z, atol=1e-6
    )
    reached = [len(np.unique(quantized.z[..., i])) for i in range(len(levels))]
    assert reached == list(levels)
    grad = jax.grad(lambda z: jnp.sum(vq.finite_scalar(z, levels).z))(0.1 * z)
    assert float(jnp.min(jnp.abs(grad))) > 0
    # Zero is a level, or next to one: an odd number of levels keeps it.
    middle = vq.finite_scalar(jnp.zeros((1, len(levels))), levels).z[0]
    np.testing.assert_allclose(middle, [0.0] * len(levels), atol=1e-6 + (2 in levels))


def test_finite_scalars_refuse_what_cannot_be():
    with pytest.raises(ValueError, match=r"got \(3, 1\); 2 whole numbers from 2 are required"):
        vq.finite_scalar(jnp.zeros((1, 2)), (3, 1))


LOGITS = jnp.log(jnp.array([0.1, 0.2, 0.3, 0.4]))
KEYS = rng.per_example(jax.random.key(0), 0, 4)


def draws(temperature, hard):
    logits = jnp.broadcast_to(LOGITS, (4, 5000, 4))
    return vq.gumbel_softmax(KEYS, logits, temperature, hard=hard)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
def test_gumbel_draws_have_the_categorical_s_frequencies(temperature):
    hard = draws(temperature, hard=True)
    np.testing.assert_allclose(jnp.sum(hard, axis=-1), 1, rtol=1e-6)
    frequency = jnp.mean(jnp.round(hard), axis=(0, 1))
    error = 4 * 0.5 / np.sqrt(20_000)
    np.testing.assert_allclose(frequency, np.exp(LOGITS), atol=error)


def test_the_relaxation_becomes_one_hot_as_the_temperature_falls():
    sizes = [
        float(jnp.mean(jnp.max(draws(t, hard=False), axis=-1))) for t in (10.0, 1.0, 0.1, 1e-3)
    ]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 0.999
    np.testing.assert_allclose(draws(1e-4, hard=False), draws(1e-4, hard=True), atol=0.51)
    assert float(jnp.mean(jnp.abs(draws(1e-4, hard=False) - draws(1e-4, hard=True)))) < 1e-3
    np.testing.assert_allclose(draws(1e4, hard=False), 0.25, atol=1e-3)


def test_the_straight_through_gradient_is_the_relaxation_s():
    weights = jnp.arange(4.0)

    def grad(hard):
        def total(logits):
            sample = vq.gumbel_softmax(KEYS, logits, 0.7, hard=hard)
            return jnp.sum(sample * weights[None, None])

        return jax.grad(total)(jnp.broadcast_to(LOGITS, (4, 10, 4)))

    np.testing.assert_allclose(grad(True), grad(False), rtol=1e-5, atol=1e-7)
    assert np.abs(grad(False)).max() > 0.01


def test_kl_to_uniform():
    assert float(vq.kl_to_uniform(jnp.zeros(8))) == pytest.approx(0, abs=1e-6)
    sure = jnp.zeros(8).at[2].set(100.0)
    assert float(vq.kl_to_uniform(sure)) == pytest.approx(np.log(8), rel=1e-5)


def test_perplexity_and_use():
    assert float(vq.perplexity(jnp.ones(16))) == pytest.approx(16, rel=1e-5)
    assert float(vq.perplexity(jnp.zeros(16).at[3].set(7.0))) == pytest.approx(1, rel=1e-5)
    counts = jnp.array([0.0, 1.0, 2.0, 1e-6])
    assert float(vq.share_used(counts)) == 0.75
    assert float(vq.share_used(counts, threshold=0.01)) == 0.5


def test_codes_far_from_0_are_told_apart():
    """63 % were wrong: |e|^2 - 2 z e of numbers around 1000 keeps no digit of their distances."""
    random = np.random.default_rng(0)
    codebook = random.normal(1000, 0.5, (64, 8)).astype(np.float32)
    z = random.normal(1000, 0.5, (500, 8)).astype(np.float32)
    distance = ((z[:, None].astype(np.float64) - codebook[None]) ** 2).sum(-1)
    found = vq.nearest_code(jnp.asarray(z), jnp.asarray(codebook))
    np.testing.assert_array_equal(found, distance.argmin(1))


def test_a_temperature_of_0_is_refused():
    keys = jax.random.split(jax.random.key(0), 2)
    with pytest.raises(ValueError, match="temperature: got 0; a number above 0 is required"):
        vq.gumbel_softmax(keys, jnp.zeros((2, 3)), 0, hard=True)
