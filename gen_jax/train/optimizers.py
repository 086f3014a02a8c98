"""Optimizers, as optax chains."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gen_jax.errors import check_arguments
from gen_jax.train.moments import in_16_bits
from gen_jax.train.rules import learning_rate_faults, optimizer_faults
from gen_jax.typing import PyTree

__all__ = ["MOMENTS", "adamw", "by_subtree", "learning_rate", "named"]

MOMENTS = ("float32", "16bit")


def learning_rate(
    peak: float, *, warmup_steps: int, decay: str, total_steps: int
) -> optax.Schedule:
    """Make a learning rate that rises in equal steps, then stays or falls as a cosine to 0.

    Args:
        peak: largest value.
        warmup_steps: how long it rises; the first step has peak / warmup_steps.
        decay: ``"constant"`` or ``"cosine"``.
        total_steps: when the cosine reaches 0.

    Raises:
        ValueError: for any other decay, or a cosine that ends before it begins.
    """
    check_arguments(
        learning_rate_faults(decay=decay, warmup_steps=warmup_steps, total_steps=total_steps)
    )
    if decay == "constant":
        after = optax.constant_schedule(peak)
    else:
        after = optax.cosine_decay_schedule(peak, total_steps - warmup_steps)
    if not warmup_steps:
        return after
    warmup = optax.linear_schedule(peak / warmup_steps, peak, warmup_steps - 1 or 1)
    return optax.join_schedules([warmup, after], [warmup_steps])


def adamw(
    rate: optax.Schedule | float,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float = 1.0,
    moments: str = "float32",
) -> optax.GradientTransformation:
    """Make AdamW (Loshchilov & Hutter 2019) behind clipping of the gradient's global norm.

    Args:
        rate: learning rate.
        b1: decay of the mean.
        b2: decay of the mean square.
        eps: added to the root mean square.
        weight_decay: for matrices, convolution kernels and embeddings; what is called a bias or a
            scale has none, and neither have single numbers and vectors. With 0 it is Adam.
        clip_norm: largest global norm of a gradient; 0 for no clipping.
        moments: ``"float32"``, or ``"16bit"`` to keep both moments in half the memory, as DALL-E
            was trained (Ramesh et al. 2021, D.2); see :mod:`gen_jax.train.moments`.

    Raises:
        ValueError: for other moments.
    """
    if moments not in MOMENTS:
        raise ValueError(f"moments: got {moments!r}; one of {', '.join(MOMENTS)} is required")
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    adam = optax.scale_by_adam(b1, b2, eps)
    return optax.chain(
        clip,
        in_16_bits(adam) if moments == "16bit" else adam,
        optax.add_decayed_weights(weight_decay, mask=_has_direction),
        optax.scale_by_learning_rate(rate),
    )


def named(
    name: str,
    rate: optax.Schedule | float,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    clip_norm: float = 1.0,
    moments: str = "float32",
) -> optax.GradientTransformation:
    """Make one of optax's optimizers by its name, behind clipping of the gradient's global norm.

    Args:
        name: of :data:`gen_jax.train.rules.OPTIMIZERS`: ``"adamw"`` (Loshchilov & Hutter 2019),
            ``"lion"`` (Chen et al. 2023), ``"adafactor"`` (Shazeer & Stern 2018, without relative
            steps), ``"muon"`` (Jordan et al. 2024; what is no matrix has AdamW) or ``"sgd"``.
        rate: learning rate.
        b1: decay of the mean, of sgd and adafactor their momentum; 0 has none.
        b2: of adamw, lion and muon.
        eps: of adamw and muon.
        weight_decay: as of :func:`adamw`.
        clip_norm: likewise.
        moments: likewise; of adamw alone.

    Raises:
        ValueError: for another name, or moments in 16 bits of others than adamw.
    """
    check_arguments(optimizer_faults(name=name, moments=moments))
    if name == "adamw":
        given = {"b1": b1, "b2": b2, "eps": eps, "weight_decay": weight_decay}
        return adamw(rate, **given, clip_norm=clip_norm, moments=moments)
    clip = optax.clip_by_global_norm(clip_norm) if clip_norm else optax.identity()
    if name == "muon":
        muon = optax.contrib.muon(
            rate, beta=b1, eps=eps, weight_decay=weight_decay, weight_decay_mask=_has_direction,
            adam_b1=b1, adam_b2=b2, adam_weight_decay=weight_decay,
        )  # fmt: skip
        return optax.chain(clip, muon)
    momentum = optax.trace(b1) if b1 else optax.identity()
    core = {
        "lion": lambda: optax.scale_by_lion(b1, b2),
        "adafactor": lambda: optax.chain(
            optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), momentum
        ),
        "sgd": lambda: momentum,
    }[name]
    return optax.chain(
        clip,
        core(),
        optax.add_decayed_weights(weight_decay, mask=_has_direction),
        optax.scale_by_learning_rate(rate),
    )


# Layers that are scanned have theirs stacked, and attention a bias for each head: the number of
# dimensions does not tell them from kernels.
_NOT_DECAYED = re.compile(r"(^|_)(bias|scale)$")


def _has_direction(params: PyTree) -> PyTree:
    """Tell kernels and embeddings from biases and scales, by the names of their roles."""

    def decays(path: tuple[Any, ...], x: Any) -> bool:
        name = str(getattr(path[-1], "key", "")) if path else ""
        return x.ndim > 1 and not _NOT_DECAYED.search(name)

    return jax.tree_util.tree_map_with_path(decays, params)


def by_subtree(
    optimizers: Mapping[str, optax.GradientTransformation],
) -> optax.GradientTransformation:
    """Return each subtree of a player its own optimizer, and leave one without a gradient as it is.

    A loss may train a part of a player only. Momentum would move the other part all the same, along
    the gradients of other turns. Schedules count the turns that a subtree was trained in, and
    gradients are clipped by the norm of the subtree.

    Args:
        optimizers: one for each name at the top level of the parameters, a mapping.

    Returns:
        An optimizer of the whole; its ``init`` raises ValueError if the names are others.
    """

    def init(params: PyTree) -> dict[str, Any]:
        if set(params) != set(optimizers):
            raise ValueError(
                f"optimizers: got {sorted(optimizers)}; one for each of {sorted(params)} is "
                "required"
            )
        return {name: optimizers[name].init(part) for name, part in params.items()}

    def update(
        grads: PyTree, state: dict[str, Any], params: PyTree = None
    ) -> tuple[PyTree, dict[str, Any]]:
        updates, states = {}, {}
        for name, part in grads.items():
            own = None if params is None else params[name]
            touched = optax.tree.norm(part) > 0
            update, after = optimizers[name].update(part, state[name], own)
            updates[name] = jax.tree.map(lambda x, use=touched: jnp.where(use, x, 0), update)
            states[name] = jax.tree.map(
                lambda new, old, use=touched: jnp.where(use, new, old), after, state[name]
            )
        return updates, states

    return optax.GradientTransformation(init, update)
