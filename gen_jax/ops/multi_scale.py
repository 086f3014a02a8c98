"""The multi-scale residual quantizer of VAR (Tian et al. 2024, Algorithms 1 and 2).

A grid of vectors f is told from coarse to fine: at each scale what is left over is averaged down to
a small grid, each vector becomes the nearest code of one codebook, and what the codes say, enlarged
and passed through a convolution phi that is half the identity, is taken off what is left.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.ops import keys as rng, quantization as vq
from gen_jax.ops.averages import ema_decay_at
from gen_jax.ops.checks import checked
from gen_jax.ops.quantization import Quantized
from gen_jax.ops.quantizers import Quantizer, use_of_codes
from gen_jax.typing import Array, Float, Int, Keys, PyTree, Scalar

__all__ = ["area_matrix", "bicubic_matrix", "enlarge", "multi_scale", "num_codes_of", "shrink"]


def area_matrix(small: int, large: int) -> Float[np.ndarray, "small large"]:
    """Make the matrix of averages that PyTorch's adaptive average pooling takes along one axis."""
    matrix = np.zeros((small, large))
    for row in range(small):
        first, end = row * large // small, -(-(row + 1) * large // small)
        matrix[row, first:end] = 1 / (end - first)
    return matrix


def bicubic_matrix(large: int, small: int, a: float = -0.75) -> Float[np.ndarray, "large small"]:
    """Make the matrix of bicubic interpolation along one axis, as PyTorch's, edges repeated.

    ``jax.image.resize`` has a = -0.5, and other weights at the edges.

    Args:
        large: size of the result.
        small: size that is enlarged.
        a: slope of the kernel at 1 (Keys 1981).
    """
    matrix = np.zeros((large, small))
    for row in range(large):
        middle = (row + 0.5) * small / large - 0.5
        below = math.floor(middle)
        for place in range(below - 1, below + 3):
            far = abs(middle - place)
            if far <= 1:
                weight = ((a + 2) * far - (a + 3)) * far**2 + 1
            else:
                weight = a * (((far - 5) * far + 8) * far - 4)
            matrix[row, min(max(place, 0), small - 1)] += weight
    return matrix


def _both(matrix: np.ndarray, z: Array) -> Array:
    """Multiply rows and columns of a grid of vectors.

    By one matrix for both, and the same for each example: the result lies as convolutions want it.
    """
    batch, _, _, dim = z.shape
    both = jnp.asarray(np.kron(matrix, matrix), z.dtype)
    flat = jnp.reshape(z, (batch, -1, dim))
    made = jnp.matmul(jnp.broadcast_to(both, (batch, *both.shape)), flat)
    return jnp.reshape(made, (batch, len(matrix), len(matrix), dim))


@checked
def shrink(
    z: Float[Array, "batch side side dim"], side: int
) -> Float[Array, "batch small small dim"]:
    """Average a grid of vectors down to a side."""
    return z if side == z.shape[1] else _both(area_matrix(side, z.shape[1]), z)


@checked
def enlarge(
    z: Float[Array, "batch small small dim"], side: int
) -> Float[Array, "batch side side dim"]:
    """Enlarge a grid of vectors to a side."""
    return z if side == z.shape[1] else _both(bicubic_matrix(side, z.shape[1]), z)


def num_codes_of(scales: Sequence[int]) -> int:
    """Return how many codes there are at all scales together."""
    return sum(side * side for side in scales)


