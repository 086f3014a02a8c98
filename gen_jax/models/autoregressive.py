"""Autoregressive models over grids of tokens: pixels, codes, and codes under coarser codes."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gen_jax.errors import check_arguments
from gen_jax.models.rules import class_dropout_faults
from gen_jax.nn.pixelcnn import PixelCNN
from gen_jax.nn.transformer import CausalTransformer
from gen_jax.ops import keys as rng
from gen_jax.ops.decoding import decode, token_options
from gen_jax.protocols import (
    Aux,
    Batch,
    Cond,
    Context,
    Density,
    LogProb,
    Loss,
    Model,
    Params,
    Sampler,
    Stats,
    Weights,
    batch_mean,
    label_input,
    take,
)
from gen_jax.typing import Array, Float, Int, Keys, PyTree, Scalar

__all__ = ["Network", "autoregressive_model", "hierarchical_model"]

Network = CausalTransformer | PixelCNN


class _Grid(NamedTuple):
    """One grid of tokens; ``above`` are the names of the coarser grids it hangs on."""

    player: str
    loss: str
    network: Network
    shape: tuple[int, ...]
    above: tuple[str, ...]


def autoregressive_model(
    network: Network,
    shape: Sequence[int],
    num_classes: int | None = None,
    class_dropout: float = 0.0,
) -> Model:
    """Make a model of token grids, in raster order: p(x) = prod_i p(x_i | x_1, ..., x_{i-1}).

    Its only player is ``"net"`` and its only loss ``"likelihood"``, -log p(x) in nats a token; the
    metric ``bits_per_dim`` is the same in bits.

    Args:
        network: over as many tokens as the grid has.
        shape: of one x, channels last.
        num_classes: labels are in [0, num_classes); None for an unconditional model, which ignores
            labels.
        class_dropout: share of the training examples whose label is left out, for classifier-free
            guidance (Ho & Salimans 2021).

    Returns:
        A model of ``batch["x"]``, int tokens; its sampler takes ``temperature``, ``top_k`` and
        ``top_p``, with ``class_dropout`` also ``guidance``. Its density is exact.

    Raises:
        ValueError: if the network is made for another number of tokens.
    """
    grid = _Grid("net", "likelihood", network, tuple(shape), ())
    return _model({"x": grid}, num_classes, class_dropout, lambda x: {"x": x}, lambda x: x["x"])


def hierarchical_model(
    networks: Mapping[str, Network],
    shapes: Mapping[str, Sequence[int]],
    num_classes: int | None = None,
    class_dropout: float = 0.0,
) -> Model:
    """Make a model of several grids of tokens: p(top) p(middle | top) p(bottom | top, middle).

    The prior of VQ-VAE-2 (Razavi et al. 2019, section 3.2). Each grid has its own network, and is a
    player of its own with a loss of the grid's name, in nats a token: the grids train beside each
    other and share nothing.

    Args:
        networks: from the coarsest grid to the finest; each but the first is made with ``above``,
            the categories of those before it.
        shapes: of each grid.
        num_classes: as of :func:`autoregressive_model`.
        class_dropout: likewise.

    Returns:
        A model as :func:`autoregressive_model` makes, of x, a mapping by the grids' names.

    Raises:
        ValueError: if a network is made for another number of tokens or of coarser grids.
    """
    names = tuple(networks)
    grids = {
        name: _Grid(name, name, networks[name], tuple(shapes[name]), names[:number])
        for number, name in enumerate(names)
    }
    return _model(grids, num_classes, class_dropout, dict, dict)


class _Grids(NamedTuple):
    """What a model of grids of tokens is made of, and what it does."""

    grids: Mapping[str, _Grid]
    num_classes: int | None
    class_dropout: float
    named: Callable[[PyTree], Mapping[str, Array]]
    unnamed: Callable[[Mapping[str, Array]], PyTree]

    def label_of(self, told: Batch | Cond, keys: Keys | None = None) -> Int[Array, "batch"] | None:
        if self.num_classes is None:
            return None
        label = take(told, "label")
        if keys is None or not self.class_dropout:
            return label
        drop = jax.vmap(lambda key: jax.random.bernoulli(key, self.class_dropout))(keys)
        return jnp.where(drop, self.num_classes, label)

    def flat(self, grid: _Grid, x: Int[Array, "batch *dims"]) -> Int[Array, "batch length"]:
        return jnp.reshape(x, (len(x), math.prod(grid.shape))).astype(jnp.int32)

    def coarser(self, grid: _Grid, x: Mapping[str, Array]) -> tuple[Array, ...]:
        return tuple(x[name].astype(jnp.int32) for name in grid.above)

    def init(self, key: Array, batch: Batch, frozen: PyTree) -> tuple[Params, Stats]:
        del frozen
        x = jax.tree.map(lambda codes: codes[:1], self.named(batch["x"]))
        label = self.label_of(batch)
        label = None if label is None else label[:1]
        return {
            grid.player: grid.network.init(
                jax.random.fold_in(key, number) if number else key,
                self.flat(grid, x[name]),
                label,
                self.coarser(grid, x),
            )["params"]
            for number, (name, grid) in enumerate(self.grids.items())
        }, {}

    def token_nats(
        self, name: str, params: Params, batch: Batch, label: Array | None, keys: Keys | None
    ) -> Float[Array, "batch length"]:
        grid, x = self.grids[name], self.named(batch["x"])
        tokens = self.flat(grid, x[name])
        logits = grid.network.apply(
            {"params": params[grid.player]}, tokens, label, self.coarser(grid, x), keys
        )
        assert isinstance(logits, Array)
        chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(logits, axis=-1) - chosen

    def loss_of(self, name: str) -> Loss:
        def loss(
            weights: Weights, batch: Batch, keys: Keys, context: Context
        ) -> tuple[Scalar, Aux]:
            dropout_keys = keys if context.train else None
            label = self.label_of(batch, rng.fold_in(keys, _CLASS) if context.train else None)
            nats = self.token_nats(name, weights.params, batch, label, dropout_keys)
            nats = jnp.mean(nats, axis=1)
            mean = batch_mean(batch, nats)
            return mean, Aux(observed={}, metrics={"bits_per_dim": mean / math.log(2)})

        return Loss(self.grids[name].player, loss)

    def log_prob(self, weights: Weights, batch: Batch, keys: Keys) -> LogProb:
        del keys
        label = self.label_of(batch)
        parts = [self.token_nats(name, weights.params, batch, label, None) for name in self.grids]
        nats = sum(-jnp.sum(part, axis=1) for part in parts)
        assert isinstance(nats, Array)
        return LogProb(nats, jnp.zeros_like(nats))

    def draw(
        self,
        weights: Weights,
        keys: Keys,
        cond: Cond,
        *,
        temperature: Scalar | float = 1.0,
        top_k: Int[Array, ""] | int = 0,
        top_p: Scalar | float = 1.0,
        guidance: Scalar | float | None = None,
    ) -> PyTree:
        """Draw samples; see the sampler's options for what they mean."""
        label = self.label_of(cond)
        x: dict[str, Array] = {}
        for number, (name, grid) in enumerate(self.grids.items()):
            tokens = decode(
                *_stepper(
                    grid,
                    weights.params,
                    label,
                    self.coarser(grid, x),
                    len(keys),
                    self.num_classes,
                    guidance,
                ),
                math.prod(grid.shape),
                rng.fold_in(keys, number),
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                parts=grid.network.parts,
                grow=grid.network.grown,
            )
            x[name] = jnp.reshape(tokens, (len(keys), *grid.shape))
        return self.unnamed(x)


