"""Classifiers of clean or noisy images: guides, and judges of samples."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.diffusion.schedules import Schedule, diffuse, like
from gen_jax.diffusion.time_sampling import TimeSampler, continuous, discrete
from gen_jax.ops import keys as rng
from gen_jax.protocols import (
    Aux,
    Batch,
    Context,
    Loss,
    Model,
    Params,
    Predicted,
    Stats,
    batch_mean,
    no_statistics,
)
from gen_jax.typing import Array, Float, Keys, Scalar

__all__ = ["classifier"]


def classifier(
    network: nn.Module,
    schedule: Schedule | None = None,
    num_steps: int | None = None,
    time_sampler: TimeSampler | None = None,
) -> Model:
    """Make a classifier of a network.

    Its only player is ``"net"`` and its only loss ``"classify"``, the cross-entropy in nats.

    Args:
        network: Linen module ``(x, t, keys) -> (logits, features)``; ``keys`` is None outside of
            training.
        schedule: noise that training adds, so that p(label | x_t) can guide a diffusion model
            (Dhariwal & Nichol 2021, section 4); None for clean images, t = 0. Of schedules whose
            variance explodes the network sees x_t / hypot(alpha, sigma).
        num_steps: T of a discrete schedule.
        time_sampler: which times are trained; by default uniform ones.

    Returns:
        A model of ``batch["x"]`` and ``batch["label"]`` with ``predict``; it cannot sample. Outside
        of training its loss is on clean images.
    """
    times = time_sampler
    if times is None:
        times = continuous() if num_steps is None else discrete(num_steps)

    def look(params: Params, x: Array, t: Array, keys: Keys | None) -> tuple[Array, Array]:
        if schedule is not None:
            size = jnp.hypot(schedule.alpha(t), schedule.sigma(t))
            x = x / like(jnp.maximum(size, 1.0), x)
        logits, features = network.apply({"params": params["net"]}, x, t, keys)
        assert isinstance(features, Array)
        return logits, features

    def init(key: Array, batch: Batch) -> tuple[Params, Stats]:
        x = batch["x"]
        return {"net": network.init(key, x, jnp.zeros(len(x)))["params"]}, {}

    def loss(
        params: Params, stats: Stats, batch: Batch, keys: Keys, context: Context
    ) -> tuple[Scalar, Aux]:
        del stats
        x, t = batch["x"], jnp.zeros(len(batch["x"]))
        time_keys, noise_keys, dropout_keys = rng.split(keys, 3)
        if schedule is not None and context.train:
            t = times(time_keys)
            x = diffuse(schedule, x, t, rng.normal(noise_keys, x.shape[1:]))
        logits, _ = look(params, x, t, dropout_keys if context.train else None)
        log_probs = jax.nn.log_softmax(logits)
        nats = -jnp.take_along_axis(log_probs, batch["label"][:, None], axis=1)[:, 0]
        right = (jnp.argmax(logits, axis=1) == batch["label"]).astype(jnp.float32)
        metrics = {"accuracy": batch_mean(batch, right)}
        return batch_mean(batch, nats), Aux(observed={}, metrics=metrics)

    def predict(
        params: Params, stats: Stats, x: Array, t: Float[Array, "batch"] | None = None
    ) -> Predicted:
        del stats
        t = jnp.zeros(len(x)) if t is None else t
        logits, features = look(params, x, t, None)
        return Predicted(jax.nn.log_softmax(logits), features)

    return Model(
        init=init,
        losses={"classify": Loss("net", loss)},
        update_stats=no_statistics,
        predict=predict,
    )