class _MultiScale(NamedTuple):
    scales: tuple[int, ...]
    dim: int
    num_codes: int
    num_phi: int
    phi_share: float
    decay: float
    revive_below: float
    chunk: int

    def parts(self, codes: Int[Array, "batch all"]) -> list[Int[Array, "batch side side"]]:
        """Give the codes of each scale."""
        ends = np.cumsum([side * side for side in self.scales])
        rows = jnp.split(codes, ends[:-1], axis=1)
        return [
            jnp.reshape(row, (len(codes), side, side))
            for row, side in zip(rows, self.scales, strict=True)
        ]

    def phi(self, params: PyTree, scale: int, h: Array) -> Array:
        """Apply the convolution of a scale, which neighbors share ("partially shared")."""
        if not self.num_phi:
            return h
        ticks = np.linspace(1 / 3 / self.num_phi, 1 - 1 / 3 / self.num_phi, self.num_phi)
        own = int(np.argmin(abs(ticks - scale / max(1, len(self.scales) - 1))))
        made = jax.lax.conv_general_dilated(
            h, params["phi"]["kernel"][own], (1, 1), "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        made = made + params["phi"]["bias"][own][None, None, None]
        return (1 - self.phi_share) * h + self.phi_share * made

    def said(self, params: PyTree, stats: PyTree, codes: Array, scale: int) -> Array:
        """Return what the codes of one scale add, in full size."""
        vectors = vq.codes_to_vectors(codes, stats["averages"]["codebook"])
        return self.phi(params, scale, enlarge(vectors, self.scales[-1]))

    def walk(
        self, params: PyTree, stats: PyTree, z: Array, codes: Array | None = None
    ) -> tuple[list[Array], list[Array], list[Array]]:
        """Go through the scales: what was left at each, its codes, and the sums so far."""
        left, total = z, jnp.zeros_like(z)
        given = None if codes is None else self.parts(codes)
        found, before, sums = [], [], []
        for scale, side in enumerate(self.scales):
            small = shrink(left, side)
            before.append(small)
            if given is None:
                book = stats["averages"]["codebook"]
                found.append(vq.nearest_code(small, book, self.chunk))
            else:
                found.append(given[scale])
            added = self.said(params, stats, found[-1], scale)
            total, left = total + added, left - jax.lax.stop_gradient(added)
            sums.append(total)
        return before, found, sums

    def init(self, key: Array, z: Float[Array, "batch side side dim"]) -> tuple[PyTree, PyTree]:
        if z.shape[1:3] != (self.scales[-1],) * 2:
            raise ValueError(
                f"scales: got {self.scales}; the last must be {z.shape[1]}, the side of the grid"
            )
        book_key, phi_key = jax.random.split(key)
        rows = vq.codebook_from(book_key, z.reshape(-1, self.dim), self.num_codes)
        averages = vq.init_ema(rows)
        shape = (self.num_phi, 3, 3, self.dim, self.dim)
        deviation = (9 * self.dim) ** -0.5
        params = {
            "phi": {
                "kernel": deviation * jax.random.normal(phi_key, shape),
                "bias": jnp.zeros((self.num_phi, self.dim)),
            }
        }
        usage = jnp.broadcast_to(averages["counts"], (len(self.scales), self.num_codes))
        stats = {"usage": usage, "averages": averages, "updates": jnp.float32(0.0)}
        return params if self.num_phi else {}, stats

    def quantize(
        self, params: PyTree, stats: PyTree, z: Float[Array, "batch side side dim"]
    ) -> Quantized:
        _, codes, sums = self.walk(params, stats, z)

        def far(a: Array, b: Array) -> Array:
            return jnp.mean(jnp.sum(jnp.square(a - b), axis=-1), axis=(1, 2)) / len(self.scales)

        stop = jax.lax.stop_gradient
        flat = [jnp.reshape(x, (len(z), -1)) for x in codes]
        return Quantized(
            vq.straight_through(z, sums[-1]),
            jnp.concatenate(flat, axis=1).astype(jnp.int32),
            # Means over scales of the error of the sum until there (the code of the paper).
            sum((far(total, stop(z)) for total in sums), jnp.zeros(len(z))),
            sum((far(z, stop(total)) for total in sums), jnp.zeros(len(z))),
        )

    def partial(
        self, params: PyTree, stats: PyTree, codes: Int[Array, "batch all"], num: int
    ) -> Float[Array, "batch side side dim"]:
        """Return the sum of what the first ``num`` scales say."""
        parts = self.parts(codes)[:num]
        said = [self.said(params, stats, part, scale) for scale, part in enumerate(parts)]
        return jnp.sum(jnp.stack(said), axis=0)

    def vectors(self, params: PyTree, stats: PyTree, codes: Array) -> Array:
        return self.partial(params, stats, codes, len(self.scales))

    def observe(
        self, params: PyTree, stats: PyTree, z: Array, codes: Array, keys: Keys
    ) -> Mapping[str, Array]:
        before, found, _ = self.walk(params, stats, z, codes)
        seen = [
            vq.observe_codes(left, part, self.num_codes)
            for left, part in zip(before, found, strict=True)
        ]
        # One vote a scale: by the number of codes, the first would have one of hundreds.
        observed = {name: jnp.mean(jnp.stack([x[name] for x in seen]), axis=0) for name in seen[0]}
        observed["scales"] = jnp.stack([x["counts"] for x in seen])
        if self.revive_below:
            flat = jnp.concatenate([jnp.reshape(x, (len(z), -1, self.dim)) for x in before], axis=1)
            observed |= vq.observe_candidates(rng.fold_in(keys, 0), flat, self.num_codes)
        return observed

    def update(self, stats: PyTree, observed: PyTree) -> tuple[PyTree, Mapping[str, Scalar]]:
        usage, metrics = use_of_codes(stats["usage"], observed["scales"], self.decay)
        for scale, side in enumerate(self.scales):
            _, own = use_of_codes(
                stats["usage"][scale][None], observed["scales"][scale][None], self.decay
            )
            metrics = {**metrics, f"codes_used_{side}x{side}": own["codes_used"]}
        decay = ema_decay_at(stats["updates"], self.decay)
        averages = vq.ema_codebook(stats["averages"], observed, decay)
        if self.revive_below:
            averages, moved = vq.revive(averages, observed, self.revive_below)
            metrics = {**metrics, "codes_revived": jnp.mean(moved.astype(jnp.float32))}
        stats = {"usage": usage, "averages": averages, "updates": stats["updates"] + 1}
        return stats, metrics


def multi_scale(
    scales: Sequence[int],
    num_codes: int,
    dim: int,
    *,
    num_phi: int = 4,
    phi_share: float = 0.5,
    decay: float = 0.99,
    revive_below: float = 0.05,
    chunk: int = 4096,
) -> Quantizer:
    """Make VAR's multi-scale residual quantizer.

    Its codes are one row, int32 [batch, L], of the scales one after another. The codebook is one
    for all scales, the means of its vectors by moving averages, in which each scale has as many
    votes; metrics tell the use of codes at each scale, since small scales are those that collapse.

    Args:
        scales: sides of the grids, from coarse to fine; the last is that of the whole grid.
        num_codes: K, of the codebook.
        dim: of a vector.
        num_phi: convolutions phi, shared by neighboring scales; 0 for none.
        phi_share: of the convolution in phi; the rest is the identity.
        decay: see :func:`gen_jax.ops.quantizers.vector`.
        revive_below: likewise.
        chunk: likewise.

    Raises:
        ValueError: if an argument is out of range.
    """
    scales = tuple(scales)
    if not scales or scales[0] < 1 or list(scales) != sorted(set(scales)):
        raise ValueError(f"scales: got {scales}; sides from 1 that grow are required")
    for name, value, low in (("num_codes", num_codes, 2), ("dim", dim, 1), ("num_phi", num_phi, 0)):
        if value < low:
            raise ValueError(f"{name}: got {value}; at least {low} is required")
    made = _MultiScale(scales, dim, num_codes, num_phi, phi_share, decay, revive_below, chunk)
    return Quantizer(
        dim,
        num_codes,
        1,
        made.init,
        made.quantize,
        made.vectors,
        made.observe,
        made.update,
        scales,
        made.partial,
    )
