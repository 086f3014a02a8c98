"""Mixtures of Gaussians with diagonal covariances: the smallest family in the house."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gen_jax.ops import keys as rng
from gen_jax.ops.distributions import normal_log_prob
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
)
from gen_jax.typing import Array, Float, Keys, PyTree, Scalar, Shape

__all__ = ["gaussian_mixture_model"]


class _Mixture(NamedTuple):
    """What a mixture is made of, and what it does."""

    shape: Shape
    num_components: int

    def nats(self, params: Params, x: Float[Array, "batch *dims"]) -> Float[Array, "batch"]:
        """Compute log p(x) = log sum_k pi_k N(x; mean_k, std_k^2)."""
        net = params["net"]
        x = x.reshape(len(x), 1, -1)
        each = normal_log_prob(x, net["mean"][None], net["log_std"][None])
        return jax.nn.logsumexp(
            jax.nn.log_softmax(net["logits"])[None] + jnp.sum(each, axis=-1), axis=1
        )

    def init(self, key: Array, batch: Batch, frozen: PyTree) -> tuple[Params, Stats]:
        del frozen
        x = batch["x"].reshape(len(batch["x"]), -1)
        chosen = jax.random.randint(key, (self.num_components,), 0, len(x))
        std = jnp.maximum(jnp.std(x), 1e-2)
        net = {
            "logits": jnp.zeros(self.num_components),
            "mean": x[chosen] + std * jax.random.normal(key, (self.num_components, x.shape[1])),
            "log_std": jnp.full((self.num_components, x.shape[1]), jnp.log(std)),
        }
        return {"net": net}, {}

    def loss(
        self, weights: Weights, batch: Batch, keys: Keys, context: Context
    ) -> tuple[Scalar, Aux]:
        del keys, context
        return batch_mean(batch, -self.nats(weights.params, batch["x"])), Aux({}, {})

    def draw(self, weights: Weights, keys: Keys, cond: Cond) -> Float[Array, "batch *dims"]:
        del cond
        net = weights.params["net"]
        component_keys, noise_keys = rng.split(keys, 2)
        k = jax.vmap(lambda key: jax.random.categorical(key, net["logits"]))(component_keys)
        noise = rng.normal(noise_keys, net["mean"].shape[1:])
        return (net["mean"][k] + jnp.exp(net["log_std"][k]) * noise).reshape(-1, *self.shape)

    def log_prob(self, weights: Weights, batch: Batch, keys: Keys) -> LogProb:
        del keys
        nats = self.nats(weights.params, batch["x"])
        return LogProb(nats, jnp.zeros_like(nats))


def gaussian_mixture_model(shape: Sequence[int], num_components: int) -> Model:
    """Make p(x) = sum_k pi_k N(x; mean_k, std_k^2), fitted by gradients (Bishop 2006, Eq. 9.14).

    Its only player is ``"net"`` and its only loss ``"likelihood"``, -log p(x) in nats an example.
    Components begin around examples of the first batch.

    Args:
        shape: of one x.
        num_components: K.

    Returns:
        A model of ``batch["x"]``, with a sampler and an exact density.

    Raises:
        ValueError: if there is no component.

    Example:
        >>> model = with_codec(gaussian_mixture_model((8, 8, 1), 10), dequantize())
    """
    if num_components < 1:
        raise ValueError(f"num_components: got {num_components}; at least 1 is required")
    made = _Mixture(tuple(shape), num_components)
    return Model(
        init=made.init,
        losses={"likelihood": Loss("net", made.loss)},
        sampler=Sampler(made.draw),
        density=Density(made.log_prob, "exact"),
    )
