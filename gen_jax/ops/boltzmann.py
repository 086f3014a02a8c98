"""Restricted Boltzmann machines: energies, Gibbs sampling, and partition functions.

Of binary hidden units h and visible units v that are binary, E(v, h) = -b v - c h - v W h, or real
numbers, E(v, h) = sum (v - b)^2 / 2 s^2 - c h - (v / s^2) W h (Cho et al. 2011, Eq. 2). All
functions take a :class:`Restricted`; a machine of two hidden layers is one too, see
:func:`folded`.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.ops import keys as rng
from gen_jax.ops.checks import checked
from gen_jax.typing import Array, Float, Int, Key, Keys, ScalarLike

__all__ = [
    "Restricted",
    "annealed_log_z",
    "energy",
    "exact_log_z",
    "folded",
    "free_energy",
    "gibbs",
    "hidden_logits",
    "sample_hidden",
    "sample_visible",
    "swapped",
    "visible_mean",
]

MOST = 20  # units of the smaller side of which all states are counted


class Restricted(NamedTuple):
    """What a restricted Boltzmann machine is made of.

    ``log_scale`` is log s of real-valued visible units; None for binary ones.
    """

    weight: Float[Array, "visible hidden"]
    visible: Float[Array, "visible"]
    hidden: Float[Array, "hidden"]
    log_scale: Float[Array, "visible"] | None = None


def _inputs(machine: Restricted, v: Array) -> Array:
    """Scale real-valued units as the hidden ones see them."""
    return v if machine.log_scale is None else v * jnp.exp(-2 * machine.log_scale)[None]


def _visible_energy(machine: Restricted, v: Array) -> Float[Array, "batch"]:
    if machine.log_scale is None:
        return -v @ machine.visible
    scaled = (v - machine.visible[None]) * jnp.exp(-machine.log_scale)[None]
    return 0.5 * jnp.sum(jnp.square(scaled), axis=1)


@checked
def energy(
    machine: Restricted, v: Float[Array, "batch visible"], h: Float[Array, "batch hidden"]
) -> Float[Array, "batch"]:
    """Compute E(v, h) of each example."""
    joint = jnp.sum((_inputs(machine, v) @ machine.weight) * h, axis=1)
    return _visible_energy(machine, v) - h @ machine.hidden - joint


@checked
def free_energy(machine: Restricted, v: Float[Array, "batch visible"]) -> Float[Array, "batch"]:
    """Compute F(v) = -log sum_h exp(-E(v, h)): log p(v) is -F(v) - log Z."""
    return _visible_energy(machine, v) - jnp.sum(jax.nn.softplus(hidden_logits(machine, v)), axis=1)


@checked
def hidden_logits(
    machine: Restricted, v: Float[Array, "batch visible"]
) -> Float[Array, "batch hidden"]:
    """Return the log-odds of each hidden unit, given the visible ones."""
    return _inputs(machine, v) @ machine.weight + machine.hidden[None]


@checked
def visible_mean(
    machine: Restricted, h: Float[Array, "batch hidden"]
) -> Float[Array, "batch visible"]:
    """Return the mean of each visible unit, given the hidden ones."""
    raw = h @ machine.weight.T + machine.visible[None]
    return jax.nn.sigmoid(raw) if machine.log_scale is None else raw


def _bernoulli(keys: Keys, logits: Array) -> Array:
    u = rng.uniform(keys, logits.shape[1:])
    return (u < jax.nn.sigmoid(logits)).astype(jnp.float32)


@checked
def sample_hidden(
    machine: Restricted, keys: Keys, v: Float[Array, "batch visible"], beta: ScalarLike = 1.0
) -> Float[Array, "batch hidden"]:
    """Draw the hidden units, given the visible ones; ``beta`` multiplies all energies."""
    return _bernoulli(keys, beta * hidden_logits(machine, v))


@checked
def sample_visible(
    machine: Restricted, keys: Keys, h: Float[Array, "batch hidden"], beta: ScalarLike = 1.0
) -> Float[Array, "batch visible"]:
    """Draw the visible units, given the hidden ones; ``beta`` multiplies all energies."""
    raw = h @ machine.weight.T + machine.visible[None]
    if machine.log_scale is None:
        return _bernoulli(keys, beta * raw)
    noise = rng.normal(keys, raw.shape[1:])
    return raw + jnp.exp(machine.log_scale)[None] * beta**-0.5 * noise


@checked
def gibbs(
    machine: Restricted,
    keys: Keys,
    v: Float[Array, "batch visible"],
    steps: int | Int[Array, ""],
    beta: ScalarLike = 1.0,
) -> Float[Array, "batch visible"]:
    """Draw hidden and visible units in turn, so many times, each chain from its own key."""

    def step(number: Array, v: Array) -> Array:
        own = rng.fold_in(keys, number)
        h = sample_hidden(machine, rng.fold_in(own, 0), v, beta)
        return sample_visible(machine, rng.fold_in(own, 1), h, beta)

    return jax.lax.fori_loop(0, steps, step, v)


@checked
def swapped(
    machine: Restricted,
    key: Key[Array, ""],
    v: Float[Array, "temperatures chains visible"],
    h: Float[Array, "temperatures chains hidden"],
    betas: Float[Array, "temperatures"],
    first: int | Int[Array, ""],
) -> Float[Array, "temperatures chains visible"]:
    """Let chains at neighboring temperatures change places (parallel tempering).

    Temperatures i and i + 1, for i = ``first``, ``first`` + 2, ..., swap with probability
    min(1, exp((beta_i - beta_{i+1}) (E_i - E_{i+1}))) (Desjardins et al. 2010, Eq. 5), which keeps
    the joint law of all.

    Args:
        machine: of all temperatures, whose energies beta multiplies.
        key: of the coins.
        v: visible units.
        h: hidden units that belong to them.
        betas: inverse temperatures.
        first: 0 or 1.
    """
    num = len(betas)
    energies = jax.vmap(lambda v, h: energy(machine, v, h))(v, h)
    above = jnp.minimum(jnp.arange(num) + 1, num - 1)
    gain = (betas - betas[above])[:, None] * (energies - energies[above])
    coins = jnp.log(jax.random.uniform(key, gain.shape))
    lower = ((jnp.arange(num) - first) % 2 == 0) & (jnp.arange(num) < num - 1)
    takes = lower[:, None] & (coins < gain)  # i takes what i + 1 has
    gives = jnp.roll(takes, 1, axis=0)
    up, down = v[above], jnp.roll(v, 1, axis=0)
    return jnp.where(takes[..., None], up, jnp.where(gives[..., None], down, v))


def exact_log_z(machine: Restricted, chunk: int = 4096) -> Float[Array, ""]:
    """Compute log Z by counting all states of the smaller side.

    Args:
        machine: with at most 20 units on one side; on the hidden side of real-valued visible units.
        chunk: states at a time.

    Raises:
        ValueError: if there are more.
    """
    num_visible, num_hidden = machine.weight.shape
    by_visible = machine.log_scale is None and num_visible < num_hidden
    num = num_visible if by_visible else num_hidden
    if num > MOST:
        raise ValueError(
            f"machine: got {num} units on the smaller side; at most {MOST} are counted"
        )
    states = (np.arange(2**num)[:, None] >> np.arange(num)) & 1
    chunk = min(chunk, 2**num)

    def summed(part: Array) -> Array:
        part = part.astype(jnp.float32)
        if by_visible:
            return jax.nn.logsumexp(-free_energy(machine, part))
        return jax.nn.logsumexp(_log_weight(machine, part))

    return jax.nn.logsumexp(jax.lax.map(summed, jnp.asarray(states).reshape(-1, chunk, num)))


def _log_weight(machine: Restricted, h: Float[Array, "batch hidden"]) -> Float[Array, "batch"]:
    """Compute log sum_v exp(-E(v, h))."""
    raw = h @ machine.weight.T
    if machine.log_scale is None:
        raw = raw + machine.visible[None]
        return h @ machine.hidden + jnp.sum(jax.nn.softplus(raw), axis=1)
    middle = jnp.square(raw + machine.visible[None]) - jnp.square(machine.visible)[None]
    each = 0.5 * middle * jnp.exp(-2 * machine.log_scale)[None] + machine.log_scale[None]
    area = 0.5 * math.log(2 * math.pi) * len(machine.visible)
    return h @ machine.hidden + jnp.sum(each, axis=1) + area


@checked
def annealed_log_z(
    machine: Restricted, key: Key[Array, ""], num_chains: int = 100, num_steps: int = 1000
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Estimate log Z by annealed importance sampling, and its standard error.

    From independent visible units, whose biases are the machine's own, to the machine itself
    (Salakhutdinov & Murray 2008, section 4.1). Z is estimated without bias; its logarithm errs low.

    Args:
        machine: the machine.
        key: of all chains.
        num_chains: runs; the error falls as their square root.
        num_steps: temperatures between; the more, the less runs differ.

    Returns:
        log Z and the standard error of that, by the delta method.
    """
    keys = rng.per_example(key, 0, num_chains)

    def at(beta: ScalarLike) -> Restricted:
        """Weaken all that goes by hidden units, and leave the visible ones as they are."""
        return machine._replace(weight=beta * machine.weight, hidden=beta * machine.hidden)

    independent = at(0.0)
    num_hidden = len(machine.hidden)
    start = sample_visible(independent, rng.fold_in(keys, 0), jnp.zeros((num_chains, num_hidden)))
    if machine.log_scale is None:
        log_z = jnp.sum(jax.nn.softplus(machine.visible))
    else:
        log_z = jnp.sum(machine.log_scale) + 0.5 * math.log(2 * math.pi) * len(machine.visible)
    log_z = log_z + num_hidden * math.log(2)

    def step(carry: tuple[Array, Array], number: Array) -> tuple[tuple[Array, Array], None]:
        v, log_w = carry
        old, new = at((number - 1) / num_steps), at(number / num_steps)
        log_w = log_w + free_energy(old, v) - free_energy(new, v)
        return (gibbs(new, rng.fold_in(keys, number), v, 1), log_w), None

    carry = (start, jnp.zeros(num_chains))
    (_, log_w), _ = jax.lax.scan(step, carry, jnp.arange(1, num_steps + 1))
    relative = jnp.exp(log_w - jnp.max(log_w))
    stderr = jnp.std(relative) / jnp.mean(relative) / math.sqrt(num_chains)
    return log_z + jax.nn.logsumexp(log_w) - math.log(num_chains), stderr


@checked
def folded(
    first: Float[Array, "visible middle"],
    second: Float[Array, "middle top"],
    visible: Float[Array, "visible"],
    middle: Float[Array, "middle"],
    top: Float[Array, "top"],
) -> Restricted:
    """See a machine of two hidden layers as one between its middle layer and the two others.

    Its visible units are the middle layer, its hidden ones the visible and the top layer in a row:
    given the middle both are independent (Salakhutdinov & Hinton 2009, section 3). Gibbs sampling
    and log Z are then those of the restricted machine.
    """
    weight = jnp.concatenate([first.T, second], axis=1)
    return Restricted(weight, middle, jnp.concatenate([visible, top]))
