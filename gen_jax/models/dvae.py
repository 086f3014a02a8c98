"""The discrete VAE of DALL-E (Ramesh et al. 2021), with a Gumbel-softmax relaxation."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.ops import keys as rng
from gen_jax.ops.likelihoods import Likelihood
from gen_jax.ops.quantization import code_shares, gumbel_softmax, kl_to_uniform
from gen_jax.ops.quantizers import use_of_codes
from gen_jax.ops.ramps import Ramp
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
from gen_jax.typing import Array, Float, Int, Keys, PyTree, Scalar, ScalarLike

__all__ = ["Ramp", "dvae_model"]


# Of DALL-E.
TEMPERATURE = Ramp(1.0, 1.0 / 16, 150_000)
KL_WEIGHT = Ramp(0.0, 6.6, 5_000)


class _DVAE(NamedTuple):
    """What a discrete VAE is made of, and what it does."""

    encoder: nn.Module
    decoder: nn.Module
    likelihood: Likelihood
    code_shape: tuple[int, ...]
    num_codes: int
    temperature: Ramp
    kl_weight: Ramp
    straight_through: bool
    decay: float

    def logits_of(self, params: Params, x: Array) -> Float[Array, "batch height width codes"]:
        logits = self.encoder.apply({"params": params["net"]["encoder"]}, x)
        assert isinstance(logits, Array)
        return logits

    def outputs_of(self, params: Params, z: Array) -> Float[Array, "batch height width outputs"]:
        outputs = self.decoder.apply({"params": params["net"]["decoder"]}, z)
        assert isinstance(outputs, Array)
        return outputs

    def init(self, key: Array, batch: Batch, frozen: PyTree) -> tuple[Params, Stats]:
        del frozen
        encoder_key, decoder_key = jax.random.split(key)
        z = jnp.zeros((1, *self.code_shape, self.num_codes))
        net = {
            "encoder": self.encoder.init(encoder_key, batch["x"][:1])["params"],
            "decoder": self.decoder.init(decoder_key, z)["params"],
        }
        return {"net": net}, {
            "net": {"usage": jnp.full((1, self.num_codes), 1.0 / self.num_codes, jnp.float32)}
        }

    def terms(
        self, params: Params, x: Array, keys: Keys, tau: ScalarLike, *, train: bool
    ) -> tuple[Array, Array, Array]:
        """Return log p(x | z), the KL and the likeliest codes of each example."""
        logits = self.logits_of(params, x)
        hard = self.straight_through or not train
        z = gumbel_softmax(rng.fold_in(keys, 0), logits, tau, hard=hard)
        nats = self.likelihood.log_prob(
            self.outputs_of(params, z), x, self.likelihood.initial_log_sigma
        )
        kl = jnp.sum(kl_to_uniform(logits), axis=(1, 2))
        return nats, kl, jnp.argmax(logits, axis=-1)

    def loss(
        self, weights: Weights, batch: Batch, keys: Keys, context: Context
    ) -> tuple[Scalar, Aux]:
        tau = (
            self.temperature.at(context.step)
            if context.train
            else jnp.float32(self.temperature.end)
        )
        beta = self.kl_weight.at(context.step) if context.train else jnp.float32(self.kl_weight.end)
        nats, kl, codes = self.terms(weights.params, batch["x"], keys, tau, train=context.train)
        reconstruction, divergence = batch_mean(batch, -nats), batch_mean(batch, kl)
        metrics = {"reconstruction": reconstruction, "kl": divergence, "temperature": tau}
        observed = {"counts": code_shares(codes, self.num_codes)[None]}
        return reconstruction + beta * divergence, Aux(observed, metrics)

    def update_stats(
        self, weights: Weights, observed: Mapping[str, PyTree], key: Array, step: Array
    ) -> tuple[Stats, dict[str, Scalar]]:
        del key, step
        now = observed["net"]["counts"]
        usage, metrics = use_of_codes(weights.stats["net"]["usage"], now, self.decay)
        return {"net": {"usage": usage}}, dict(metrics)

    def encode(
        self, weights: Weights, x: Array, cond: Cond, keys: Keys | None = None
    ) -> Int[Array, "batch height width"]:
        del keys, cond
        return jnp.argmax(self.logits_of(weights.params, x), axis=-1).astype(jnp.int32)

    def decode(
        self, weights: Weights, z: Int[Array, "batch rows columns"], cond: Cond
    ) -> Float[Array, "batch height width channels"]:
        del cond
        return self.likelihood.mean(self.outputs_of(weights.params, z))

    def log_prob(self, weights: Weights, batch: Batch, keys: Keys) -> LogProb:
        nats, kl, _ = self.terms(weights.params, batch["x"], keys, 1.0, train=False)
        return LogProb(nats - kl, jnp.full_like(nats, jnp.nan))

    def draw(
        self, weights: Weights, keys: Keys, cond: Cond
    ) -> Float[Array, "batch height width channels"]:
        codes = jax.vmap(lambda key: jax.random.randint(key, self.code_shape, 0, self.num_codes))(
            keys
        )
        return self.decode(weights, codes, cond)


def dvae_model(
    encoder: nn.Module,
    decoder: nn.Module,
    likelihood: Likelihood,
    code_shape: Sequence[int],
    num_codes: int,
    *,
    temperature: Ramp = TEMPERATURE,
    kl_weight: Ramp = KL_WEIGHT,
    straight_through: bool = False,
    decay: float = 0.99,
) -> Model:
    """Make a VAE whose latents are grids of categorical variables with a uniform prior.

    Its only player is ``"net"`` and its only loss ``"elbo"``, in nats an example:
    -log p(x | z) + beta KL(q(z | x) || uniform), with z a Gumbel-softmax relaxation of a draw from
    q (Ramesh et al. 2021, section 2.1 and appendix A.2), or, outside training, a draw itself.
    Metrics are ``reconstruction``, ``kl``, ``temperature``, and of the likeliest codes
    ``perplexity``, exp(entropy) of their shares in the batch, and ``codes_used``, the share of
    codes with more than 1 % of an equal share in a running average.

    Args:
        encoder: Linen module ``x -> logits`` [batch, *code_shape, num_codes].
        decoder: Linen module ``z -> outputs`` of the likelihood, of relaxed vectors, of the shape
            of the logits, and of codes.
        likelihood: log p(x | z) of the outputs, with a fixed sigma.
        code_shape: height and width of a grid of codes.
        num_codes: K.
        temperature: of the relaxation, by step.
        kl_weight: beta, by step; its end outside training.
        straight_through: give the decoder one-hot vectors in training too, with the relaxation's
            gradient.
        decay: of the running average of codes.

    Returns:
        A model of ``batch["x"]``. ``encode`` gives the likeliest codes, int32 [batch, h, w];
        ``decode`` the mean of p(x | z). The sampler decodes codes drawn from the prior: for
        samples that are images a second stage is required. The density is the bound with beta
        1, of a single draw.

    Raises:
        ValueError: if an argument is out of range.
    """
    code_shape = tuple(code_shape)
    if min(temperature.start, temperature.end) <= 0:
        raise ValueError(f"temperature: got {temperature}; above 0 is required")
    if min(kl_weight.start, kl_weight.end) < 0:
        raise ValueError(f"kl_weight: got {kl_weight}; at least 0 is required")
    if likelihood.sigma != "fixed":
        raise ValueError(f"likelihood: got sigma {likelihood.sigma!r}; 'fixed' is required")

    made = _DVAE(
        encoder,
        decoder,
        likelihood,
        code_shape,
        num_codes,
        temperature,
        kl_weight,
        straight_through,
        decay,
    )
    return Model(
        init=made.init,
        losses={"elbo": Loss("net", made.loss)},
        update_stats=made.update_stats,
        sampler=Sampler(made.draw),
        latents=Latents(made.decode, made.encode, num_codes=num_codes),
        density=Density(made.log_prob, "bound"),
    )
