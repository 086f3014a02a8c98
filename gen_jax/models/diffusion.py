"""Denoising diffusion, and flows, over any x, pixels or latents."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.diffusion import editing
from gen_jax.diffusion import guidance as rules
from gen_jax.diffusion import time_sampling as times_of
from gen_jax.diffusion.likelihood import bound, bound_term, flow_log_prob
from gen_jax.diffusion.losses import denoising_loss
from gen_jax.diffusion.pairing import optimal_pairing
from gen_jax.diffusion.parameterization import Denoiser, Parameterization, Prediction, denoiser
from gen_jax.diffusion.recipes import GRIDS, SOLVERS, make_solver, make_times
from gen_jax.diffusion.sampling import (
    integrate,
    karras_times,
    start_noise,
    start_normal,
    uniform_times,
)
from gen_jax.diffusion.schedules import Schedule
from gen_jax.diffusion.solvers import Variance
from gen_jax.diffusion.weighting import Weighting, of_target
from gen_jax.diffusion.weighting import simple as weigh_eps
from gen_jax.ops import keys as rng
from gen_jax.protocols import (
    Aux,
    Batch,
    Context,
    LogProb,
    Loss,
    Model,
    Params,
    SampleOption,
    Stats,
    batch_mean,
    no_statistics,
)
from gen_jax.typing import Array, Float, Int, Keys, PyTree, Scalar, ScalarLike

__all__ = ["Objective", "diffusion"]

Objective = Literal["simple", "hybrid", "vlb"]

# Weight of the bound in the hybrid loss: lambda of Nichol & Dhariwal 2021, Section 3.1.
HYBRID = 1e-3

# Smallest noise level above 0 of the bound of a schedule without a table: that of the first step of
# DDPM's, a bit more than a grey level of data from -1 to 1.
LEAST_NOISE = 0.01

LogClassifier = Callable[[PyTree, Array, Array, Array], Array]
"""``(weights, x_t, t [B], label [B]) -> log p(label | x_t) [B]``"""


class _Condition(NamedTuple):
    """What a network is told beside x_t and t; each may be absent."""

    label: Int[Array, "batch"] | None = None
    context: Float[Array, "batch length dim"] | None = None
    low_res: Float[Array, "batch height width channels"] | None = None
    no_context: Float[Array, "batch length dim"] | None = None  # what guidance leads away from


def diffusion(  # noqa: PLR0915 one set of arguments, closed over
    network: nn.Module,
    schedule: Schedule,
    parameterization: Parameterization,
    shape: Sequence[int],
    num_steps: int | None = None,
    num_classes: int | None = None,
    clip: bool = True,
    *,
    class_dropout: float = 0.0,
    context_dim: int | None = None,
    low_res_factor: int | None = None,
    learned_variance: bool = False,
    objective: Objective = "simple",
    weighting: Weighting | None = None,
    time_sampler: times_of.TimeSampler | None = None,
    importance_batch: int | None = None,
    pairing: bool = False,
    bin_width: float | None = None,
    default_grid: str = "uniform",
) -> Model:
    """Make a diffusion model, or a flow, of a network.

    Its only player is ``"net"`` and its only loss ``"diffusion"``: by default L_simple for the
    parameterisation's target (Ho et al. 2020, Algorithm 1), a mean over dimensions. A rectified
    flow is this with :func:`gen_jax.diffusion.rectified_flow` and ``velocity``.

    Args:
        network: Linen module ``(x_t, t, label, keys, context) -> output``; ``label`` is None
            without classes, ``keys`` None outside of training.
        schedule: signal and noise levels.
        parameterization: what the network is trained to predict.
        shape: of one x.
        num_steps: T of a discrete schedule; training draws t from {1/T, ..., 1}. None for a
            continuous schedule.
        num_classes: labels are in [0, num_classes); None for an unconditional model, which ignores
            labels but as a classifier's target.
        clip: whether sampling clips the predicted x_0 to [-1, 1], the range of pixels.
        class_dropout: share of the training examples whose condition is left out, for
            classifier-free guidance (Ho & Salimans 2022): the label becomes ``num_classes``, which
            the network must have room for, and a context zero.
        context_dim: width of the vectors of ``batch["context"]``; None for none.
        low_res_factor: by how much an image that is to be made larger is smaller than x; the
            network sees it beside x_t, enlarged bilinearly, in twice as many channels. None for
            none.
        learned_variance: whether the network has twice as many outputs, the second half for
            variances (Nichol & Dhariwal 2021, Eq. 15).
        objective: ``"simple"``; ``"vlb"``, the bound in bits/dim; or ``"hybrid"``, L_simple of the
            target and 1e-3 of the bound, which then trains the variances alone.
        weighting: how much each noise level counts in L_simple; None leaves the error of the target
            as it is.
        time_sampler: which times are trained; by default uniform ones, and
            :func:`gen_jax.diffusion.log_normal_noise` where the variance explodes. With a bound,
            times of the table.
        importance_batch: size of the global batch, to draw times in proportion to their losses
            (Nichol & Dhariwal 2021, Eq. 18); None to leave that.
        pairing: whether noise is paired with the examples of the batch by optimal transport.
        bin_width: of one grey level of x, which then is from -1 to 1; None where x is not discrete.
        default_grid: of sampling; see :data:`gen_jax.diffusion.recipes.GRIDS`.

    Returns:
        A model of ``batch["x"]``; ``batch["low_res"]`` has the range of x. Its ``sample`` takes
        the options in ``sample_options``; ``cond``: int labels, or a mapping with any of
        ``"label"``, ``"context"``, ``"no_context"`` (a sequence that guidance leads away from, by
        default zeros) and ``"low_res"``; and ``given``: see :class:`gen_jax.protocols.Model`. Its
        ``log_prob`` is a bound.

    Raises:
        ValueError: if arguments do not go together.
    """
    shape = tuple(shape)
    if objective not in ("simple", "hybrid", "vlb"):
        raise ValueError(f"objective: simple, hybrid or vlb is needed, got {objective!r}")
    if (objective == "hybrid") and not learned_variance:
        raise ValueError("objective: 'hybrid' trains variances; learned_variance is needed")
    if learned_variance and objective == "simple":
        raise ValueError("learned_variance: objective 'simple' would never train it")
    if num_steps is None and (objective != "simple" or importance_batch):
        raise ValueError("objective: the bound, and importance, need a discrete schedule")
    if class_dropout and num_classes is None and context_dim is None:
        raise ValueError("class_dropout: there is no condition to drop")
    if objective == "vlb" and weighting is not None:
        raise ValueError("weighting: goes with 'simple' and 'hybrid'; the bound weighs by itself")
    if importance_batch and time_sampler is not None:
        raise ValueError("time_sampler: with importance_batch the losses choose the times")
    variances: tuple[Variance, ...] = ("beta", "beta_tilde")
    variances = ("learned", *variances) if learned_variance else variances
    draw_times = time_sampler
    explodes = False
    if num_steps is None:  # a table never explodes, and asking it compiles 35 little programs
        with jax.ensure_compile_time_eval():
            explodes = float(jnp.hypot(schedule.alpha(1.0), schedule.sigma(1.0))) > 2
    if draw_times is None and explodes:
        draw_times = times_of.log_normal_noise(schedule)
    elif draw_times is None:
        draw_times = times_of.continuous() if num_steps is None else times_of.discrete(num_steps)

    # Of models of sequences it is not ours to know what they were trained to leave out.
    guided = class_dropout > 0 or (context_dim is not None and num_classes is None)

    def condition_of(batch: Batch, keys: Keys | None = None) -> _Condition:
        label = batch["label"] if num_classes is not None else None
        context = batch["context"] if context_dim is not None else None
        low_res = None
        if low_res_factor is not None:
            x = batch["x"]
            low_res = batch["low_res"] if "low_res" in batch else smaller(x, low_res_factor)
        if class_dropout and keys is not None:
            drop = jax.vmap(lambda key: jax.random.bernoulli(key, class_dropout))(keys)
            if label is not None:
                label = jnp.where(drop, num_classes or 0, label)
            if context is not None:
                context = jnp.where(drop[:, None, None], 0.0, context)
        return _Condition(label, context, low_res)

    def apply_network(
        params: Params, x: Array, t: Array, cond: _Condition, keys: Keys | None
    ) -> Array:
        output = network.apply(
            {"params": params["net"]}, _beside(x, cond), t, cond.label, keys, cond.context
        )
        assert isinstance(output, Array)  # a tuple only for modules that mutate collections
        return output

    def denoiser_of(params: Params, cond: _Condition, keys: Keys | None = None) -> Denoiser:
        return denoiser(
            lambda x, t: apply_network(params, x, t, cond, keys),
            schedule,
            parameterization,
            learned_variance,
        )

    def init(key: Array, batch: Batch) -> tuple[Params, Stats]:
        cond = condition_of(batch)
        x = _beside(batch["x"], cond)
        variables = network.init(key, x, jnp.ones(len(x)), cond.label, None, cond.context)
        stats = {}
        if importance_batch:
            assert num_steps is not None
            stats = {"net": times_of.init_history(num_steps)}
        return {"net": variables["params"]}, stats

    def bits(
        params: Params, x_0: Array, t: Array, eps: Array, cond: _Condition, keys: Keys | None
    ) -> tuple[Array, Array]:
        """Give T L_t in bits/dim, and the squared error of eps, from one run of the network."""
        assert num_steps is not None
        nats, (_, error) = bound_term(
            denoiser_of(params, cond, keys),
            schedule,
            x_0,
            t,
            (jnp.round(t * num_steps) - 1) / num_steps,  # exactly 0 at the end
            eps,
            "learned" if learned_variance else "beta_tilde",
            bin_width,
            freeze_mean=objective == "hybrid",
        )
        return num_steps * nats / (math.prod(shape) * math.log(2)), error

    def loss(
        params: Params, stats: Stats, batch: Batch, keys: Keys, context: Context
    ) -> tuple[Scalar, Aux]:
        x_0 = batch["x"]
        time_keys, noise_keys, dropout_keys, condition_keys = rng.split(keys, 4)
        eps = batch["eps"] if "eps" in batch else rng.normal(noise_keys, shape)
        if pairing and "eps" not in batch:
            across = context.across
            eps = across.own(optimal_pairing(across.gather(x_0), across.gather(eps)))
        cond = condition_of(batch, condition_keys if context.train else None)
        used = dropout_keys if context.train else None
        weights = jnp.ones(len(x_0))
        if importance_batch and context.train:
            t, weights = times_of.importance(stats["net"], time_keys)
        else:
            t = draw_times(time_keys)
        if objective == "simple":
            losses = denoising_loss(
                lambda x_t, t: apply_network(params, x_t, t, cond, used),
                schedule,
                parameterization,
                x_0,
                t,
                eps,
                weighting,
            )
            metrics = {}
        else:
            vlb, error = bits(params, x_0, t, eps, cond, used)
            metrics = {
                "vlb": batch_mean(batch, vlb * weights),
                "eps_error": batch_mean(batch, error * weights),
            }
            if objective == "vlb":
                losses = vlb
            else:
                alpha, sigma = schedule.alpha(t), schedule.sigma(t)
                if weighting is None:  # the error of the target, as in L_simple
                    weight = 1 / of_target(weigh_eps(), parameterization, alpha, sigma)
                else:
                    weight = weighting(jnp.square(alpha / sigma))
                losses = weight * error + HYBRID * vlb
        observed = {}
        if importance_batch:
            assert num_steps is not None
            observed = times_of.observe_history(t, jax.lax.stop_gradient(losses), num_steps)
        return batch_mean(batch, losses * weights), Aux(observed=observed, metrics=metrics)

    def update_stats(
        stats: Stats, observed: Mapping[str, PyTree], key: Array, step: Array
    ) -> tuple[Stats, Mapping[str, Scalar]]:
        del key, step
        assert importance_batch is not None
        history = times_of.update_history(stats["net"], observed["net"], importance_batch)
        return {"net": history}, {}

    def sample(
        params: Params,
        stats: Stats,
        keys: Keys,
        frozen: PyTree,
        cond: PyTree = None,
        *,
        solver: str = "ddim",
        steps: int | None = None,
        grid: str = default_grid,
        eta: ScalarLike | None = None,
        variance: Variance = variances[0],
        guidance: ScalarLike | None = None,
        guidance_from: ScalarLike = 0.0,
        guidance_to: ScalarLike = 1.0,
        quantile: ScalarLike | None = None,
        churn: ScalarLike | None = None,
        churn_from: ScalarLike = 0.0,
        churn_to: ScalarLike = 1e9,
        churn_noise: ScalarLike = 1.0,
        strength: ScalarLike | None = None,
        invert: bool = False,
        resamples: int = 1,
        jump: int = 10,
        trace: bool = False,
        given: Mapping[str, Array] | None = None,
        clipped: bool = True,
        classifier: LogClassifier | None = None,
        classifier_scale: ScalarLike = 1.0,
    ) -> Float[Array, "batch *dims"]:
        """Draw samples; see ``sample_options`` for what the options mean.

        With ``trace`` the points at every time, [batch, steps + 1, ...]. ``classifier`` is given
        ``frozen["classifier"]``. Without ``clipped`` x_0 is left as predicted, so that what
        ``noise_of`` found leads back.
        """
        del stats
        given = {} if given is None else given
        _check_given(given, strength, invert)
        asked = _read_condition(cond)
        condition = asked if num_classes is not None else asked._replace(label=None)
        if guidance is not None and not guided:
            raise ValueError("guidance: a model trained with class_dropout is needed")
        denoise = denoiser_of(params, condition)
        interval = (guidance_from, guidance_to)
        if guidance is not None:
            both = denoiser_of(params, _with_and_without(condition, num_classes))
            denoise = rules.classifier_free(_pair(both), guidance, interval)
        if classifier is not None:
            weights, label = frozen["classifier"], asked.label
            target = _read_condition(given.get("target", label)).label
            assert target is not None

            def log_prob(x: Array, t: ScalarLike) -> Array:
                return classifier(weights, x, jnp.broadcast_to(t, x.shape[:1]), target)

            denoise = rules.classifier(denoise, schedule, log_prob, classifier_scale, interval)
        leads_back = invert or not clipped  # which a flow that is clipped does not
        if quantile is not None:
            if leads_back:
                raise ValueError("quantile: with it nothing leads back to the noise of an image")
            denoise = rules.dynamic_threshold(denoise, schedule, quantile)
        elif clip and not leads_back:
            denoise = rules.clip_x_0(denoise, schedule)

        steps = default_steps(solver) if steps is None else steps
        times = make_times(grid, steps, schedule, num_steps)
        if invert:
            _check_deterministic(solver, eta, churn)
        method = make_solver(
            solver,
            steps,
            eta=eta,
            variance=variance,
            churn=churn,
            churn_from=churn_from,
            churn_to=churn_to,
            churn_noise=churn_noise,
        )
        way = jnp.asarray(times) if strength is None else editing.last_part(times, strength)
        if "mask" in given:
            method = editing.inpainting(method, given["image"], given["mask"])
            way = way[editing.repaint_order(steps, jump, resamples)]
        _, step_keys = rng.split(keys, 2)
        if strength is not None:
            # Of a table too: between its entries, which its levels and the embedding bridge.
            points = editing.from_partial(
                denoise, schedule, method, way, given["image"], keys, trace
            )
        else:
            if invert:
                x = editing.invert(denoise, schedule, method, times, given["image"], keys)
            else:
                eps = given.get("noise", None)
                eps = start_normal(keys, shape) if eps is None else eps
                x = start_noise(schedule, times, eps)
            points = integrate(denoise, schedule, method, way, x, step_keys, trace)
        return jnp.swapaxes(points, 0, 1) if trace else points

    def noise_of(
        params: Params,
        stats: Stats,
        keys: Keys,
        frozen: PyTree,
        x: Array,
        cond: PyTree = None,
        *,
        solver: str = "ddim",
        steps: int | None = None,
        grid: str = default_grid,
    ) -> Float[Array, "batch *dims"]:
        """Invert the deterministic sampler: give the standard normals that lead to x."""
        del stats, frozen
        steps = default_steps(solver) if steps is None else steps
        _check_deterministic(solver)
        times = make_times(grid, steps, schedule, num_steps)
        condition = _read_condition(cond)
        condition = condition if num_classes is not None else condition._replace(label=None)
        denoise = denoiser_of(params, condition)
        method = make_solver(solver, steps)
        x = editing.invert(denoise, schedule, method, times, x, keys)
        return x / jnp.hypot(schedule.alpha(times[0]), schedule.sigma(times[0]))

    def log_prob(
        params: Params,
        stats: Stats,
        batch: Batch,
        keys: Keys,
        frozen: PyTree,
        *,
        likelihood: str = "bound",
        likelihood_steps: int | None = None,
        likelihood_variance: Variance = variances[0],
        probes: int = 1,
        tolerance: ScalarLike = 1e-4,
    ) -> LogProb:
        """Bound log p(x); see ``log_prob_options`` for what the options mean."""
        del stats, frozen
        x = batch["x"]
        num_dims = math.prod(shape)
        denoise = denoiser_of(params, condition_of(batch))
        if likelihood == "flow":
            noise_keys, probe_keys = rng.split(keys, 2)
            if bin_width is not None:
                uniform = jax.vmap(
                    lambda key: jax.random.uniform(key, shape, minval=-0.5, maxval=0.5)
                )
                x = x + bin_width * uniform(noise_keys)
            nats, stderr = flow_log_prob(
                lambda x, t, cond: denoiser_of(params, cond)(x, t),
                schedule,
                x,
                probe_keys,
                condition=condition_of(batch),
                num_probes=probes,
                tolerance=tolerance,
                t_min=1e-4 if num_steps is None else 1e-2 / num_steps,
            )
            return LogProb(nats, stderr)
        steps = likelihood_steps or num_steps or 1000
        if num_steps is None:
            # Equal steps of time would end in leaps of the noise level, far below a grey level.
            times = karras_times(schedule, steps, low=LEAST_NOISE)
            times[0] = 1.0  # of the prior's term
        else:
            times = uniform_times(steps, num_steps)
        if clip:
            denoise = rules.clip_x_0(denoise, schedule)
        made = bound(denoise, schedule, x, times, keys, likelihood_variance, bin_width)
        # What it gives of discrete x are probabilities; a density's are in units of x.
        nats = -made.total - (0.0 if bin_width is None else num_dims * math.log(bin_width))
        terms = {
            "prior": made.prior,
            "steps": made.steps.T,
            "x_0_error": made.x_0_error.T,
            "eps_error": made.eps_error.T,
        }
        return LogProb(nats, jnp.full_like(nats, jnp.nan), terms)

    def default_steps(solver: str) -> int:
        few = {"heun": 18, "dpmpp_2m": 20}.get(solver, 50)
        if num_steps is None:
            return 1000 if solver == "ddpm" else few
        return num_steps if solver == "ddpm" else min(few, num_steps)

    most = num_steps or 100_000
    return Model(
        init=init,
        losses={"diffusion": Loss("net", loss)},
        update_stats=update_stats if importance_batch else no_statistics,
        sample=sample,
        sample_options=_sample_options(most, variances, default_grid, guided, clip),
        log_prob=log_prob,
        log_prob_kind="bound",
        log_prob_options=_log_prob_options(most, variances),
        log_prob_cost=num_steps or 1000,
        givens=("image", "mask", "noise"),
        start_noise=lambda keys: start_normal(keys, shape),
        noise_of=noise_of,
    )


def _sample_options(
    most: int, variances: Sequence[str], default_grid: str, guided: bool, clip: bool
) -> dict[str, SampleOption]:
    share = ("a number from 0 to 1", lambda x: 0 <= x <= 1)
    positive = ("a number from 0", lambda x: x >= 0)
    options = {
        "solver": SampleOption(
            str, "ddim", f"one of {', '.join(SOLVERS)}", SOLVERS.__contains__, True,
            "ddim and euler: first order; heun and dpmpp_2m: second; ddpm and euler_ancestral: "
            "with fresh noise in each step",
        ),
        "steps": SampleOption(
            int, None, f"a whole number from 1 to {most}", lambda steps: 1 <= steps <= most, True,
            "of the solver; by default 50, 18 of heun, 20 of dpmpp_2m, and all of ddpm",
        ),
        "grid": SampleOption(
            str, default_grid, f"one of {', '.join(GRIDS)}", GRIDS.__contains__, True,
            "where the steps are: uniform in time, finer near the data, or by noise level",
        ),
        "eta": SampleOption(
            float, None, *share, False,
            "fresh noise of ddim (0 by default: deterministic) and euler_ancestral (1)",
            ("solver", ("ddim", "euler_ancestral")),
        ),
        "variance": SampleOption(
            str, variances[0], f"one of {', '.join(variances)}", variances.__contains__, True,
            "noise of ddpm", ("solver", ("ddpm",)),
        ),
        "quantile": SampleOption(
            float, None, *share, False,
            "dynamic thresholding: of the absolute values of x_0, which are scaled back to 1",
        ),
        "churn": SampleOption(
            float, None, *positive, False,
            "noise added before each step, S_churn of Karras et al. 2022",
            ("solver", ("heun", "euler")),
        ),
        "churn_from": SampleOption(
            float, 0.0, *positive, False, "lowest noise level with churn, S_tmin",
        ),
        "churn_to": SampleOption(
            float, 1e9, *positive, False, "highest noise level with churn, S_tmax",
        ),
        "churn_noise": SampleOption(
            float, 1.0, *positive, False, "standard deviation of that noise, S_noise",
        ),
    }  # fmt: skip
    if not clip:  # no range to scale back to
        del options["quantile"]
    if guided:
        options |= {
            "guidance": SampleOption(
                float, None, *positive, False,
                "classifier-free guidance: 1 is the conditional model, 0 the unconditional",
            ),
        }  # fmt: skip
    return options | {
        "guidance_from": SampleOption(
            float, 0.0, *share, False, "lowest time at which guidance acts; 0 is data",
        ),
        "guidance_to": SampleOption(
            float, 1.0, *share, False, "highest time at which guidance acts; 1 is noise",
        ),
        "strength": SampleOption(
            float, None, "a number above 0 to 1", lambda x: 0 < x <= 1, False,
            "with --image: the share of the steps that are walked, from the image and their noise",
        ),
        "invert": SampleOption(
            bool, False, "", lambda x: True, True,
            "with --image: walk to its noise and back",
        ),
        "resamples": SampleOption(
            int, 1, "a whole number from 1", lambda x: x >= 1, True,
            "with --mask: how often each stretch is walked, as RePaint does",
        ),
        "jump": SampleOption(
            int, 10, "a whole number from 1", lambda x: x >= 1, True,
            "with --mask: steps in such a stretch",
        ),
    }  # fmt: skip


def _log_prob_options(most: int, variances: Sequence[str]) -> dict[str, SampleOption]:
    kinds = ("bound", "flow")
    return {
        "likelihood": SampleOption(
            str, "bound", "bound or flow", kinds.__contains__, True,
            "the variational bound, or the exact density of the probability flow",
        ),
        "likelihood_steps": SampleOption(
            int, None, f"a whole number from 1 to {most}", lambda x: 1 <= x <= most, True,
            "of the bound; by default all of the schedule", ("likelihood", ("bound",)),
        ),
        "likelihood_variance": SampleOption(
            str, variances[0], f"one of {', '.join(variances)}", variances.__contains__, True,
            "of the steps of the bound, as of ddpm's", ("likelihood", ("bound",)),
        ),
        "probes": SampleOption(
            int, 1, "a whole number from 1", lambda x: x >= 1, True,
            "random vectors for the flow's divergence", ("likelihood", ("flow",)),
        ),
        "tolerance": SampleOption(
            float, 1e-4, "a number above 0", lambda x: x > 0, False,
            "of a step of the flow's solver", ("likelihood", ("flow",)),
        ),
    }  # fmt: skip


def smaller(x: Float[Array, "batch height width channels"], factor: int) -> Array:
    """Make images smaller by averages over squares."""
    return nn.avg_pool(x, (factor, factor), (factor, factor))


def _beside(x: Array, cond: _Condition) -> Array:
    """Put an image that is to be made larger beside x, as further channels."""
    if cond.low_res is None:
        return x
    shape = (len(x), *x.shape[1:3], cond.low_res.shape[-1])
    return jnp.concatenate([x, jax.image.resize(cond.low_res, shape, "bilinear")], axis=-1)


def _read_condition(cond: PyTree) -> _Condition:
    return _Condition(**cond) if isinstance(cond, Mapping) else _Condition(label=cond)


def _with_and_without(cond: _Condition, num_classes: int | None) -> _Condition:
    """Make the condition of a batch of both: first with it, then without."""

    def twice(x: Array | None, without: Callable[[Array], Array]) -> Array | None:
        return None if x is None else jnp.concatenate([x, without(x)])

    return _Condition(
        label=twice(cond.label, lambda x: jnp.full_like(x, num_classes or 0)),
        context=twice(
            cond.context,
            lambda x: jnp.zeros_like(x) if cond.no_context is None else cond.no_context,
        ),
        low_res=twice(cond.low_res, lambda x: x),
    )


def _pair(both: Denoiser) -> Callable[[Array, ScalarLike], tuple[Prediction, Prediction]]:
    """Read a denoiser of twice the batch as two, with one run of the network."""

    def pair(x: Array, t: ScalarLike) -> tuple[Prediction, Prediction]:
        made = both(jnp.concatenate([x, x]), t)
        first: Prediction = jax.tree.map(lambda y: y[: len(x)], made)
        second: Prediction = jax.tree.map(lambda y: y[len(x) :], made)
        return first, second

    return pair


def _check_given(given: Mapping[str, Array], strength: ScalarLike | None, invert: bool) -> None:
    needed = {"strength": strength is not None, "invert": invert, "mask": "mask" in given}
    for name, asked in needed.items():
        if asked and "image" not in given:
            raise ValueError(f"{name}: has a meaning only with given['image']")
    if invert and (strength is not None or "mask" in given):
        raise ValueError("invert: goes neither with strength nor with a mask")


def _check_deterministic(
    solver: str, eta: ScalarLike | None = None, churn: ScalarLike | None = None
) -> None:
    # Of traced numbers nothing is known here.
    added = any(isinstance(x, (int, float)) and x > 0 for x in (eta, churn))
    if solver in ("ddpm", "euler_ancestral") or added:
        raise ValueError("solver: one that adds no noise is needed for the way to an image's noise")
