"""Variational autoencoders (Kingma & Welling 2014; importance-weighted: Burda et al. 2016)."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.errors import check_arguments
from gen_jax.models.rules import vae_faults
from gen_jax.nn.autoencoder import Autoencoder
from gen_jax.ops import keys as rng, latents
from gen_jax.ops.distributions import kl_normal, normal_log_prob
from gen_jax.ops.likelihoods import Likelihood
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
    Option,
    Params,
    Sampler,
    Stats,
    Weights,
    batch_mean,
    global_mean,
    label_input,
    take,
)
from gen_jax.typing import Array, Float, Int, Keys, PyTree, Scalar, ScalarLike

__all__ = ["vae_model"]

# Posterior variances are kept between these, as by Rombach et al. 2022.
MIN_LOG_VARIANCE, MAX_LOG_VARIANCE = -30.0, 20.0


class _VAE(NamedTuple):
    """What a VAE is made of, and what it does."""

    network: Autoencoder
    likelihood: Likelihood
    latent_shape: tuple[int, ...]
    beta: float
    free_bits: float
    kl_warmup: int
    num_importance: int
    num_classes: int | None
    standardize: bool

    def label_of(self, told: Batch | Cond) -> Int[Array, "batch"] | None:
        return take(told, "label") if self.num_classes is not None else None

    def posterior(self, params: Params, x: Array, label: Array | None) -> tuple[Array, Array]:
        outputs = self.network.apply({"params": params["net"]}, x, label, method="encode")
        assert isinstance(outputs, Array)
        mean, log_variance = jnp.split(outputs, 2, axis=-1)
        return mean, jnp.clip(log_variance, MIN_LOG_VARIANCE, MAX_LOG_VARIANCE)

    def outputs_of(
        self, params: Params, z: Float[Array, "batch *latent"], label: Array | None
    ) -> Float[Array, "batch height width outputs"]:
        outputs = self.network.apply({"params": params["net"]}, z, label, method="decode")
        assert isinstance(outputs, Array)
        return outputs

    def log_sigma_of(self, weights: Weights) -> ScalarLike:
        if self.likelihood.sigma == "learned":
            return weights.params["net"]["log_sigma"]
        if self.likelihood.sigma == "optimal":
            return _log_sigma(weights.stats["net"]["squared_error"])
        return self.likelihood.initial_log_sigma

    def log_weights(
        self,
        params: Params, x: Array, noise: Array, q: tuple[Array, Array], label: Array | None,
        log_sigma: ScalarLike,
    ) -> Float[Array, "batch num"]:  # fmt: skip
        """Compute log p(x, z) / q(z | x) for several z of each x: noise [batch, num, *latent]."""
        num = noise.shape[1]
        mean, log_variance = (part[:, None] for part in q)
        z = mean + jnp.exp(0.5 * log_variance) * noise
        repeated = None if label is None else jnp.repeat(label, num)
        outputs = self.outputs_of(params, z.reshape(-1, *self.latent_shape), repeated)
        outputs = outputs.reshape(*z.shape[:2], *outputs.shape[1:])
        axes = tuple(range(2, z.ndim))
        log_p_z = jnp.sum(normal_log_prob(z, 0.0, 0.0), axes)
        # Of the noise, not of z - mean, which a narrow posterior would lose to rounding.
        log_q_z = jnp.sum(normal_log_prob(noise, 0.0, 0.0) - 0.5 * log_variance, axes)
        return self.likelihood.log_prob(outputs, x[:, None], log_sigma) + log_p_z - log_q_z

    def init(self, key: Array, batch: Batch, frozen: PyTree) -> tuple[Params, Stats]:
        del frozen
        label = self.label_of(batch)
        label = None if label is None else label[:1]
        z = jnp.zeros((1, *self.latent_shape))
        net = dict(self.network.init(key, batch["x"][:1], z, label)["params"])
        if self.likelihood.sigma == "learned":
            net["log_sigma"] = jnp.float32(self.likelihood.initial_log_sigma)
        stats: dict[str, Any] = {"moments": latents.init_moments(self.latent_shape)}
        if self.likelihood.sigma == "optimal":
            stats["squared_error"] = jnp.float32(math.exp(2 * self.likelihood.initial_log_sigma))
        return {"net": net}, {"net": stats}

    def elbo(
        self, weights: Weights, batch: Batch, keys: Keys, context: Context
    ) -> tuple[Scalar, Aux]:
        x, label = batch["x"], self.label_of(batch)
        mean, log_variance = self.posterior(weights.params, x, label)
        noise = rng.normal(rng.fold_in(keys, 0), self.latent_shape)
        outputs = self.outputs_of(weights.params, mean + jnp.exp(0.5 * log_variance) * noise, label)
        observed: dict[str, PyTree] = {
            "moments": latents.observe_moments(mean, jnp.exp(log_variance))
        }
        log_sigma = self.log_sigma_of(weights)
        if self.likelihood.sigma == "optimal" and context.train:
            errors = jnp.mean(
                ((self.likelihood.mean(outputs) - x) ** 2).reshape(len(x), -1), axis=1
            )
            observed["squared_error"] = jax.lax.stop_gradient(jnp.mean(errors))
            error = global_mean(batch, errors, context.across)
            log_sigma = _log_sigma(error)
        reconstruction = batch_mean(batch, -self.likelihood.log_prob(outputs, x, log_sigma))
        units = kl_normal(mean, log_variance)
        kl = batch_mean(batch, jnp.sum(units.reshape(len(x), -1), axis=1))
        pressed = kl
        if self.free_bits:
            by_unit = global_mean(batch, units, context.across)
            pressed = jnp.sum(jnp.maximum(by_unit, self.free_bits))
            if "weight" in batch:  # so that whoever divides by the mean weight gets it back
                pressed = pressed * jnp.mean(batch["weight"])
        kl_weight = jnp.float32(self.beta)
        if self.kl_warmup and context.train:  # what is reported after training is the whole
            kl_weight = self.beta * jnp.minimum(1.0, context.step / self.kl_warmup)
        metrics = {"reconstruction": reconstruction, "kl": kl, "neg_elbo": reconstruction + kl}
        return reconstruction + kl_weight * pressed, Aux(observed, metrics)

    def iwae(
        self, weights: Weights, batch: Batch, keys: Keys, context: Context
    ) -> tuple[Scalar, Aux]:
        x, label = batch["x"], self.label_of(batch)
        mean, log_variance = q = self.posterior(weights.params, x, label)
        noise = rng.normal(rng.fold_in(keys, 0), (self.num_importance, *self.latent_shape))
        log_w = self.log_weights(weights.params, x, noise, q, label, self.log_sigma_of(weights))
        bound = jax.nn.logsumexp(log_w, axis=1) - math.log(self.num_importance)
        observed = {"moments": latents.observe_moments(mean, jnp.exp(log_variance))}
        metrics = {"neg_elbo": batch_mean(batch, -jnp.mean(log_w, axis=1))}
        return batch_mean(batch, -bound), Aux(observed, metrics)

    def log_prob(
        self,
        weights: Weights,
        batch: Batch,
        keys: Keys,
        *,
        num_importance: int = 100,
        importance_chunk: int = 100,
    ) -> LogProb:
        """Bound log p(x) from below; sample k of an example has its own key, whatever the chunk."""
        x, label = batch["x"], self.label_of(batch)
        q = self.posterior(weights.params, x, label)
        log_sigma = self.log_sigma_of(weights)
        sample_keys = rng.fold_in(keys, 1)
        chunk = min(num_importance, importance_chunk)
        empty = jnp.full(len(x), -jnp.inf)

        def add(sums: tuple[Array, Array], first: Array) -> tuple[tuple[Array, Array], None]:
            index = first + jnp.arange(chunk)
            noise = jax.vmap(
                lambda key: rng.normal(rng.per_example(key, first, chunk), self.latent_shape)
            )(sample_keys)
            log_w = self.log_weights(weights.params, x, noise, q, label, log_sigma)
            log_w = jnp.where(index[None] < num_importance, log_w, -jnp.inf)
            once = jnp.logaddexp(sums[0], jax.nn.logsumexp(log_w, axis=1))
            return (once, jnp.logaddexp(sums[1], jax.nn.logsumexp(2 * log_w, axis=1))), None

        (once, twice), _ = jax.lax.scan(add, (empty, empty), jnp.arange(0, num_importance, chunk))
        # The delta method on log of a mean: Var(log m) ~ Var(w) / (K E[w]^2).
        variance = jnp.expm1(jnp.maximum(twice - 2 * once + math.log(num_importance), 0.0))
        stderr = jnp.sqrt(variance / num_importance)
        if num_importance == 1:
            stderr = jnp.full_like(stderr, jnp.nan)  # one draw does not say how draws differ
        return LogProb(once - math.log(num_importance), stderr)

    def encode(
        self, weights: Weights, x: Array, cond: Cond, keys: Keys | None = None
    ) -> Float[Array, "batch *latent"]:
        z, log_variance = self.posterior(weights.params, x, self.label_of(cond))
        if keys is not None:
            noise = rng.normal(rng.fold_in(keys, 0), self.latent_shape)
            z = z + jnp.exp(0.5 * log_variance) * noise
        if not self.standardize:
            return z
        return latents.apply_scale(z, *latents.scale_of(weights.stats["net"]["moments"]))

    def outputs_at(self, weights: Weights, z: Array, cond: Cond) -> Array:
        if self.standardize:
            z = latents.undo_scale(z, *latents.scale_of(weights.stats["net"]["moments"]))
        return self.outputs_of(weights.params, z, self.label_of(cond))

    def decode(
        self, weights: Weights, z: Array, cond: Cond
    ) -> Float[Array, "batch height width channels"]:
        return self.likelihood.mean(self.outputs_at(weights, z, cond))

    def prior(self, keys: Keys) -> Float[Array, "batch *latent"]:
        return rng.normal(rng.fold_in(keys, 0), self.latent_shape)

    def draw(
        self,
        weights: Weights,
        keys: Keys,
        cond: Cond,
        *,
        spread: Scalar | float = 1.0,
        output: str = "mean",
    ) -> Float[Array, "batch height width channels"]:
        """Draw samples; see the sampler's options for what they mean."""
        outputs = self.outputs_at(weights, spread * self.prior(keys), cond)
        if output == "mean":
            return self.likelihood.mean(outputs)
        return self.likelihood.sample(outputs, self.log_sigma_of(weights), rng.fold_in(keys, 1))


