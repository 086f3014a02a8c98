"""Adversarial autoencoders (Makhzani et al. 2015)."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.nn.autoencoder import Autoencoder
from gen_jax.ops import keys as rng
from gen_jax.ops import latents
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
    draws. In that last turn the decoder's gradient is zero: an optimiser with momentum must leave
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
        raise ValueError(f"likelihood: sigma must be 'fixed', got {likelihood.sigma!r}")

    network = Autoencoder(encoder, decoder)

    def code_of(params: Params, x: Array) -> Float[Array, "batch latent"]:
        z = network.apply({"params": params["net"]}, x, None, method="encode")
        assert isinstance(z, Array)
        return z

    def outputs_of(params: Params, z: Array) -> Float[Array, "batch height width outputs"]:
        outputs = network.apply({"params": params["net"]}, z, None, method="decode")
        assert isinstance(outputs, Array)
        return outputs

    def logits_of(params: Params, z: Array) -> Float[Array, "batch"]:
        logits = discriminator.apply({"params": params["disc"]}, z)
        assert isinstance(logits, Array)
        return logits

    def init(key: Array, batch: Batch, frozen: PyTree) -> tuple[Params, Stats]:
        del frozen
        net_key, disc_key = jax.random.split(key)
        z = jnp.zeros((1, latent_dim))
        net = network.init(net_key, batch["x"][:1], z)["params"]
        params = {"net": net, "disc": discriminator.init(disc_key, z)["params"]}
        return params, {"net": {"moments": latents.init_moments((latent_dim,))}, "disc": {}}

    def reconstruct(
        weights: Weights, batch: Batch, keys: Keys, context: Context
    ) -> tuple[Scalar, Aux]:
        del keys, context
        x = batch["x"]
        z = code_of(weights.params, x)
        nats = -likelihood.log_prob(outputs_of(weights.params, z), x, likelihood.initial_log_sigma)
        return batch_mean(batch, nats), Aux({"moments": latents.observe_moments(z)}, {})

    def discriminate(
        weights: Weights, batch: Batch, keys: Keys, context: Context
    ) -> tuple[Scalar, Aux]:
        del context
        params = weights.params
        real = logits_of(params, rng.normal(rng.fold_in(keys, 0), (latent_dim,)))
        fake = logits_of(params, code_of(params, batch["x"]))
        right = 0.5 * ((real > 0).astype(jnp.float32) + (fake <= 0).astype(jnp.float32))
        metrics = {"accuracy": batch_mean(batch, right)}
        return batch_mean(batch, discriminator_loss(real, fake)), Aux({}, metrics)

    def fool(weights: Weights, batch: Batch, keys: Keys, context: Context) -> tuple[Scalar, Aux]:
        del keys, context
        fake = logits_of(weights.params, code_of(weights.params, batch["x"]))
        return batch_mean(batch, non_saturating_loss(fake)), Aux({}, {})

    def update_stats(
        weights: Weights, observed: PyTree, key: Array, step: Array
    ) -> tuple[Stats, dict[str, Scalar]]:
        del key
        if not observed.get("net"):
            return weights.stats, {}
        net = latents.update_moments(weights.stats["net"], observed["net"], step)
        return {**weights.stats, "net": net}, {"active_units": latents.active_units(net["moments"])}

    def prior(keys: Keys) -> Float[Array, "batch latent"]:
        return rng.normal(rng.fold_in(keys, 0), (latent_dim,))

    def draw(
        weights: Weights,
        keys: Keys,
        cond: Cond,
        *,
        spread: Scalar | float = 1.0,
    ) -> Float[Array, "batch height width channels"]:
        """Draw samples; see the sampler's options for what they mean."""
        return decode(weights, spread * prior(keys), cond)

    def encode(
        weights: Weights, x: Array, cond: Cond, keys: Keys | None = None
    ) -> Float[Array, "batch latent"]:
        del keys, cond
        return code_of(weights.params, x)

    def decode(
        weights: Weights, z: Array, cond: Cond
    ) -> Float[Array, "batch height width channels"]:
        del cond
        return likelihood.mean(outputs_of(weights.params, z))

    sample_options = {
        "spread": Option(
            float, 1.0, "a number from 0", lambda x: 0 <= x < math.inf, False,
            "standard deviation of the codes; below 1 for likelier samples",
        ),
    }  # fmt: skip

    return Model(
        init=init,
        losses={
            "reconstruct": Loss("net", reconstruct),
            "discriminate": Loss("disc", discriminate),
            "fool": Loss("net", fool),
        },
        update_stats=update_stats,
        sampler=Sampler(draw, sample_options),
        latents=Latents(decode, encode, prior),
    )
