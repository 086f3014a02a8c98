"""Adversarial autoencoders (Makhzani et al. 2015)."""

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.nn.autoencoder import Autoencoder
from gen_jax.ops import keys as rng, latents
from gen_jax.ops.adversarial import discriminator_loss, non_saturating_loss
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
)
from gen_jax.typing import Array, Float, Keys, PyTree, Scalar

__all__ = ["adversarial_autoencoder_model"]


class _AAE(NamedTuple):
    """What an adversarial autoencoder is made of, and what it does."""

    network: Autoencoder
    discriminator: nn.Module
    likelihood: Likelihood
    latent_dim: int

    def code_of(self, params: Params, x: Array) -> Float[Array, "batch latent"]:
        z = self.network.apply({"params": params["net"]}, x, None, method="encode")
        assert isinstance(z, Array)
        return z

    def outputs_of(self, params: Params, z: Array) -> Float[Array, "batch height width outputs"]:
        outputs = self.network.apply({"params": params["net"]}, z, None, method="decode")
        assert isinstance(outputs, Array)
        return outputs

    def logits_of(self, params: Params, z: Array) -> Float[Array, "batch"]:
        logits = self.discriminator.apply({"params": params["disc"]}, z)
        assert isinstance(logits, Array)
        return logits

    def init(self, key: Array, batch: Batch, frozen: PyTree) -> tuple[Params, Stats]:
        del frozen
        net_key, disc_key = jax.random.split(key)
        z = jnp.zeros((1, self.latent_dim))
        net = self.network.init(net_key, batch["x"][:1], z)["params"]
        params = {"net": net, "disc": self.discriminator.init(disc_key, z)["params"]}
        return params, {"net": {"moments": latents.init_moments((self.latent_dim,))}, "disc": {}}

    def reconstruct(
        self, weights: Weights, batch: Batch, keys: Keys, context: Context
    ) -> tuple[Scalar, Aux]:
        del keys, context
        x = batch["x"]
        z = self.code_of(weights.params, x)
        nats = -self.likelihood.log_prob(
            self.outputs_of(weights.params, z), x, self.likelihood.initial_log_sigma
        )
        return batch_mean(batch, nats), Aux({"moments": latents.observe_moments(z)}, {})

    def discriminate(
        self, weights: Weights, batch: Batch, keys: Keys, context: Context
    ) -> tuple[Scalar, Aux]:
        del context
        params = weights.params
        real = self.logits_of(params, rng.normal(rng.fold_in(keys, 0), (self.latent_dim,)))
        fake = self.logits_of(params, self.code_of(params, batch["x"]))
        right = 0.5 * ((real > 0).astype(jnp.float32) + (fake <= 0).astype(jnp.float32))
        metrics = {"accuracy": batch_mean(batch, right)}
        return batch_mean(batch, discriminator_loss(real, fake)), Aux({}, metrics)

    def fool(
        self, weights: Weights, batch: Batch, keys: Keys, context: Context
    ) -> tuple[Scalar, Aux]:
        del keys, context
        fake = self.logits_of(weights.params, self.code_of(weights.params, batch["x"]))
        return batch_mean(batch, non_saturating_loss(fake)), Aux({}, {})

    def prior(self, keys: Keys) -> Float[Array, "batch latent"]:
        return rng.normal(rng.fold_in(keys, 0), (self.latent_dim,))

    def draw(
        self,
        weights: Weights,
        keys: Keys,
        cond: Cond,
        *,
        spread: Scalar | float = 1.0,
    ) -> Float[Array, "batch height width channels"]:
        """Draw samples; see the sampler's options for what they mean."""
        return self.decode(weights, spread * self.prior(keys), cond)

    def encode(
        self, weights: Weights, x: Array, cond: Cond, keys: Keys | None = None
    ) -> Float[Array, "batch latent"]:
        del keys, cond
        return self.code_of(weights.params, x)

    def decode(
        self, weights: Weights, z: Array, cond: Cond
    ) -> Float[Array, "batch height width channels"]:
        del cond
        return self.likelihood.mean(self.outputs_of(weights.params, z))


def adversarial_autoencoder_model(
    encoder: nn.Module,
    decoder: nn.Module,
    discriminator: nn.Module,
    likelihood: Likelihood,
    latent_dim: int,
) -> Model:
    """Make an autoencoder whose codes a discriminator cannot tell from N(0, 1).

    Its players are ``"net"``, with the subtrees ``encoder`` and ``decoder``, and ``"disc"``. Its
    three losses are its turns in a step, in nats an example (Makhzani et al. 2015, section 2):
    ``"reconstruct"`` trains the net on -log p(x | z); ``"discriminate"`` trains the discriminator
    to tell draws from the prior from codes; ``"fool"`` trains the encoder to make codes pass for
    draws. In that last turn the decoder's gradient is zero: an optimizer with momentum must leave
    it alone (see :func:`gen_jax.train.optimizers.by_subtree`). The metric ``accuracy`` of the
    second is the share of codes and draws told right; codes that follow the prior leave 1/2.

    Args:
        encoder: Linen module ``(x, label) -> z [batch, latent_dim]``; the label is None.
        decoder: Linen module ``(z, label) -> outputs`` of the likelihood.
        discriminator: Linen module ``z -> logits [batch]``: above 0 for draws from the prior.
        likelihood: log p(x | z) of the outputs, with a fixed sigma.
        latent_dim: length of z.

    Returns:
        A model of ``batch["x"]``; samples are decoded draws from the prior.

    Raises:
        ValueError: if sigma is not fixed.
    """
    if likelihood.sigma != "fixed":
        raise ValueError(f"likelihood: got sigma {likelihood.sigma!r}; 'fixed' is required")

    network = Autoencoder(encoder, decoder)

    sample_options = {
        "spread": Option(
            float, 1.0, "a number from 0", lambda x: 0 <= x < math.inf, False,
            "standard deviation of the codes; below 1 for likelier samples",
        ),
    }  # fmt: skip

    made = _AAE(network, discriminator, likelihood, latent_dim)
    return Model(
        init=made.init,
        losses={
            "reconstruct": Loss("net", made.reconstruct),
            "discriminate": Loss("disc", made.discriminate),
            "fool": Loss("net", made.fool),
        },
        update_stats=latents.update_code_moments,
        sampler=Sampler(made.draw, sample_options),
        latents=Latents(made.decode, made.encode, made.prior),
    )