def vae_model(
    encoder: nn.Module,
    decoder: nn.Module,
    likelihood: Likelihood,
    latent_shape: Sequence[int],
    *,
    beta: float = 1.0,
    free_bits: float = 0.0,
    kl_warmup: int = 0,
    num_importance: int = 1,
    num_classes: int | None = None,
    standardize: bool = False,
) -> Model:
    """Make a latent variable model p(x, z) = N(z; 0, 1) p(x | z), with a Gaussian q(z | x).

    Its only player is ``"net"``. With one importance sample its loss is ``"elbo"``, in nats an
    example, -E_q log p(x | z) + beta KL(q(z | x) || p(z)) with the KL in closed form (Kingma
    & Welling 2014, Eq. 7; beta: Higgins et al. 2017). With K > 1 it is ``"iwae"``,
    -E log 1/K sum_k p(x, z_k) / q(z_k | x) (Burda et al. 2016, Eq. 8). Metrics of ``"elbo"`` are
    ``reconstruction`` and ``kl``, whose sum ``neg_elbo`` is the bound whatever beta; of both,
    ``active_units``, the latent dimensions that the posterior uses.

    Args:
        encoder: Linen module ``(x, label) -> [batch, *latent_shape]`` with twice the last size:
            mean and log-variance.
        decoder: Linen module ``(z, label) -> outputs`` of the likelihood.
        likelihood: log p(x | z) of the outputs.
        latent_shape: of one z, channels last.
        beta: weight of the KL, at least 0.
        free_bits: nats below which a latent unit's KL, averaged over the batch, is not pressed
            (Kingma et al. 2016, Eq. 15, each unit a group). With microbatches this average, as the
            optimal sigma of a Gaussian, is over each of them.
        kl_warmup: steps over which beta rises linearly from 0 in training.
        num_importance: K.
        num_classes: p(x, z | label) and q(z | x, label) for labels in [0, num_classes); None for no
            labels.
        standardize: let ``encode`` give, and ``decode`` take, codes shifted and scaled to mean 0
            and variance 1 in each channel by running moments, and the sampler draw such codes: for
            latents whose posterior hardly feels the prior, and which a second stage models.

    Returns:
        A model of ``batch["x"]``. Its sampler takes ``spread`` and ``output``; its density is the
        importance-weighted bound with ``num_importance`` samples, at most ``importance_chunk`` of
        them in memory at once; its latents are posterior means, or with keys draws, and decode to
        the mean of p(x | z).

    Raises:
        ValueError: if an argument is out of range, or K > 1 meets what only the ELBO has.
    """
    latent_shape = tuple(latent_shape)
    network = Autoencoder(encoder, decoder)
    for name, value, low in (
        ("beta", beta, 0), ("free_bits", free_bits, 0), ("kl_warmup", kl_warmup, 0),
        ("num_importance", num_importance, 1),
    ):  # fmt: skip
        if value < low:
            raise ValueError(f"{name}: got {value}; at least {low} is required")
    check_arguments(
        vae_faults(
            num_importance=num_importance,
            beta=beta,
            free_bits=free_bits,
            kl_warmup=kl_warmup,
            sigma=likelihood.sigma,
        )
    )
    sample_options = {
        "spread": Option(
            float, 1.0, "a number from 0", lambda x: 0 <= x < math.inf, False,
            "standard deviation of the codes; below 1 for likelier samples",
        ),
        "output": Option(
            str, "mean", "mean or draw", ("mean", "draw").__contains__, True,
            "show the mean of p(x | z), or a draw from it",
        ),
    }  # fmt: skip
    density_options = {
        "num_importance": Option(
            int, 100, "a whole number from 1", lambda k: k >= 1, True,
            "importance samples of the bound on log p(x)",
        ),
        "importance_chunk": Option(
            int, 100, "a whole number from 1", lambda k: k >= 1, True,
            "importance samples in memory at once, of each example",
        ),
    }  # fmt: skip

    made = _VAE(
        network,
        likelihood,
        latent_shape,
        beta,
        free_bits,
        kl_warmup,
        num_importance,
        num_classes,
        standardize,
    )
    return Model(
        init=made.init,
        losses={"elbo": Loss("net", made.elbo)}
        if num_importance == 1
        else {"iwae": Loss("net", made.iwae)},
        inputs=label_input(num_classes),
        update_stats=latents.update_code_moments,
        sampler=Sampler(made.draw, sample_options),
        latents=Latents(made.decode, made.encode, made.prior),
        density=Density(made.log_prob, "bound", options=density_options),
    )


def _log_sigma(squared_error: Array) -> Scalar:
    return 0.5 * jnp.log(jnp.maximum(squared_error, 1e-12))
