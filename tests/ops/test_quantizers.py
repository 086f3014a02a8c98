import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.ops import keys as rng
from gen_jax.ops.quantizers import finite_scalar, vector

pytestmark = pytest.mark.slow

Z = jax.random.normal(jax.random.key(1), (16, 4, 4, 5))
KEYS = rng.per_example(jax.random.key(2), 0, 16)


def compiled(quantizer):
    """Compile each function as one program, and not each operation by itself."""
    names = ("init", "quantize", "vectors", "observe", "update")
    return quantizer._replace(**{name: jax.jit(getattr(quantizer, name)) for name in names})


QUANTIZERS = {
    "ema": compiled(vector(8, 5)),
    "gradient": compiled(vector(8, 5, codebook="gradient")),
    "cosine": compiled(vector(8, 5, cosine=True)),
    "residual": compiled(vector(8, 5, levels=3)),
    "residual, gradient": compiled(vector(8, 5, levels=3, codebook="gradient")),
    "finite scalar": compiled(finite_scalar((3, 2, 4, 2, 2))),
}


@pytest.mark.parametrize("name", QUANTIZERS)
def test_every_kind_keeps_the_same_promises(name):
    quantizer = QUANTIZERS[name]
    params, stats = quantizer.init(jax.random.key(0), Z)
    quantized = quantizer.quantize(params, stats, Z)
    assert quantized.z.shape == Z.shape
    levels = () if quantizer.levels == 1 else (quantizer.levels,)
    assert quantized.codes.shape == (16, 4, 4, *levels)
    assert 0 <= int(quantized.codes.min()) <= int(quantized.codes.max()) < quantizer.num_codes
    # Codes are all that is required.
    np.testing.assert_allclose(
        quantizer.vectors(params, stats, quantized.codes), quantized.z, atol=1e-5
    )
    # Straight-through: what the decoder asks for reaches z.
    grad = jax.jit(jax.grad(lambda z: jnp.sum(quantizer.quantize(params, stats, z).z * 3.0)))(Z)
    if name not in ("finite scalar", "cosine"):  # which pass a squashing before
        np.testing.assert_allclose(grad, 3.0, rtol=1e-5)
    assert float(jnp.abs(grad).max()) > 0
    # What is observed adds up.
    observed = quantizer.observe(params, stats, Z, quantized.codes, KEYS)
    parts = [
        quantizer.observe(params, stats, Z[i::4], quantized.codes[i::4], KEYS[i::4])
        for i in range(4)
    ]
    mean = jax.tree.map(lambda *x: sum(x) / 4, *parts)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), observed, mean)
    new, metrics = quantizer.update(stats, observed)
    assert jax.tree.structure(new) == jax.tree.structure(stats)
    assert 1 <= float(metrics["perplexity"]) <= quantizer.num_codes + 1e-3
    assert 0 < float(metrics["codes_used"]) <= 1


def test_the_ema_codebook_moves_to_the_means_and_no_loss_moves_it():
    quantizer = compiled(vector(8, 5, decay=0.0, epsilon=0.0, revive_below=0.0))
    params, stats = quantizer.init(jax.random.key(0), Z)
    assert params == {}
    quantized = quantizer.quantize(params, stats, Z)
    np.testing.assert_array_equal(quantized.codebook_loss, 0)
    new, _ = quantizer.update(stats, quantizer.observe(params, stats, Z, quantized.codes, KEYS))
    for code in range(8):
        mean = Z[quantized.codes == code].mean(axis=0)
        np.testing.assert_allclose(new["averages"]["codebook"][0, code], mean, atol=1e-5)


def test_the_gradient_codebook_moves_by_its_loss():
    quantizer = QUANTIZERS["gradient"]
    params, stats = quantizer.init(jax.random.key(0), Z)

    def loss(params):
        return jnp.sum(quantizer.quantize(params, stats, Z).codebook_loss)

    grad = jax.grad(loss)(params)["codebook"]
    assert grad.shape == (1, 8, 5)
    assert float(jnp.abs(grad).max()) > 0


