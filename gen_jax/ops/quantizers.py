"""Quantizers: codes, where their codebook is kept, and what it learns from a batch."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gen_jax.errors import check_arguments
from gen_jax.ops import keys as rng, quantization as vq
from gen_jax.ops.averages import ema_decay_at
from gen_jax.ops.checks import checked
from gen_jax.ops.quantization import Quantized
from gen_jax.ops.rules import scalar_faults, vector_faults
from gen_jax.typing import Array, Float, Int, Keys, PyTree, Scalar

__all__ = ["Codebook", "Quantizer", "finite_scalar", "use_of_codes", "vector"]

Codebook = Literal["ema", "gradient"]

# Codes with more than this multiple of an equal share count as used.
USED = 0.01


class Quantizer(NamedTuple):
    """One way to turn vectors z [batch, *grid, dim] into codes, and back.

    ``init(key, z)`` gives ``(params, stats)`` from the vectors of a first batch.
    ``quantize(params, stats, z)`` gives :class:`gen_jax.ops.quantization.Quantized`.
    ``vectors(params, stats, codes)`` gives z.
    ``observe(params, stats, z, codes, keys)`` gives what is additive over a batch, and
    ``update(stats, observed)`` takes it, averaged over the global batch, and gives ``(stats,
    metrics)``: ``perplexity``, exp(entropy) of the batch's shares of codes, and ``codes_used``, the
    share of codes that have more than 1 % of an equal share in the running average ``usage``; of
    several levels, means.

    Codes are int32 [batch, *grid], or [batch, *grid, levels] with more than one level, each in
    [0, num_codes).

    One that tells a grid from coarse to fine has ``scales``, their sides; its codes are a row
    [batch, L], and ``partial(params, stats, codes, num)`` is what the first ``num`` scales say.
    """

    dim: int
    num_codes: int
    levels: int
    init: Callable[[Array, Array], tuple[PyTree, PyTree]]
    quantize: Callable[[PyTree, PyTree, Array], Quantized]
    vectors: Callable[[PyTree, PyTree, Array], Array]
    observe: Callable[[PyTree, PyTree, Array, Array, Keys], PyTree]
    update: Callable[[PyTree, PyTree], tuple[PyTree, Mapping[str, Scalar]]]
    scales: tuple[int, ...] = ()
    partial: Callable[[PyTree, PyTree, Array, int], Array] | None = None


class _Vector(NamedTuple):
    """What a vector quantizer is made of, and what it does."""

    dim: int
    num_codes: int
    levels: int
    decay: float
    epsilon: float
    revive_below: float
    cosine: bool
    chunk: int
    learned: bool

    def books(self, params: PyTree, stats: PyTree) -> Float[Array, "levels codes dim"]:
        rows = params["codebook"] if self.learned else stats["averages"]["codebook"]
        return vq.normalize(rows) if self.cosine else rows

    def scaled(self, z: Array) -> Array:
        return vq.normalize(z) if self.cosine else z

    def init(
        self, key: Array, z: Float[Array, "batch *grid dim"]
    ) -> tuple[Mapping[str, Array], Mapping[str, PyTree]]:
        left = self.scaled(z).reshape(-1, self.dim)
        rows = []
        for level_key in jax.random.split(key, self.levels):
            rows.append(vq.codebook_from(level_key, left, self.num_codes))
            left = left - rows[-1][vq.nearest_code(left, rows[-1], self.chunk)]
        averages = jax.vmap(vq.init_ema)(jnp.stack(rows))
        if self.learned:
            return {"codebook": averages["codebook"]}, {"usage": averages["counts"]}
        # Apart from the codebook's own numbers, which revival gives on credit.
        stats = {"usage": averages["counts"], "averages": averages}
        return {}, {**stats, "updates": jnp.float32(0.0)}

    def quantize(
        self, params: PyTree, stats: PyTree, z: Float[Array, "batch *grid dim"]
    ) -> Quantized:
        quantized = vq.residual(self.scaled(z), self.books(params, stats), self.chunk)
        if self.levels == 1:
            quantized = quantized._replace(codes=quantized.codes[..., 0])
        if (
            not self.learned
        ):  # the moving averages move the codebook; a loss would have nothing to move
            zero = jnp.zeros_like(quantized.codebook_loss)
            quantized = quantized._replace(codebook_loss=zero)
        return quantized

    def by_level(self, codes: Int[Array, "batch *grid"]) -> Int[Array, "levels batch *one"]:
        return codes[None] if self.levels == 1 else jnp.moveaxis(codes, -1, 0)

    def looked_up(
        self, params: PyTree, stats: PyTree, codes: Array
    ) -> Float[Array, "levels *all dim"]:
        return jax.vmap(vq.codes_to_vectors)(self.by_level(codes), self.books(params, stats))

    def vectors(
        self, params: PyTree, stats: PyTree, codes: Array
    ) -> Float[Array, "batch *grid dim"]:
        return jnp.sum(self.looked_up(params, stats, codes), axis=0)

    def observe(
        self,
        params: PyTree,
        stats: PyTree,
        z: Float[Array, "batch *grid dim"],
        codes: Array,
        keys: Keys,
    ) -> Mapping[str, Array]:
        if self.learned:
            return {
                "counts": jax.vmap(lambda c: vq.code_shares(c, self.num_codes))(
                    self.by_level(codes)
                )
            }
        own = self.looked_up(params, stats, codes)
        left = self.scaled(z)[None] - (jnp.cumsum(own, axis=0) - own)

        def of_level(left: Array, codes: Array, level: Array) -> Mapping[str, Array]:
            observed = vq.observe_codes(left, codes, self.num_codes)
            if not self.revive_below:
                return observed
            # Other vectors for each level: one may be what the level before moves to.
            own_keys = rng.fold_in(keys, level)
            return {**observed, **vq.observe_candidates(own_keys, left, self.num_codes)}

        return jax.vmap(of_level)(left, self.by_level(codes), jnp.arange(self.levels))

    def update(self, stats: PyTree, observed: PyTree) -> tuple[PyTree, Mapping[str, Scalar]]:
        usage, metrics = use_of_codes(stats["usage"], observed["counts"], self.decay)
        if self.learned:
            return {"usage": usage}, metrics

        updates = stats["updates"]
        decay_now = ema_decay_at(updates, self.decay)

        def of_level(averages: PyTree, observed: PyTree) -> tuple[PyTree, Array]:
            averages = vq.ema_codebook(averages, observed, decay_now, self.epsilon)
            if self.cosine:
                averages = {**averages, "codebook": vq.normalize(averages["codebook"])}
            if not self.revive_below:
                return averages, jnp.zeros(self.num_codes, bool)
            return vq.revive(averages, observed, self.revive_below)

        averages, moved = jax.vmap(of_level)(stats["averages"], observed)
        revived = jnp.mean(moved.astype(jnp.float32))
        stats = {"usage": usage, "averages": averages, "updates": updates + 1}
        return stats, {**metrics, "codes_revived": revived}


def vector(
    num_codes: int,
    dim: int,
    *,
    levels: int = 1,
    codebook: Codebook = "ema",
    decay: float = 0.99,
    epsilon: float = 1e-5,
    revive_below: float = 0.05,
    cosine: bool = False,
    chunk: int = 4096,
) -> Quantizer:
    """Make a vector quantizer (van den Oord et al. 2017), of several levels if asked for.

    Further levels quantize what those before have left over (Lee et al. 2022), each with its own
    codebook.

    Args:
        num_codes: K, of each codebook.
        dim: of a vector.
        levels: codes of each position.
        codebook: ``"ema"``, means of the vectors by moving averages (appendix A.1), kept in
            ``stats``; or ``"gradient"``, parameters that the codebook loss moves (Eq. 3).
        decay: of the moving averages, at most; after n steps min(decay, (1 + n) / (10 + n)),
            because the codes of an encoder that has just begun to learn must follow it.
        epsilon: of their Laplace smoothing, as a multiple of an equal share.
        revive_below: codes with less than this multiple of an equal share are moved to vectors of
            the batch; 0 for never. Of an ``"ema"`` codebook only.
        cosine: scale vectors and codes to length 1, so that the code of the largest cosine is
            taken (Yu et al. 2022).
        chunk: codes whose distances are in memory at once.

    Raises:
        ValueError: if an argument is out of range.
    """
    for name, value, low in (("num_codes", num_codes, 2), ("dim", dim, 1), ("levels", levels, 1)):
        if value < low:
            raise ValueError(f"{name}: got {value}; at least {low} is required")
    if codebook not in ("ema", "gradient"):
        raise ValueError(f"codebook: got {codebook!r}; ema or gradient is required")
    if not 0 <= decay < 1:
        raise ValueError(f"decay: got {decay}; a number in [0, 1) is required")
    check_arguments(vector_faults(cosine=cosine, levels=levels))
    learned = codebook == "gradient"

    made = _Vector(dim, num_codes, levels, decay, epsilon, revive_below, cosine, chunk, learned)
    return Quantizer(
        dim, num_codes, levels, made.init, made.quantize, made.vectors, made.observe, made.update
    )


def finite_scalar(levels: Sequence[int], decay: float = 0.99) -> Quantizer:
    """Make a finite scalar quantizer; see :func:`gen_jax.ops.quantization.finite_scalar`.

    Args:
        levels: of each element; their product is the number of codes.
        decay: of the running average that tells which codes are used.

    Raises:
        ValueError: if there are more codes than can be counted.
    """
    levels = tuple(levels)
    num_codes = math.prod(levels)
    check_arguments(scalar_faults(levels))

    def init(key: Array, z: Array) -> tuple[Mapping[str, Array], Mapping[str, Array]]:
        del key, z
        return {}, {"usage": jnp.full((1, num_codes), 1.0 / num_codes, jnp.float32)}

    def observe(params: PyTree, stats: PyTree, z: Any, codes: Array, keys: Keys) -> PyTree:
        del params, stats, z, keys
        return {"counts": vq.code_shares(codes, num_codes)[None]}

    def update(stats: PyTree, observed: PyTree) -> tuple[PyTree, Mapping[str, Scalar]]:
        usage, metrics = use_of_codes(stats["usage"], observed["counts"], decay)
        return {"usage": usage}, metrics

    return Quantizer(
        dim=len(levels),
        num_codes=num_codes,
        levels=1,
        init=init,
        quantize=lambda params, stats, z: vq.finite_scalar(z, levels),
        vectors=lambda params, stats, codes: vq.finite_scalar_vectors(codes, levels),
        observe=observe,
        update=update,
    )


@checked
def use_of_codes(
    usage: Float[Array, "levels codes"], now: Float[Array, "levels codes"], decay: float
) -> tuple[Float[Array, "levels codes"], Mapping[str, Scalar]]:
    """Move the running average of what is used, and tell about both."""
    usage = decay * usage + (1 - decay) * now
    return usage, {
        "perplexity": jnp.mean(jax.vmap(vq.perplexity)(now)),
        "codes_used": jnp.mean(jax.vmap(lambda share: vq.share_used(share, USED))(usage)),
    }