def _model(
    grids: Mapping[str, _Grid],
    num_classes: int | None,
    class_dropout: float,
    named: Callable[[PyTree], Mapping[str, Array]],
    unnamed: Callable[[Mapping[str, Array]], PyTree],
) -> Model:
    for name, grid in grids.items():
        length = math.prod(grid.shape)
        if grid.network.length != length:
            raise ValueError(
                f"network: got length {grid.network.length}; {length} is required for {grid.shape}"
            )
        if len(grid.network.above) != len(grid.above):
            raise ValueError(
                f"networks: {name!r} needs above for {', '.join(grid.above) or 'none'}"
            )
    if not 0 <= class_dropout < 1:
        raise ValueError(f"class_dropout: got {class_dropout}; a number in [0, 1) is required")
    conditional = num_classes is not None
    faults = class_dropout_faults(class_dropout=class_dropout, conditional=conditional)
    check_arguments(faults)

    made = _Grids(grids, num_classes, class_dropout, named, unnamed)
    return Model(
        init=made.init,
        losses={grid.loss: made.loss_of(name) for name, grid in grids.items()},
        inputs=label_input(num_classes),
        sampler=Sampler(made.draw, token_options(guided=bool(class_dropout))),
        density=Density(made.log_prob, "exact"),
    )


# Folded into an example's key to draw whether its label is left out, apart from dropout's layers.
_CLASS = 0x0C1A55


def _stepper(
    grid: _Grid,
    params: Params,
    label: Array | None,
    above: tuple[Array, ...],
    batch: int,
    num_classes: int | None,
    guidance: Scalar | float | None,
) -> tuple[Callable[..., tuple[Array, PyTree]], PyTree]:
    """Make a step of :func:`gen_jax.ops.decoding.decode`, and the state it begins with."""
    variables = {"params": params[grid.player]}
    guided = guidance is not None
    weight = 1.0 if guidance is None else guidance
    if guided:  # with and without the class, side by side
        assert label is not None
        assert num_classes is not None
        label = jnp.concatenate([label, jnp.full_like(label, num_classes)])
        above = tuple(jnp.concatenate([codes, codes]) for codes in above)
    rows = 2 * batch if guided else batch
    context = grid.network.apply(variables, rows, label, above, method="context")

    def step(cache: PyTree, token: Array, index: Array) -> tuple[Array, PyTree]:
        token = jnp.concatenate([token, token]) if guided else token
        logits, cache = grid.network.apply(variables, cache, token, index, context, method="decode")
        if not guided:
            return logits, cache
        with_class, without = jnp.split(logits, 2)
        return without + weight * (with_class - without), cache

    return step, grid.network.empty_cache(rows)
