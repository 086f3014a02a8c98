"""Boltzmann machines: restricted ones, and deep ones of two hidden layers."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gen_jax.errors import check_arguments
from gen_jax.models.rules import boltzmann_faults
from gen_jax.ops import boltzmann as machines, keys as rng
from gen_jax.ops.boltzmann import Restricted
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
)
from gen_jax.typing import Array, Float, Int, Keys, PyTree, Scalar, Shape

__all__ = ["dbm_model", "rbm_model"]


_ODDS = 0.01  # visible biases begin at log-odds of means between this and 1 minus this


def _flat(x: Array) -> Float[Array, "batch visible"]:
    return jnp.reshape(x, (len(x), -1)).astype(jnp.float32)


def _log_odds(mean: Array) -> Array:
    mean = jnp.clip(mean, _ODDS, 1 - _ODDS)
    return jnp.log(mean) - jnp.log1p(-mean)


def _partition(
    machine: Restricted, num_chains: int = 100, num_steps: int = 1000
) -> tuple[Array, Array]:
    """Compute log Z by counting all states, or estimate it, and its standard error."""
    if _is_small(machine.weight.shape, machine.log_scale is None):
        return machines.exact_log_z(machine), jnp.zeros(())
    return machines.annealed_log_z(machine, jax.random.key(0), num_chains, num_steps)


def _is_small(shape: Sequence[int], binary: bool) -> bool:
    return (min(shape) if binary else shape[1]) <= machines.MOST


def _normalized(
    machine: Restricted, nats: Array, log_z: tuple[Array, Array] | None, options: Mapping[str, int]
) -> LogProb:
    """Subtract log Z, which was given or is found; its error is the same for all."""
    found = _partition(machine, **options) if log_z is None else log_z
    return LogProb(nats - found[0], jnp.broadcast_to(found[1], nats.shape))


_AIS = {
    "num_chains": Option(
        int, 100, "a whole number from 2", lambda n: n >= 2, True,
        "runs of annealed importance sampling, where log Z is estimated",
    ),
    "num_steps": Option(
        int, 1000, "a whole number from 1", lambda n: n >= 1, True,
        "temperatures of annealed importance sampling",
    ),
}  # fmt: skip
_STEPS = Option(
    int, 1000, "a whole number from 1", lambda n: n >= 1, False,
    "Gibbs steps, from a chain of training; after CD from independent pixels, warmed up by half",
)  # fmt: skip
_OUTPUT = Option(
    str, "mean", "mean or draw", lambda x: x in ("mean", "draw"), True,
    "the last means of pixels, or draws of them",
)  # fmt: skip


class _RBM(NamedTuple):
    """What a restricted Boltzmann machine is made of, and what it does."""

    shape: Shape
    hidden: int
    gaussian: bool
    negative: str
    steps: int
    chains: int
    temperatures: int

    @property
    def num_visible(self) -> int:
        return math.prod(self.shape)

    def machine(self, params: Params) -> Restricted:
        return Restricted(**params["net"])

    def init(self, key: Array, batch: Batch, frozen: PyTree) -> tuple[Params, Stats]:
        """Begin with the data's own means, and small weights (Hinton 2010, sections 7 and 8)."""
        del frozen
        weight_key, chain_key = jax.random.split(key)
        x = _flat(batch["x"])
        mean = jnp.mean(x, axis=0)
        net = {
            "weight": 0.01 * jax.random.normal(weight_key, (self.num_visible, self.hidden)),
            "visible": mean if self.gaussian else _log_odds(mean),
            "hidden": jnp.zeros(self.hidden),
        }
        if self.gaussian:
            net["log_scale"] = jnp.log(jnp.maximum(jnp.std(x, axis=0), 0.05))
        if self.negative == "cd":
            return {"net": net}, {}
        num = self.temperatures if self.negative == "tempering" else 1
        machine = Restricted(**net)
        keys = rng.per_example(chain_key, 0, num * self.chains)
        nothing = jnp.zeros((num * self.chains, self.hidden))
        v = machines.sample_visible(machine, keys, nothing)
        return {"net": net}, {"net": {"chains": v.reshape(num, self.chains, -1)}}

    def loss(
        self, weights: Weights, batch: Batch, keys: Keys, context: Context
    ) -> tuple[Scalar, Aux]:
        """Lower the data's free energy and raise that of what the machine itself draws."""
        machine, x = self.machine(weights.params), _flat(batch["x"])
        fixed = jax.lax.stop_gradient(machine)
        if self.negative == "cd":
            drawn = machines.gibbs(fixed, keys, x, self.steps)
            raised = batch_mean(batch, machines.free_energy(machine, drawn))
        else:
            drawn = weights.stats["net"]["chains"][-1]
            raised = jnp.mean(machines.free_energy(machine, drawn))
        lowered = batch_mean(batch, machines.free_energy(machine, x))
        again = machines.visible_mean(fixed, jax.nn.sigmoid(machines.hidden_logits(fixed, x)))
        error = batch_mean(batch, jnp.mean(jnp.square(again - x), axis=1))
        active = jnp.mean(jax.nn.sigmoid(machines.hidden_logits(fixed, x)), axis=1)
        metrics = {
            "gap": lowered - raised,  # about 0 while both have the same free energy
            "reconstruction": error,
            "active": batch_mean(batch, active),
        }
        return lowered - raised, Aux({}, metrics)

    def update_stats(
        self, weights: Weights, observed: Mapping[str, PyTree], key: Array, step: Array
    ) -> tuple[Stats, Mapping[str, Scalar]]:
        """Take the chains some steps on, with the new weights, whatever the batch was."""
        del observed
        if self.negative == "cd":
            return weights.stats, {}
        machine, chains = self.machine(weights.params), weights.stats["net"]["chains"]
        num, many = chains.shape[:2]
        betas = jnp.linspace(1 / num, 1, num)
        keys = rng.per_example(key, 0, num * many).reshape(num, many)

        def advanced(keys: Keys, v: Array, beta: Array) -> tuple[Array, Array]:
            v = machines.gibbs(machine, keys, v, self.steps, beta)
            return v, machines.sample_hidden(machine, rng.fold_in(keys, self.steps), v, beta)

        v, h = jax.vmap(advanced)(keys, chains, betas)
        if num > 1:
            v = machines.swapped(
                machine, jax.random.fold_in(key, num * many), v, h, betas, step % 2
            )
        return {**weights.stats, "net": {"chains": v}}, {}

    def draw(
        self,
        weights: Weights,
        keys: Keys,
        cond: Cond,
        *,
        steps: int | Int[Array, ""] = 1000,
        output: str = "mean",
    ) -> Float[Array, "batch *dims"]:
        """Draw samples; see the sampler's options for what they mean."""
        del cond
        machine = self.machine(weights.params)
        if self.negative == "cd":
            nothing = jnp.zeros((len(keys), self.hidden))
            start = machines.sample_visible(machine, rng.fold_in(keys, 0), nothing)
        else:
            start = _chosen(rng.fold_in(keys, 0), weights.stats["net"]["chains"][-1])
        warm = self.negative == "cd"
        v, h = _mixed(machine, rng.fold_in(keys, 1), start, steps, warm=warm)
        x = machines.visible_mean(machine, h) if output == "mean" else v
        return jnp.reshape(x, (len(keys), *self.shape))

    def encode(
        self, weights: Weights, x: Array, cond: Cond, keys: Keys | None = None
    ) -> Float[Array, "batch hidden"]:
        del cond
        machine = self.machine(weights.params)
        if keys is not None:
            return machines.sample_hidden(machine, rng.fold_in(keys, 0), _flat(x))
        return jax.nn.sigmoid(machines.hidden_logits(machine, _flat(x)))

    def decode(
        self, weights: Weights, z: Float[Array, "batch hidden"], cond: Cond
    ) -> Float[Array, "batch *dims"]:
        del cond
        x = machines.visible_mean(self.machine(weights.params), z)
        return jnp.reshape(x, (len(z), *self.shape))

    def normalizer(self, weights: Weights, **options: int) -> tuple[Array, Array]:
        return _partition(self.machine(weights.params), **options)

    def log_prob(
        self,
        weights: Weights,
        batch: Batch,
        keys: Keys,
        *,
        log_z: tuple[Array, Array] | None = None,
        **options: int,
    ) -> LogProb:
        """Compute log p(v) = -F(v) - log Z; the error is that of log Z, the same for all."""
        del keys
        machine = self.machine(weights.params)
        nats = -machines.free_energy(machine, _flat(batch["x"]))
        return _normalized(machine, nats, log_z, options)


