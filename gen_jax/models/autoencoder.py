"""Deterministic autoencoders: plain, denoising and sparse."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.nn.autoencoder import Autoencoder
from gen_jax.ops import keys as rng, latents
from gen_jax.ops.corruptions import Corruption
from gen_jax.ops.distributions import kl_bernoulli
from gen_jax.ops.likelihoods import Likelihood
from gen_jax.protocols import (
    Aux,
    Batch,
    Cond,
    Context,
    Latents,
    Loss,
    Model,
    Option,
    Params,
    Sampler,
    Stats,
    Weights,
    batch_mean,
    global_mean,
)
from gen_jax.typing import Array, Float, Keys, PyTree, Scalar

__all__ = ["Sparsity", "autoencoder_model"]

Sparsity = Literal["none", "l1", "kl"]


class _Autoencoder(NamedTuple):
    """What an autoencoder is made of, and what it does."""

    network: Autoencoder
    likelihood: Likelihood
    latent_shape: tuple[int, ...]
    corruption: Corruption | None
    sparsity: Sparsity
    sparsity_weight: float
    sparsity_target: float
    standardize: bool

    def code_of(self, params: Params, x: Array) -> Float[Array, "batch *latent"]:
        z = self.network.apply({"params": params["net"]}, x, None, method="encode")
        assert isinstance(z, Array)
        return jax.nn.sigmoid(z) if self.sparsity == "kl" else z

    def outputs_of(self, params: Params, z: Array) -> Float[Array, "batch height width outputs"]:
        outputs = self.network.apply({"params": params["net"]}, z, None, method="decode")
        assert isinstance(outputs, Array)
        return outputs

    def init(self, key: Array, batch: Batch, frozen: PyTree) -> tuple[Params, Stats]:
        del frozen
        net = self.network.init(key, batch["x"][:1], jnp.zeros((1, *self.latent_shape)))["params"]
        return {"net": net}, {"net": {"moments": latents.init_moments(self.latent_shape)}}

    def loss(
        self, weights: Weights, batch: Batch, keys: Keys, context: Context
    ) -> tuple[Scalar, Aux]:
        x = batch["x"]
        corrupted = x
        if self.corruption is not None and context.train:
            corrupted = self.corruption(rng.fold_in(keys, 0), x)
        z = self.code_of(weights.params, corrupted)
        nats = -self.likelihood.log_prob(
            self.outputs_of(weights.params, z), x, self.likelihood.initial_log_sigma
        )
        total = batch_mean(batch, nats)
        observed = {"moments": latents.observe_moments(z)}
        if self.sparsity == "none":
            return total, Aux(observed, {"reconstruction": total})
        penalty = self._penalty(z, batch, context)
        metrics = {"reconstruction": total, "sparsity": penalty}
        return total + self.sparsity_weight * penalty, Aux(observed, metrics)

    def _penalty(self, z: Array, batch: Batch, context: Context) -> Scalar:
        if self.sparsity == "l1":
            return batch_mean(batch, jnp.sum(jnp.abs(z).reshape(len(z), -1), axis=1))
        use = global_mean(batch, z, context.across)
        penalty = jnp.sum(kl_bernoulli(self.sparsity_target, jnp.clip(use, 1e-6, 1 - 1e-6)))
        # Whoever pads a batch divides by the mean weight.
        return penalty * jnp.mean(batch["weight"]) if "weight" in batch else penalty

    def draw(
        self,
        weights: Weights,
        keys: Keys,
        cond: Cond,
        *,
        spread: Scalar | float = 1.0,
    ) -> Float[Array, "batch height width channels"]:
        """Draw samples; see the sampler's options for what they mean."""
        del cond
        moments = weights.stats["net"]["moments"]
        deviation = jnp.sqrt(jnp.maximum(moments["square"] - moments["mean"] ** 2, 0.0))
        noise = spread * rng.normal(rng.fold_in(keys, 0), self.latent_shape)
        z = moments["mean"][None] + deviation[None] * noise
        if self.sparsity == "kl":
            z = jnp.clip(z, 0.0, 1.0)
        return self.likelihood.mean(self.outputs_of(weights.params, z))

    def encode(
        self, weights: Weights, x: Array, cond: Cond, keys: Keys | None = None
    ) -> Float[Array, "batch *latent"]:
        del keys, cond
        z = self.code_of(weights.params, x)
        return latents.apply_scale(z, *self._scale(weights.stats)) if self.standardize else z

    def _scale(self, stats: Stats) -> tuple[Array, Array]:
        return latents.scale_of(stats["net"]["moments"])

    def decode(
        self, weights: Weights, z: Array, cond: Cond
    ) -> Float[Array, "batch height width channels"]:
        del cond
        if self.standardize:
            z = latents.undo_scale(z, *self._scale(weights.stats))
        return self.likelihood.mean(self.outputs_of(weights.params, z))


