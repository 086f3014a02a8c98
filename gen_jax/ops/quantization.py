"""Discrete codes: nearest neighbors in a codebook, its statistics, and relaxations.

Vectors are [batch, *grid, dim] and codes int32 [batch, *grid]. What is additive over the batch (see
:func:`observe_codes`) is given as batch means, so that a codebook learned from moving averages is
that of the global batch on any number of devices.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gen_jax.ops.checks import checked
from gen_jax.typing import Array, Bool, Float, Int, Key, Keys, Scalar, ScalarLike

__all__ = [
    "Quantized",
    "code_shares",
    "codebook_from",
    "codes_to_vectors",
    "ema_codebook",
    "finite_scalar",
    "finite_scalar_codes",
    "finite_scalar_vectors",
    "gumbel_softmax",
    "init_ema",
    "kl_to_uniform",
    "nearest_code",
    "normalize",
    "observe_candidates",
    "observe_codes",
    "perplexity",
    "residual",
    "revive",
    "share_used",
    "straight_through",
    "vector_quantize",
]

# In memory at once, 256 MiB of them.
MAX_DISTANCES = 2**26
# Of slots for vectors that dead codes may move to.
NUM_TABLES = 6
# A codebook this large is begun from random vectors: k-means++ draws one code after another.
MAX_PLUS_PLUS = 4096


class Quantized(NamedTuple):
    """What every quantizer gives.

    ``z`` [batch, *grid, dim] is what the decoder sees, with a gradient for the encoder; ``codes``
    [batch, *grid], or [batch, *grid, levels] of several codebooks. ``codebook_loss`` and
    ``commitment_loss`` [batch] are squared errors, sums over the vector and means over the grid; 0
    where a quantizer has none.
    """

    z: Array
    codes: Array
    codebook_loss: Array
    commitment_loss: Array


@checked
def straight_through(
    z: Float[Array, "*dims"], quantized: Float[Array, "*dims"]
) -> Float[Array, "*dims"]:
    """Return ``quantized`` forward, and ``z`` the identity's gradient (Bengio et al. 2013)."""
    return z + jax.lax.stop_gradient(quantized - z)


@checked
def normalize(z: Float[Array, "*dims dim"]) -> Float[Array, "*dims dim"]:
    """Scale vectors to length 1: nearest neighbors are then those of the largest cosine."""
    return z * jax.lax.rsqrt(jnp.maximum(jnp.sum(z**2, axis=-1, keepdims=True), 1e-12))


