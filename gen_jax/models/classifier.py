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
    Cond,
    Context,
    Input,
    Loss,
    Model,
    Params,
    Predicted,
    Stats,
    Weights,
    batch_mean,
    take,
)
from gen_jax.typing import Array, Keys, PyTree, Scalar

__all__ = ["classifier_model"]


def classifier_model(
    network: nn.Module,
    num_classes: int,
    schedule: Schedule | None = None,
    num_steps: int | None = None,
    time_sampler: TimeSampler | None = None,
) -> Model:
    """Make a classifier of a network.

    Its only player is ``"net"`` and its only loss ``"classify"``, the cross-entropy in nats.

    Args:
        network: Linen module ``(x, t, keys) -> (logits, features)``; ``keys`` is None outside of
            training.
        num_classes: labels are in [0, num_classes).
        schedule: noise that training adds, so that p(label | x_t) can guide a diffusion model
            (Dhariwal & Nichol 2021, section 4); None for clean images, t = 0. Of schedules whose
            variance explodes the network sees x_t / hypot(alpha, sigma).
        num_steps: T of a discrete schedule.
        time_sampler: which times are trained; by default uniform ones.

    Returns:
        A model of ``batch["x"]`` and ``batch["label"]`` with ``predict``, which takes the times of
        noisy images as ``cond["t"]``, [B]; it cannot sample. Outside of training its loss is on
        clean images.
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

    def init(key: Array, batch: Batch, frozen: PyTree) -> tuple[Params, Stats]:
        del frozen
        x = batch["x"]
        return {"net": network.init(key, x, jnp.zeros(len(x)))["params"]}, {}

    def loss(weights: Weights, batch: Batch, keys: Keys, context: Context) -> tuple[Scalar, Aux]:
        x, t = batch["x"], jnp.zeros(len(batch["x"]))
        time_keys, noise_keys, dropout_keys = rng.split(keys, 3)
        if schedule is not None and context.train:
            t = times(time_keys)
            x = diffuse(schedule, x, t, rng.normal(noise_keys, x.shape[1:]))
        logits, _ = look(weights.params, x, t, dropout_keys if context.train else None)
        log_probs = jax.nn.log_softmax(logits)
        nats = -jnp.take_along_axis(log_probs, take(batch, "label")[:, None], axis=1)[:, 0]
        right = (jnp.argmax(logits, axis=1) == take(batch, "label")).astype(jnp.float32)
        metrics = {"accuracy": batch_mean(batch, right)}
        return batch_mean(batch, nats), Aux(observed={}, metrics=metrics)

    def predict(weights: Weights, x: Array, cond: Cond) -> Predicted:
        t = cond["t"] if "t" in cond else jnp.zeros(len(x))
        logits, features = look(weights.params, x, t, None)
        return Predicted(jax.nn.log_softmax(logits), features)

    return Model(
        init=init,
        losses={"classify": Loss("net", loss)},
        inputs={
            "label": Input("label", size=num_classes, help="class"),
            "t": Input("vectors", needed=False, help="time of a noisy image"),
        },
        predict=predict,
    )