def autoencoder_model(
    encoder: nn.Module,
    decoder: nn.Module,
    likelihood: Likelihood,
    latent_shape: Sequence[int],
    *,
    corruption: Corruption | None = None,
    sparsity: Sparsity = "none",
    sparsity_weight: float = 0.0,
    sparsity_target: float = 0.05,
    standardize: bool = False,
) -> Model:
    """Make an autoencoder (Hinton & Salakhutdinov 2006): z = encoder(x), x = decoder(z).

    Its only player is ``"net"`` and its only loss ``"reconstruction"``, -log p(x | z) in nats an
    example: cross-entropy with the Bernoulli likelihood, half the squared error and a constant with
    a Gaussian of sigma 1. Metrics are ``sparsity``, the penalty without its weight,
    and ``active_units``, the units whose code changes with x.

    Args:
        encoder: Linen module ``(x, label) -> [batch, *latent_shape]``; the label is None.
        decoder: Linen module ``(z, label) -> outputs`` of the likelihood.
        likelihood: log p(x | z) of the outputs, with a fixed sigma.
        latent_shape: of one z, channels last.
        corruption: of the encoder's input in training; the decoder must give x as it was (Vincent
            et al. 2010). None for none.
        sparsity: ``"l1"`` adds sum |z|; ``"kl"`` lets z pass a sigmoid and adds
            sum_j KL(rho || mean z_j), the mean over the batch (Ng 2011, section 3.1).
        sparsity_weight: of that penalty. With microbatches the mean is over each of them.
        sparsity_target: rho, in (0, 1).
        standardize: let ``encode`` give, and ``decode`` take, codes shifted and scaled to mean 0
            and variance 1 in each channel by running moments, for a second stage to model.

    Returns:
        A model of ``batch["x"]``. It defines no density. The sampler draws codes from a
        Gaussian with the running mean and deviation of each unit in training (of corrupted x, if
        there is a corruption), which knows nothing of how units hang together.

    Raises:
        ValueError: if an argument is out of range.
    """
    latent_shape = tuple(latent_shape)
    network = Autoencoder(encoder, decoder)
    if sparsity not in ("none", "l1", "kl"):
        raise ValueError(f"sparsity: got {sparsity!r}; none, l1 or kl is required")
    if sparsity_weight < 0:
        raise ValueError(f"sparsity_weight: got {sparsity_weight}; at least 0 is required")
    if not 0 < sparsity_target < 1:
        raise ValueError(f"sparsity_target: got {sparsity_target}; between 0 and 1 is required")
    if likelihood.sigma != "fixed":
        raise ValueError(f"likelihood: got sigma {likelihood.sigma!r}; 'fixed' is required")

    sample_options = {
        "spread": Option(
            float, 1.0, "a number from 0", lambda x: 0 <= x < math.inf, False,
            "deviation of the codes, as a multiple of the training codes'",
        ),
    }  # fmt: skip

    made = _Autoencoder(
        network,
        likelihood,
        latent_shape,
        corruption,
        sparsity,
        sparsity_weight,
        sparsity_target,
        standardize,
    )
    return Model(
        init=made.init,
        losses={"reconstruction": Loss("net", made.loss)},
        update_stats=latents.update_code_moments,
        sampler=Sampler(made.draw, sample_options),
        latents=Latents(made.decode, made.encode),
    )