def _chosen(keys: Keys, chains: Float[Array, "chains units"]) -> Float[Array, "batch units"]:
    """Take for each key one of the chains of training."""
    return chains[jax.vmap(lambda key: jax.random.randint(key, (), 0, len(chains)))(keys)]


def _mixed(
    machine: Restricted, keys: Keys, v: Array, steps: int | Int[Array, ""], *, warm: bool
) -> tuple[Array, Array]:
    """Take Gibbs steps and give the last v and h; warm, weights grow from 0 in the first half."""
    h = jnp.zeros((len(v), len(machine.hidden)))

    def step(number: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        v, _ = state
        own = machine
        if warm:
            share = jnp.minimum(2 * (number + 1) / steps, 1.0)
            own = machine._replace(weight=share * machine.weight, hidden=share * machine.hidden)
        now = rng.fold_in(keys, number)
        h = machines.sample_hidden(own, rng.fold_in(now, 0), v)
        return machines.sample_visible(own, rng.fold_in(now, 1), h), h

    return jax.lax.fori_loop(0, steps, step, (v, h))


def rbm_model(
    shape: Sequence[int],
    hidden: int,
    *,
    gaussian: bool = False,
    negative: str = "pcd",
    steps: int = 1,
    chains: int = 100,
    temperatures: int = 10,
) -> Model:
    """Make a restricted Boltzmann machine (Smolensky 1986; Hinton 2002).

    Its only player is ``"net"`` and its only loss ``"cd"``: the free energy of data less that of
    what the machine draws, whose gradient is that of -log p(x), or near it; its value says nothing.
    The machine draws by k Gibbs steps from the data (CD-k), or in chains that go on from step to
    step (PCD, Tieleman 2008), or in such chains at several temperatures of which the coldest counts
    (Desjardins et al. 2010). Chains are part of the statistics: they are saved, and do not depend
    on batches or devices.

    Args:
        shape: of one x, in {0, 1}, or real numbers.
        hidden: number of hidden units.
        gaussian: whether x is of real numbers, normal given the hidden units.
        negative: ``"pcd"``, ``"cd"`` or ``"tempering"``.
        steps: k.
        chains: of each temperature.
        temperatures: of tempering.

    Returns:
        A model of ``batch["x"]``. Its latents are the probabilities of hidden units. Its density is
        exact where one side has at most 20 units, and else an estimate by annealed importance
        sampling.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> model = with_codec(rbm_model((28, 28, 1), 500), binary())
    """
    check_arguments(
        boltzmann_faults(
            hidden=(hidden,), negative=negative, steps=steps, chains=chains,
            temperatures=temperatures,
        )
    )  # fmt: skip
    made = _RBM(tuple(shape), hidden, gaussian, negative, steps, chains, temperatures)
    small = _is_small((math.prod(shape), hidden), not gaussian)
    return Model(
        init=made.init,
        losses={"cd": Loss("net", made.loss)},
        update_stats=made.update_stats,
        sampler=Sampler(made.draw, {"steps": _STEPS, "output": _OUTPUT}),
        latents=Latents(made.decode, made.encode),
        density=Density(
            made.log_prob,
            "exact" if small else "estimate",
            options={} if small else _AIS,
            normalizer=made.normalizer,
        ),
    )


class _DBM(NamedTuple):
    """What a deep Boltzmann machine is made of, and what it does.

    Energies are of units less their offsets (Montavon & Mueller 2012), so that both layers learn at
    once: E = -b v - c h - d g - (v - v0) W (h - h0) - (h - h0) V (g - g0).
    """

    shape: Shape
    hidden: tuple[int, int]
    steps: int
    chains: int
    rounds: int

    @property
    def num_visible(self) -> int:
        return math.prod(self.shape)

    def machine(self, weights: Weights) -> Restricted:
        """Fold the machine, offsets into its biases, around its middle layer."""
        net, offset = weights.params["net"], weights.stats["net"]["offsets"]
        first, second = net["first"], net["second"]
        visible = net["visible"] - first @ offset["middle"]
        middle = net["middle"] - offset["visible"] @ first - second @ offset["top"]
        top = net["top"] - offset["middle"] @ second
        return machines.folded(first, second, visible, middle, top)

    def init(self, key: Array, batch: Batch, frozen: PyTree) -> tuple[Params, Stats]:
        del frozen
        first_key, second_key, chain_key = jax.random.split(key, 3)
        middle, top = self.hidden
        mean = jnp.clip(jnp.mean(_flat(batch["x"]), axis=0), _ODDS, 1 - _ODDS)
        net = {
            "first": 0.01 * jax.random.normal(first_key, (self.num_visible, middle)),
            "second": 0.01 * jax.random.normal(second_key, (middle, top)),
            "visible": _log_odds(mean),
            "middle": jnp.zeros(middle),
            "top": jnp.zeros(top),
        }
        offsets = {
            "visible": mean,
            "middle": jnp.full(middle, 0.5),
            "top": jnp.full(top, 0.5),
        }
        draws = rng.uniform(rng.per_example(chain_key, 0, self.chains), (middle,))
        chains = (draws < 0.5).astype(jnp.float32)
        return {"net": net}, {"net": {"offsets": offsets, "chains": chains}}

    def mean_field(
        self, machine: Restricted, x: Float[Array, "batch visible"]
    ) -> tuple[Float[Array, "batch middle"], Float[Array, "batch top"]]:
        """Find q(h) q(g) of data by turns (Salakhutdinov & Hinton 2009, Eq. 8 and 9)."""
        from_below = x @ machine.weight.T[: self.num_visible] + machine.visible[None]
        above, bias = machine.weight[:, self.num_visible :], machine.hidden[self.num_visible :]

        def round_of(state: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
            top = state[1]
            middle = jax.nn.sigmoid(from_below + top @ above.T)
            return (middle, jax.nn.sigmoid(middle @ above + bias[None])), None

        start = (jnp.zeros_like(from_below), jnp.full((len(x), len(bias)), 0.5))
        return jax.lax.scan(round_of, start, None, length=self.rounds)[0]

    def loss(
        self, weights: Weights, batch: Batch, keys: Keys, context: Context
    ) -> tuple[Scalar, Aux]:
        del keys, context
        machine, x = self.machine(weights), _flat(batch["x"])
        fixed = jax.lax.stop_gradient(machine)
        middle, top = self.mean_field(fixed, x)
        lowered = batch_mean(
            batch, machines.energy(machine, middle, jnp.concatenate([x, top], axis=1))
        )
        raised = jnp.mean(machines.free_energy(machine, weights.stats["net"]["chains"]))
        again = jax.nn.sigmoid(self.below(fixed, middle))
        metrics = {
            "reconstruction": batch_mean(batch, jnp.mean(jnp.square(again - x), axis=1)),
            "active": batch_mean(batch, jnp.mean(middle, axis=1)),
            "active_top": batch_mean(batch, jnp.mean(top, axis=1)),
        }
        return lowered - raised, Aux({}, metrics)

    def below(self, machine: Restricted, middle: Array) -> Float[Array, "batch visible"]:
        """Return the log-odds of the visible units, given the middle ones."""
        return machines.hidden_logits(machine, middle)[:, : self.num_visible]

    def update_stats(
        self, weights: Weights, observed: Mapping[str, PyTree], key: Array, step: Array
    ) -> tuple[Stats, Mapping[str, Scalar]]:
        del observed, step
        own = weights.stats["net"]
        keys = rng.per_example(key, 0, self.chains)
        chains = machines.gibbs(self.machine(weights), keys, own["chains"], self.steps)
        return {**weights.stats, "net": {**own, "chains": chains}}, {}

    def draw(
        self,
        weights: Weights,
        keys: Keys,
        cond: Cond,
        *,
        steps: int | Int[Array, ""] = 1000,
        output: str = "mean",
    ) -> Float[Array, "batch *dims"]:
        """Draw samples; see the sampler's options for what they mean."""
        del cond
        machine = self.machine(weights)
        start = _chosen(rng.fold_in(keys, 0), weights.stats["net"]["chains"])
        middle, others = _mixed(machine, rng.fold_in(keys, 1), start, steps, warm=False)
        drawn = others[:, : self.num_visible]
        x = jax.nn.sigmoid(self.below(machine, middle)) if output == "mean" else drawn
        return jnp.reshape(x, (len(keys), *self.shape))

    def encode(
        self, weights: Weights, x: Array, cond: Cond, keys: Keys | None = None
    ) -> Float[Array, "batch middle"]:
        del cond, keys
        return self.mean_field(self.machine(weights), _flat(x))[0]

    def decode(
        self, weights: Weights, z: Float[Array, "batch middle"], cond: Cond
    ) -> Float[Array, "batch *dims"]:
        del cond
        x = jax.nn.sigmoid(self.below(self.machine(weights), z))
        return jnp.reshape(x, (len(z), *self.shape))

    def normalizer(self, weights: Weights, **options: int) -> tuple[Array, Array]:
        return _partition(self.machine(weights), **options)

    def log_prob(
        self,
        weights: Weights,
        batch: Batch,
        keys: Keys,
        *,
        log_z: tuple[Array, Array] | None = None,
        **options: int,
    ) -> LogProb:
        """Bound log p(v) from below by mean field: -E_q E(v, h, g) + H(q) - log Z (Eq. 7)."""
        del keys
        machine, x = self.machine(weights), _flat(batch["x"])
        middle, top = self.mean_field(machine, x)
        mean_energy = machines.energy(machine, middle, jnp.concatenate([x, top], axis=1))
        entropy = _entropy(middle) + _entropy(top)
        return _normalized(machine, entropy - mean_energy, log_z, options)


def _entropy(p: Float[Array, "batch units"]) -> Float[Array, "batch"]:
    return -jnp.sum(jax.scipy.special.xlogy(p, p) + jax.scipy.special.xlog1py(1 - p, -p), axis=1)


def dbm_model(
    shape: Sequence[int],
    hidden: Sequence[int],
    *,
    steps: int = 5,
    chains: int = 100,
    rounds: int = 10,
) -> Model:
    """Make a deep Boltzmann machine of two hidden layers (Salakhutdinov & Hinton 2009).

    As :func:`rbm_model`, with mean field in place of the exact posterior of data, and chains that
    go on. Units are centered, so that layers need not be trained one before the other. Chains hold
    the middle layer, given which the two others are independent.

    Args:
        shape: of one x, in {0, 1}.
        hidden: units of the middle and of the top layer.
        steps: Gibbs steps of the chains after each step of training.
        chains: their number.
        rounds: of mean field.

    Returns:
        A model of ``batch["x"]``. Its latents are the middle layer's probabilities; its density is
        the mean-field bound, with log Z counted where the middle layer or the two others together
        have at most 20 units, and else estimated.

    Raises:
        ValueError: if a number is out of range.
    """
    check_arguments(
        boltzmann_faults(
            hidden=hidden, negative="pcd", steps=steps, chains=chains, rounds=rounds, layers=2
        )
    )
    middle, top = hidden
    made = _DBM(tuple(shape), (middle, top), steps, chains, rounds)
    small = _is_small((middle, math.prod(shape) + top), binary=True)
    return Model(
        init=made.init,
        losses={"cd": Loss("net", made.loss)},
        update_stats=made.update_stats,
        sampler=Sampler(made.draw, {"steps": _STEPS, "output": _OUTPUT}),
        latents=Latents(made.decode, made.encode),
        density=Density(
            made.log_prob,
            "bound" if small else "estimate",
            options={} if small else _AIS,
            normalizer=made.normalizer,
        ),
    )