def test_each_residual_level_learns_what_those_before_left():
    quantizer = compiled(vector(4, 5, levels=2, decay=0.0, epsilon=0.0, revive_below=0.0))
    params, stats = quantizer.init(jax.random.key(0), Z)
    codes = quantizer.quantize(params, stats, Z).codes
    new, _ = quantizer.update(stats, quantizer.observe(params, stats, Z, codes, KEYS))
    left = Z - stats["averages"]["codebook"][0][codes[..., 0]]
    for code in range(4):
        chosen = left[codes[..., 1] == code]
        np.testing.assert_allclose(
            new["averages"]["codebook"][1, code], chosen.mean(axis=0), atol=1e-5
        )


def test_cosine_codebooks_stay_on_the_sphere():
    quantizer = QUANTIZERS["cosine"]
    params, stats = quantizer.init(jax.random.key(0), Z)
    for _ in range(3):
        quantized = quantizer.quantize(params, stats, Z)
        np.testing.assert_allclose(jnp.linalg.norm(quantized.z, axis=-1), 1, rtol=1e-4)
        observed = quantizer.observe(params, stats, Z, quantized.codes, KEYS)
        stats, _ = quantizer.update(stats, observed)
    np.testing.assert_allclose(
        jnp.linalg.norm(stats["averages"]["codebook"], axis=-1), 1, rtol=1e-4
    )


def test_a_collapsed_codebook_comes_back():
    """All but one code lie far away from every vector; a few hundred steps later all are used."""
    quantizer = compiled(vector(64, 5, decay=0.9))
    far = jnp.concatenate([jnp.zeros((1, 5)), 50 + jnp.arange(63.0)[:, None] * jnp.ones((1, 5))])
    _, stats = quantizer.init(jax.random.key(0), Z)
    averages = {**stats["averages"], "codebook": far[None], "sums": far[None] / 64}
    stats = {**stats, "averages": averages}
    _, metrics = quantizer.update(
        stats, quantizer.observe({}, stats, Z, quantizer.quantize({}, stats, Z).codes, KEYS)
    )
    assert float(metrics["perplexity"]) == pytest.approx(1, abs=1e-4)

    @jax.jit
    def step(stats, number):
        z = jax.random.normal(jax.random.key(number), (16, 4, 4, 5))
        keys = rng.per_example(jax.random.key(number), 0, 16)
        codes = quantizer.quantize({}, stats, z).codes
        return quantizer.update(stats, quantizer.observe({}, stats, z, codes, keys))

    for number in range(400):
        stats, metrics = step(stats, number)
    assert float(metrics["codes_used"]) == 1
    assert float(metrics["perplexity"]) > 40


def test_codes_that_are_only_kept_alive_do_not_count_as_used():
    """Twenty of 64 codes have all vectors; the others are moved again and again, to no avail."""
    quantizer = compiled(vector(64, 5))
    _, stats = quantizer.init(jax.random.key(0), Z)
    codes = jnp.arange(16 * 4 * 4).reshape(16, 4, 4) % 20

    @jax.jit
    def step(stats, number):
        keys = rng.per_example(jax.random.key(number), 0, 16)
        return quantizer.update(stats, quantizer.observe({}, stats, Z, codes, keys))

    revived = 0.0
    for number in range(700):
        stats, metrics = step(stats, number)
        revived += float(metrics["codes_revived"])
    assert revived > 1
    assert float(metrics["codes_used"]) == 20 / 64


def test_a_large_codebook_is_begun_and_used_without_a_matrix_of_distances():
    quantizer = vector(65_536, 4, chunk=4096)
    z = jax.ShapeDtypeStruct((4, 32, 32, 4), jnp.float32)

    def run(z):
        params, stats = quantizer.init(jax.random.key(0), z)
        return quantizer.quantize(params, stats, z)

    memory = jax.jit(run).lower(z).compile().memory_analysis().temp_size_in_bytes
    assert memory < 4096 * 65_536 * 4 / 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_codes": 1}, "num_codes: got 1; at least 2 is required"),
        ({"levels": 0}, "levels: got 0; at least 1 is required"),
        ({"decay": 1.0}, r"decay: got 1.0; a number in \[0, 1\) is required"),
        ({"cosine": True, "levels": 2}, "levels: got 2; with cosine 1 is required"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        vector(**{"num_codes": 8, "dim": 4, **options})


def test_too_many_scalars_are_refused():
    with pytest.raises(ValueError, match="make 8,589,934,592 codes; at most 1,048,576"):
        finite_scalar((8,) * 11)
