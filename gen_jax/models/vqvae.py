"""VQ-VAE (van den Oord et al. 2017) and VQ-VAE-2 (Razavi et al. 2019)."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gen_jax.nn.autoencoder import ConvGrid
from gen_jax.nn.hierarchy import Hierarchy
from gen_jax.ops import keys as rng, latents
from gen_jax.ops.likelihoods import Likelihood
from gen_jax.ops.quantization import Quantized
from gen_jax.ops.quantizers import Quantizer
from gen_jax.protocols import (
    Aux,
    Batch,
    Cond,
    Context,
    Density,
    Latents,
    LogProb,
    Loss,
    Model,
    Params,
    Sampler,
    Stats,
    Weights,
    batch_mean,
)
from gen_jax.typing import Array, Float, Int, Keys, PyTree, Scalar

__all__ = ["GRIDS", "vqvae_model"]

GRIDS = {1: ("codes",), 2: ("bottom", "top"), 3: ("bottom", "middle", "top")}
"""Names of the grids of codes, from the finest; a single grid goes without a name."""


class _VQVAE(NamedTuple):
    """What a VQ-VAE is made of, and what it does."""

    network: Hierarchy | ConvGrid
    quantizers: tuple[Quantizer, ...]
    likelihood: Likelihood
    names: tuple[str, ...]
    code_shapes: Mapping[str, tuple[int, ...]]
    commitment_cost: float
    single: bool

    def apply(self, params: Params, *arguments: PyTree, method: str) -> PyTree:
        return self.network.apply({"params": params["net"]["network"]}, *arguments, method=method)

    def from_top(self, params: Params, x: Array, quantize: PyTree) -> dict[str, PyTree]:
        """Go from grid to grid, the coarsest first; quantize(name, quantizer, z) has a ``.z``."""
        features = self.apply(params, x, method="features")
        done: dict[str, PyTree] = {}
        for level in reversed(range(len(self.quantizers))):
            above = tuple(done[name].z for name in self.names[level + 1 :])
            z = self.apply(params, level, features[level], above, method="latent")
            done[self.names[level]] = quantize(self.names[level], self.quantizers[level], z)
        return done

    def quantized(
        self, weights: Weights, x: Array
    ) -> tuple[dict[str, Quantized], dict[str, Array]]:
        """Return each grid quantized, and its vectors as they were."""
        before: dict[str, Array] = {}

        def quantize(name: str, quantizer: Quantizer, z: Array) -> Quantized:
            before[name] = z
            return quantizer.quantize(*_books(weights, name), z)

        return self.from_top(weights.params, x, quantize), before

    def outputs_of(self, params: Params, grids: Mapping[str, Array]) -> Array:
        return self.apply(params, tuple(grids[name] for name in self.names), method="decode")

    def init(self, key: Array, batch: Batch, frozen: PyTree) -> tuple[Params, Stats]:
        del frozen
        x = batch["x"]
        net_key, book_key = jax.random.split(key)
        net = self.network.init(net_key, x[:1])["params"]
        books: dict[str, PyTree] = {}
        stats: dict[str, PyTree] = {}

        def begin(name: str, quantizer: Quantizer, z: Array) -> Quantized:
            own_key = jax.random.fold_in(book_key, self.names.index(name))
            books[name], stats[name] = quantizer.init(own_key, z)
            return quantizer.quantize(books[name], stats[name], z)

        self.from_top({"net": {"network": net}}, x, begin)
        params = {"net": {"network": net, "books": books}}
        return params, {"net": {"books": stats, "squared_error": jnp.float32(1.0)}}

    def loss(
        self, weights: Weights, batch: Batch, keys: Keys, context: Context
    ) -> tuple[Scalar, Aux]:
        del context
        x = batch["x"]
        grids, before = self.quantized(weights, x)
        outputs = self.outputs_of(weights.params, {name: grid.z for name, grid in grids.items()})
        nats = -self.likelihood.log_prob(outputs, x, self.likelihood.initial_log_sigma)
        reconstruction = batch_mean(batch, nats)
        book = batch_mean(batch, _sum(grid.codebook_loss for grid in grids.values()))
        commitment = batch_mean(batch, _sum(grid.commitment_loss for grid in grids.values()))
        error = jnp.mean((self.likelihood.mean(outputs) - x) ** 2)
        observed = {
            "squared_error": jax.lax.stop_gradient(error),
            "books": {
                name: quantizer.observe(
                    *_books(weights, name),
                    before[name],
                    grids[name].codes,
                    rng.fold_in(keys, number),
                )
                for number, (name, quantizer) in enumerate(
                    zip(self.names, self.quantizers, strict=True)
                )
            },
        }
        metrics = {"reconstruction": reconstruction, "commitment": commitment}
        return reconstruction + book + self.commitment_cost * commitment, Aux(observed, metrics)

    def update_stats(
        self, weights: Weights, observed: Mapping[str, PyTree], key: Array, step: Array
    ) -> tuple[Stats, dict[str, Scalar]]:
        del key
        own, seen = weights.stats["net"], observed["net"]
        books: dict[str, PyTree] = {}
        metrics: dict[str, Scalar] = {}
        for name, quantizer in zip(self.names, self.quantizers, strict=True):
            books[name], numbers = quantizer.update(own["books"][name], seen["books"][name])
            suffix = "" if self.single else f"_{name}"
            metrics |= {f"{number}{suffix}": value for number, value in numbers.items()}
        error = latents.update_moments(own["squared_error"], seen["squared_error"], step)
        return {"net": {"books": books, "squared_error": error}}, metrics

    def encode(self, weights: Weights, x: Array, cond: Cond, keys: Keys | None = None) -> PyTree:
        del keys, cond
        codes = {name: grid.codes for name, grid in self.quantized(weights, x)[0].items()}
        return codes[self.names[0]] if self.single else codes

    def partial(self, weights: Weights, z: Array, num: int) -> Array:
        """Return what the first scales of a row of codes say, as vectors."""
        (quantizer,) = self.quantizers
        assert quantizer.partial is not None
        return quantizer.partial(*_books(weights, self.names[0]), z, num)

    def decode(
        self, weights: Weights, z: PyTree, cond: Cond, *, num_scales: int | None = None
    ) -> Array:
        del cond
        if num_scales is not None:
            some = {self.names[0]: self.partial(weights, z, num_scales)}
            return self.likelihood.mean(self.outputs_of(weights.params, some))
        return self.likelihood.mean(self.outputs_of(weights.params, self.vectors(weights, z)))

    def vectors(self, weights: Weights, z: PyTree) -> dict[str, Array]:
        """Return the vectors that codes stand for, of each grid."""
        codes = {self.names[0]: z} if self.single else z
        return {
            name: quantizer.vectors(*_books(weights, name), codes[name])
            for name, quantizer in zip(self.names, self.quantizers, strict=True)
        }

    def from_vectors(self, weights: Weights, vectors: Mapping[str, Array]) -> Array:
        """Decode vectors through their nearest codes, with a straight-through gradient."""
        grids = {
            name: quantizer.quantize(*_books(weights, name), vectors[name]).z
            for name, quantizer in zip(self.names, self.quantizers, strict=True)
        }
        return self.likelihood.mean(self.outputs_of(weights.params, grids))

    def log_prob(self, weights: Weights, batch: Batch, keys: Keys) -> LogProb:
        del keys
        x = batch["x"]
        grids, _ = self.quantized(weights, x)
        outputs = self.outputs_of(weights.params, {name: grid.z for name, grid in grids.items()})
        log_sigma = 0.5 * jnp.log(jnp.maximum(weights.stats["net"]["squared_error"], 1e-12))
        nats = self.likelihood.log_prob(outputs, x, log_sigma)
        for name, quantizer in zip(self.names, self.quantizers, strict=True):
            nats -= math.prod(self.code_shapes[name]) * math.log(quantizer.num_codes)
        return LogProb(nats, jnp.zeros_like(nats))

    def draw(
        self, weights: Weights, keys: Keys, cond: Cond
    ) -> Float[Array, "batch height width channels"]:
        def draw_one(key: Array) -> dict[str, Int[Array, "..."]]:
            return {
                name: jax.random.randint(
                    jax.random.fold_in(key, number), self.code_shapes[name], 0, quantizer.num_codes
                )
                for number, (name, quantizer) in enumerate(
                    zip(self.names, self.quantizers, strict=True)
                )
            }

        codes = jax.vmap(draw_one)(keys)
        return self.decode(weights, codes[self.names[0]] if self.single else codes, cond)


def vqvae_model(
    network: Hierarchy | ConvGrid,
    quantizers: Sequence[Quantizer],
    likelihood: Likelihood,
    shape: Sequence[int],
    *,
    commitment_cost: float = 0.25,
) -> Model:
    """Make a vector-quantized autoencoder, x -> z -> codes -> x.

    Its only player is ``"net"`` and its only loss ``"vq"`` (van den Oord et al. 2017, Eq. 3), in
    nats an example: -log p(x | z_q) + |sg(z) - e|^2 + commitment_cost |z - sg(e)|^2, the latter
    two means over the positions of a grid and sums over grids; the second only of a codebook that
    is learned by gradients. Metrics are ``reconstruction`` and ``commitment``, the first and the
    last of these terms without their weight, and those of each quantizer.

    Args:
        network: with one grid of vectors for VQ-VAE, two or three for VQ-VAE-2.
        quantizers: one for each grid, from the finest.
        likelihood: log p(x | z_q) of the network's outputs, with a fixed sigma.
        shape: of one x: height, width, channels.
        commitment_cost: beta, at least 0.

    Returns:
        A model of ``batch["x"]``. ``encode`` gives codes, int32 [batch, h, w], or
        [batch, h, w, levels] of a quantizer of several levels; of several grids a mapping by the
        names of :data:`GRIDS`. ``decode`` gives the mean of p(x | z_q). The sampler decodes codes
        drawn from the prior that training assumes, all alike and independent: for samples that are
        images a second stage is required. The density is the bound log p(x | z_q) - N log K under
        that prior, N codes of K (ibid., 3.2), for Gaussian likelihoods with sigma^2 the
        running mean of squared errors.

    Raises:
        ValueError: if the quantizers do not fit the network, or an argument is out of range.
    """
    quantizers = tuple(quantizers)
    dims = tuple(quantizer.dim for quantizer in quantizers)
    if dims != tuple(network.dims):
        raise ValueError(
            f"quantizers: got {dims}; of {tuple(network.dims)} dimensions are required"
        )
    if commitment_cost < 0:
        raise ValueError(f"commitment_cost: got {commitment_cost}; at least 0 is required")
    if likelihood.sigma != "fixed":
        raise ValueError(f"likelihood: got sigma {likelihood.sigma!r}; 'fixed' is required")
    if len(quantizers) > 1 and any(quantizer.scales for quantizer in quantizers):
        raise ValueError("quantizers: got several with scales; one grid is required of these")
    names = GRIDS[len(quantizers)]
    single = len(quantizers) == 1
    code_shapes = {
        name: _grid(shape, math.prod(network.factors[: level + 1]), quantizers[level])
        for level, name in enumerate(names)
    }

    made = _VQVAE(network, quantizers, likelihood, names, code_shapes, commitment_cost, single)
    return Model(
        init=made.init,
        losses={"vq": Loss("net", made.loss)},
        update_stats=made.update_stats,
        sampler=Sampler(made.draw),
        latents=Latents(
            made.decode,
            made.encode,
            num_codes=quantizers[0].num_codes
            if single
            else {name: q.num_codes for name, q in zip(names, quantizers, strict=True)},
            scales=quantizers[0].scales,
            partial=made.partial if quantizers[0].scales else None,
            vectors=made.vectors,
            from_vectors=made.from_vectors,
        ),
        density=Density(made.log_prob, "bound"),
    )


def _books(weights: Weights, name: str) -> tuple[PyTree, PyTree]:
    return weights.params["net"]["books"][name], weights.stats["net"]["books"][name]


def _sum(arrays: Iterable[Array]) -> Array:
    return jnp.sum(jnp.stack(tuple(arrays)), axis=0)


def _grid(shape: Sequence[int], factor: int, quantizer: Quantizer) -> tuple[int, ...]:
    grid, scales = (shape[0] // factor, shape[1] // factor), quantizer.scales
    if scales:
        if grid != (scales[-1],) * 2:
            raise ValueError(f"scales: got {scales}; {grid} is required of the last")
        return (sum(side * side for side in scales),)
    return grid if quantizer.levels == 1 else (*grid, quantizer.levels)