@checked
def nearest_code(
    z: Float[Array, "*dims dim"], codebook: Float[Array, "codes dim"], chunk: int = 4096
) -> Int[Array, "*dims"]:
    """Find argmin_k |z - e_k|^2, the first of equals, with at most ``chunk`` codes at a time.

    Memory is that of [vectors, chunk] distances and not [vectors, codes]; of very many vectors the
    chunk is smaller still.
    """
    size, dim = codebook.shape
    # Seen from their center: of codes far from 0 the squares would lose what tells them apart.
    center = jnp.mean(jax.lax.stop_gradient(codebook), axis=0, keepdims=True)
    flat = jax.lax.stop_gradient(z).reshape(-1, dim) - center
    chunk = min(chunk, size, max(64, MAX_DISTANCES // len(flat)))
    padded = jnp.pad(jax.lax.stop_gradient(codebook) - center, ((0, -size % chunk), (0, 0)))
    parts = padded.reshape(-1, chunk, dim)

    def look(
        best: tuple[Array, Array], part: tuple[Array, Array]
    ) -> tuple[tuple[Array, Array], None]:
        first, codes = part
        # |z|^2 is the same for all codes. HIGHEST, because a rounded product swaps near neighbors.
        products = jnp.matmul(flat, codes.T, precision=jax.lax.Precision.HIGHEST)
        distance = jnp.sum(codes**2, axis=1)[None] - 2 * products
        distance = jnp.where((first + jnp.arange(chunk))[None] < size, distance, jnp.inf)
        index = jnp.argmin(distance, axis=1)
        least = jnp.min(distance, axis=1)
        closer = least < best[0]
        return (
            jnp.where(closer, least, best[0]),
            jnp.where(closer, first + index.astype(jnp.int32), best[1]),
        ), None

    start = (jnp.full(len(flat), jnp.inf, flat.dtype), jnp.zeros(len(flat), jnp.int32))
    firsts = jnp.arange(len(parts), dtype=jnp.int32) * chunk
    (_, codes), _ = jax.lax.scan(look, start, (firsts, parts))
    return codes.reshape(z.shape[:-1])


@checked
def codes_to_vectors(
    codes: Int[Array, "*dims"], codebook: Float[Array, "codes dim"]
) -> Float[Array, "*dims dim"]:
    """Look codes up."""
    return jnp.take(codebook, codes, axis=0)


@checked
def vector_quantize(
    z: Float[Array, "batch *grid dim"], codebook: Float[Array, "codes dim"], chunk: int = 4096
) -> Quantized:
    """Replace each vector by its nearest code (van den Oord et al. 2017, Eq. 1-3).

    The codebook loss |sg(z) - e|^2 moves codes to vectors, the commitment loss |z - sg(e)|^2
    vectors to codes. With a codebook from moving averages only the second is used.
    """
    codes = nearest_code(z, codebook, chunk)
    vectors = codes_to_vectors(codes, codebook)
    return Quantized(
        straight_through(z, vectors),
        codes,
        _squared_error(vectors, jax.lax.stop_gradient(z)),
        _squared_error(z, jax.lax.stop_gradient(vectors)),
    )


def _squared_error(a: Array, b: Array) -> Float[Array, "batch"]:
    return jnp.mean(jnp.sum((a - b) ** 2, axis=-1).reshape(len(a), -1), axis=1)


@checked
def residual(
    z: Float[Array, "batch *grid dim"],
    codebooks: Float[Array, "levels codes dim"],
    chunk: int = 4096,
) -> Quantized:
    """Quantize what the level before has left over, level by level (Lee et al. 2022, Eq. 4).

    Losses are sums over levels, each of the vectors added up so far against z.
    """

    def level(
        carry: tuple[Array, Array, Array], codebook: Array
    ) -> tuple[tuple[Array, Array, Array], Array]:
        total, codebook_loss, commitment_loss = carry
        codes = nearest_code(z - total, codebook, chunk)
        # Gradients reach each codebook through its own addition alone.
        total = jax.lax.stop_gradient(total) + codes_to_vectors(codes, codebook)
        codebook_loss += _squared_error(total, jax.lax.stop_gradient(z))
        commitment_loss += _squared_error(z, jax.lax.stop_gradient(total))
        return (total, codebook_loss, commitment_loss), codes

    zero = jnp.zeros(len(z), z.dtype)
    (total, codebook_loss, commitment_loss), codes = jax.lax.scan(
        level, (jnp.zeros_like(z), zero, zero), codebooks
    )
    return Quantized(
        straight_through(z, total), jnp.moveaxis(codes, 0, -1), codebook_loss, commitment_loss
    )


@checked
def finite_scalar(z: Float[Array, "batch *grid dim"], levels: Sequence[int]) -> Quantized:
    """Round each element to one of a few levels in [-1, 1] (Mentzer et al. 2024, section 3).

    There is no codebook to learn and none to collapse: every product of levels is a code.

    Args:
        z: as many elements a vector as there are ``levels``; any real numbers.
        levels: how many values each element may have, at least 2.

    Raises:
        ValueError: if the numbers of elements differ, or a level is below 2.
    """
    counts = _levels(levels, z.shape[-1])
    # An even number of levels lies half a step aside; the shift undoes that for z = 0, but of two
    # levels, between which 0 is the border.
    half = (counts - 1) * (1 - 1e-3) / 2
    offset = jnp.where(counts % 2 == 0, 0.5, 0.0)
    shift = jnp.arctanh(jnp.where(counts == 2, 0.0, offset / half))
    ones = (1,) * (z.ndim - 1)
    half, offset, shift = (x.reshape(*ones, -1) for x in (half, offset, shift))
    bounded = jnp.tanh(z + shift) * half - offset
    steps = straight_through(bounded, jnp.round(bounded))
    vectors = steps / jnp.reshape(counts // 2, (*ones, -1))
    zero = jnp.zeros(len(z), z.dtype)
    return Quantized(vectors, finite_scalar_codes(vectors, levels), zero, zero)


@checked
def finite_scalar_codes(z: Float[Array, "*dims dim"], levels: Sequence[int]) -> Int[Array, "*dims"]:
    """Return the number of each vector of :func:`finite_scalar`; the first element is fastest."""
    counts = _levels(levels, z.shape[-1])
    ones = (1,) * (z.ndim - 1)
    halves = jnp.reshape(counts // 2, (*ones, -1))
    digits = jnp.round(z * halves + halves).astype(jnp.int32)
    return jnp.sum(digits * jnp.reshape(_bases(levels), (*ones, -1)), axis=-1)


@checked
def finite_scalar_vectors(
    codes: Int[Array, "*dims"], levels: Sequence[int]
) -> Float[Array, "*dims dim"]:
    """Return the vectors of codes: the inverse of :func:`finite_scalar_codes`."""
    counts = _levels(levels, len(levels))
    ones = (1,) * codes.ndim
    counts = counts.reshape(*ones, -1)
    digits = codes[..., None] // jnp.reshape(_bases(levels), (*ones, -1)) % counts
    return (digits - counts // 2).astype(jnp.float32) / (counts // 2)


def _levels(levels: Sequence[int], dim: int) -> Int[Array, "dim"]:
    if len(levels) != dim or min(levels) < 2:
        raise ValueError(f"levels: got {tuple(levels)}; {dim} whole numbers from 2 are required")
    return jnp.array(levels, jnp.int32)


def _bases(levels: Sequence[int]) -> Int[Array, "dim"]:
    return jnp.array([math.prod(levels[:i]) for i in range(len(levels))], jnp.int32)


@checked
def gumbel_softmax(
    keys: Keys, logits: Float[Array, "batch *grid codes"], temperature: ScalarLike, *, hard: bool
) -> Float[Array, "batch *grid codes"]:
    """Draw relaxed one-hot vectors, softmax((logits + Gumbel noise) / temperature).

    As the temperature falls to 0 they become exact draws of the categorical (Jang et al. 2017;
    Maddison et al. 2017).

    Args:
        keys: one an example.
        logits: unnormalized log-probabilities.
        temperature: above 0; may be traced, a function of the step.
        hard: give the nearest one-hot vector forward and the relaxation's gradient
            (straight-through Gumbel).

    Raises:
        ValueError: for a temperature that is not above 0, where it is a number.
    """
    if isinstance(temperature, (int, float)) and not temperature > 0:
        raise ValueError(f"temperature: got {temperature}; a number above 0 is required")
    noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:], logits.dtype))(keys)
    soft = jax.nn.softmax((logits + noise) / temperature, axis=-1)
    if not hard:
        return soft
    one_hot = jax.nn.one_hot(jnp.argmax(soft, axis=-1), logits.shape[-1], dtype=logits.dtype)
    return straight_through(soft, one_hot)


@checked
def kl_to_uniform(logits: Float[Array, "*dims codes"]) -> Float[Array, "*dims"]:
    """Compute KL(softmax(logits) || uniform) = log K - entropy, in nats."""
    log_q = jax.nn.log_softmax(logits, axis=-1)
    return jnp.sum(jnp.exp(log_q) * log_q, axis=-1) + math.log(logits.shape[-1])


@checked
def code_shares(codes: Int[Array, "*dims"], num_codes: int) -> Float[Array, "codes"]:
    """Return the share of a batch's vectors that each code has; additive, for ``observed``."""
    index = codes.reshape(-1)
    return jnp.zeros(num_codes).at[index].add(1.0) / index.size


@checked
def observe_codes(
    z: Float[Array, "batch *grid dim"], codes: Int[Array, "batch *grid"], num_codes: int
) -> Mapping[str, Array]:
    """Average a batch's statistics over its vectors; they are additive, for ``observed``.

    Returns:
        ``counts`` [codes], the share of vectors that each code has, and ``sums`` [codes, dim], the
        sum of its vectors over the number of all.
    """
    flat = jax.lax.stop_gradient(z).reshape(-1, z.shape[-1])
    sums = jnp.zeros((num_codes, flat.shape[1]), flat.dtype).at[codes.reshape(-1)].add(flat)
    return {"counts": code_shares(codes, num_codes), "sums": sums / len(flat)}


@checked
def init_ema(codebook: Float[Array, "codes dim"]) -> Mapping[str, Array]:
    """Begin moving averages at a codebook, as if every code had an equal share."""
    counts = jnp.full(len(codebook), 1.0 / len(codebook), codebook.dtype)
    return {"counts": counts, "sums": codebook * counts[:, None], "codebook": codebook}


def ema_codebook(
    averages: Mapping[str, Array],
    observed: Mapping[str, Array],
    decay: ScalarLike = 0.99,
    epsilon: float = 1e-5,
) -> Mapping[str, Array]:
    """Move a codebook toward the means of its vectors (van den Oord et al. 2017, appendix A.1).

    N_k and m_k are moving averages of the number and the sum of a code's vectors, and e_k =
    m_k / N_k, with Laplace smoothing (N_k + eps) / (n + K eps) n of the numbers. With decay 0
    and without smoothing it is a step of k-means; a code that nobody uses then stays where it is.

    Args:
        averages: as :func:`init_ema` makes them.
        observed: of the global batch; see :func:`observe_codes`.
        decay: gamma, in [0, 1).
        epsilon: of the smoothing, as a multiple of a code's equal share.

    Returns:
        New averages.
    """
    epsilon = epsilon / len(averages["counts"])
    counts = decay * averages["counts"] + (1 - decay) * observed["counts"]
    sums = decay * averages["sums"] + (1 - decay) * observed["sums"]
    total = jnp.sum(counts)
    smooth = (counts + epsilon) / (total + len(counts) * epsilon) * total
    means = sums / jnp.maximum(smooth, 1e-12)[:, None]
    used = (counts > 0)[:, None]
    return {
        "counts": counts,
        "sums": sums,
        "codebook": jnp.where(used, means, averages["codebook"]),
    }


@checked
def observe_candidates(
    keys: Keys, z: Float[Array, "batch *grid dim"], num_codes: int
) -> Mapping[str, Array]:
    """Draw a few vectors of each example into slots, one slot a code, for :func:`revive`.

    A draw from the global batch is not additive, but sums over slots are: the result does not
    depend on how devices and microbatches share the batch out. An example's key draws its vectors
    and their slots. There are several tables of slots, into each of which a fourth as many examples
    go as into the one before, so that in one of them most slots hold one vector or none, however
    large the batch is.

    Returns:
        ``slot_counts`` [tables, codes], vectors in each slot, and ``slot_sums``
        [tables, codes, dim], their sum, both over the number of examples.
    """
    flat = jax.lax.stop_gradient(z).reshape(len(z), -1, z.shape[-1])
    num = max(1, min(flat.shape[1], num_codes // 256))

    def draw(key: Array, vectors: Array) -> tuple[Array, Array, Array]:
        which_key, slot_key, table_key = jax.random.split(key, 3)
        which = jax.random.randint(which_key, (num,), 0, len(vectors))
        tables = jax.random.uniform(table_key) < 0.25 ** jnp.arange(NUM_TABLES)
        slots = jax.random.randint(slot_key, (num,), 0, num_codes)
        return vectors[which], slots, tables.astype(flat.dtype)

    vectors, slots, tables = jax.vmap(draw)(keys, flat)
    wide = jnp.repeat(tables, num, axis=0)
    slots, vectors = slots.reshape(-1), vectors.reshape(-1, flat.shape[-1])

    def fill(weight: Array) -> tuple[Array, Array]:
        counts = jnp.zeros(num_codes, flat.dtype).at[slots].add(weight)
        sums = jnp.zeros((num_codes, flat.shape[-1]), flat.dtype)
        return counts, sums.at[slots].add(weight[:, None] * vectors)

    counts, sums = jax.vmap(fill)(wide.T)
    return {"slot_counts": counts / len(z), "slot_sums": sums / len(z)}


def revive(
    averages: Mapping[str, Array], slots: Mapping[str, Array], threshold: float = 0.05
) -> tuple[Mapping[str, Array], Bool[Array, "codes"]]:
    """Move codes that are hardly used to vectors of the batch.

    Their statistics are those of a new code with an equal share: a code that kept its old ones
    would be drawn back, or count as dead again at once (Dhariwal et al. 2020, section 3.1). A code
    waits where its slot holds no vector, or several, whose mean is none.

    Args:
        averages: as :func:`init_ema` makes them.
        slots: of the global batch; see :func:`observe_candidates`.
        threshold: codes with less than this multiple of an equal share are dead.

    Returns:
        New averages, and which codes were moved.
    """
    equal = 1.0 / len(averages["counts"])
    # The fullest table of which at most half is taken: fewer than 0.7 vectors a slot.
    free = jnp.mean((slots["slot_counts"] == 0).astype(jnp.float32), axis=1) >= 0.5
    table = jnp.where(jnp.any(free), jnp.argmax(free), NUM_TABLES - 1)
    counts, sums = slots["slot_counts"][table], slots["slot_sums"][table]
    # One vector is what the emptiest of the slots that are taken hold.
    fewest = jnp.min(jnp.where(counts > 0, counts, jnp.inf))
    fit = (counts > 0) & (counts < 1.5 * fewest)
    moved = (averages["counts"] < threshold * equal) & fit
    wide = moved[:, None]
    vectors = sums / jnp.where(counts > 0, counts, 1.0)[:, None]
    return {
        "counts": jnp.where(moved, equal, averages["counts"]),
        "sums": jnp.where(wide, vectors * equal, averages["sums"]),
        "codebook": jnp.where(wide, vectors, averages["codebook"]),
    }, moved


@checked
def codebook_from(
    key: Key[Array, ""], vectors: Float[Array, "vectors dim"], num_codes: int
) -> Float[Array, "codes dim"]:
    """Begin a codebook from a batch by k-means++ (Arthur & Vassilvitskii 2007).

    Each code is a vector drawn with probability proportional to its squared distance from the codes
    before. Above 4,096 codes it is a random subset of the vectors. Where there are fewer different
    vectors than codes, some codes are equal but for a little noise.
    """
    vectors = jax.lax.stop_gradient(vectors)
    first_key, draw_key, noise_key = jax.random.split(key, 3)
    if num_codes > MAX_PLUS_PLUS:
        replace = num_codes > len(vectors)
        chosen = jax.random.choice(first_key, len(vectors), (num_codes,), replace=replace)
        codes = vectors[chosen]
    else:
        first = vectors[jax.random.randint(first_key, (), 0, len(vectors))]

        def draw(distance: Array, draw_key: Array) -> tuple[Array, Array]:
            # A log of 0 where a vector is taken; all of them, once there is nothing new.
            index = jax.random.categorical(draw_key, jnp.log(jnp.maximum(distance, 1e-30)))
            code = vectors[index]
            return jnp.minimum(distance, jnp.sum((vectors - code[None]) ** 2, axis=1)), code

        start = jnp.sum((vectors - first[None]) ** 2, axis=1)
        _, rest = jax.lax.scan(draw, start, jax.random.split(draw_key, num_codes - 1))
        codes = jnp.concatenate([first[None], rest])
    scale = 1e-4 * (jnp.std(vectors) + 1e-6)
    return codes + scale * jax.random.normal(noise_key, codes.shape, codes.dtype)


@checked
def perplexity(counts: Float[Array, "codes"]) -> Scalar:
    """Compute exp(entropy) of the codes' shares: K if all are used alike, 1 if a single one is.

    Of the global batch's shares: a mean of perplexities of its parts is smaller.
    """
    share = counts / jnp.maximum(jnp.sum(counts), 1e-12)
    return jnp.exp(-jnp.sum(jax.scipy.special.xlogy(share, share)))


@checked
def share_used(counts: Float[Array, "codes"], threshold: float = 0.0) -> Scalar:
    """Return the share of codes with more than ``threshold`` times an equal share of vectors."""
    share = counts / jnp.maximum(jnp.sum(counts), 1e-12)
    return jnp.mean((share > threshold / len(counts)).astype(jnp.float32))
