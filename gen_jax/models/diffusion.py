"""Denoising diffusion, and flows, over any x, pixels or latents."""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.diffusion import generation, options, rules, time_sampling as times_of
from gen_jax.diffusion.editing import difference_mask
from gen_jax.diffusion.guidance import (
    classifier_free,
    classifier_guidance,
    through_x_0,
    two_conditions,
)
from gen_jax.diffusion.objectives import Objective, objective_losses
from gen_jax.diffusion.pairing import optimal_pairing
from gen_jax.diffusion.parameterization import Denoiser, Parameterization, Prediction
from gen_jax.diffusion.process import Process, make_process
from gen_jax.diffusion.sampling import start_normal
from gen_jax.diffusion.schedules import Schedule
from gen_jax.diffusion.weighting import Weighting, simple
from gen_jax.errors import check_arguments
from gen_jax.models.rules import class_dropout_faults
from gen_jax.nn.told import Told
from gen_jax.ops import keys as rng
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
    no_statistics,
    take,
)
from gen_jax.typing import Array, Float, Keys, PyTree, Scalar, ScalarLike, Shape

__all__ = ["diffusion_model"]

# The best differs from model to model (Ho et al. 2022, section 4.2, sweep it).
LOW_RES_LEVEL = options.LOW_RES_NOISE.default

LogClassifier = Callable[[PyTree, Array, Array, Array], Array]
"""``(weights, x_t, t [B], label [B]) -> log p(label | x_t) [B]``"""
LogJudge = Callable[[PyTree, Array, Array], Array]
"""``(weights, target [B, ...], x_0) -> log p(target | x_0) [B]``"""


class _Training(NamedTuple):
    """What is minimized, and at which times."""

    objective: Objective
    weighting: Weighting | None
    draw_times: times_of.TimeSampler
    importance_batch: int | None
    pairing: bool


def diffusion_model(
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
    pooled_dim: int | None = None,
    sizes: Sequence[float] = (),
    source_scale: float | None = None,
    inpaints: bool = False,
    text: nn.Module | None = None,
    null_text: Sequence[int] = (),
    text_pooled: bool = True,
    text_is_frozen: bool = False,
    low_res_noise: bool = False,
    embedding_dim: int | None = None,
    embedding_dropout: float = 0.0,
    source_dropout: float = 0.0,
    guidance: float | None = None,
    learned_variance: bool = False,
    objective: Objective = "simple",
    weighting: Weighting | None = None,
    time_sampler: times_of.TimeSampler | None = None,
    importance_batch: int | None = None,
    pairing: bool = False,
    coupled: bool = False,
    bin_width: float | None = None,
    default_grid: str = "uniform",
) -> Model:
    """Make a diffusion model, or a flow, of a network.

    Its only player is ``"net"`` and its only loss ``"diffusion"``: by default L_simple for the
    parameterization's target (Ho et al. 2020, Algorithm 1), a mean over dimensions. A rectified
    flow is this with :func:`gen_jax.diffusion.rectified_flow` and ``velocity``.

    Args:
        network: Linen module ``(x_t, t, label, keys, context) -> output``; ``label`` is None
            without classes, ``keys`` None outside of training. With ``pooled_dim`` it is also given
            ``pooled`` [B, pooled_dim] and ``sizes`` [B, N] by name.
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
        pooled_dim: width of ``batch["pooled"]``, one vector for all of a text (Podell et al. 2023,
            section 2.2); None for none.
        sizes: that many numbers go with it, ``batch["sizes"]``, and these are what they are where
            nothing else is said; of SDXL an image's height and width before it was scaled, where it
            was cropped, and its height and width now.
        source_scale: the network sees ``batch["source"]``, an image like x, as further channels,
            multiplied by this (Brooks et al. 2023, section 3.2); None for none.
        inpaints: whether the network sees ``batch["masked"]``, an image with a hole, as further
            channels, after one that is 1 where ``batch["mask"]`` is not.
        text: encodes ``batch["prompt"]``, token ids [B, L], as
            :class:`gen_jax.nn.text.TextTransformer` does, and is trained with the network; None for
            none. The network is given its vectors as ``context``, and by name ``context_mask``,
            ``pooled`` [B, width] and ``sizes`` [B, 0].
        null_text: the tokens of no text, L of them: what a prompt becomes that is left out.
        text_pooled: whether the network is given more than ``context``.
        text_is_frozen: the text's weights are frozen ones, ``frozen["text"]``.
        low_res_noise: whether noise of any level is added to the image that is to be made larger,
            so that the faults of whoever drew it do not matter (Ho et al. 2022, section 4.2); the
            network is told the level among ``pooled``, by :data:`gen_jax.nn.told.LEVEL_DIM`
            numbers. In sampling it is the option ``low_res_level``.
        embedding_dim: width of ``batch["embedding"]``, of an image, which the network is given by
            name, as :class:`gen_jax.nn.unclip.WithEmbedding` takes it; None for none.
        embedding_dropout: share of the training examples whose embedding is left out.
        source_dropout: share of those whose source is left out, for a guidance of its own
            (Brooks et al. 2023, section 3.2.1), the option ``image_guidance``.
        guidance: scale of classifier-free guidance where a request says nothing; None for none.
        learned_variance: whether the network has twice as many outputs, the second half for
            variances (Nichol & Dhariwal 2021, Eq. 15).
        objective: see :func:`gen_jax.diffusion.objectives.objective_losses`.
        weighting: how much each noise level counts in L_simple; None leaves the error of the target
            as it is.
        time_sampler: which times are trained; by default uniform ones, and
            :func:`gen_jax.diffusion.log_normal_noise` where the variance explodes. With a bound,
            times of the table.
        importance_batch: size of the global batch, to draw times in proportion to their losses
            (Nichol & Dhariwal 2021, Eq. 18); None to leave that.
        pairing: whether noise is paired with the examples of the batch by optimal transport, with
            classes within each.
        coupled: whether ``batch["eps"]`` depends on x, as pairs of reflow do; see
            :func:`gen_jax.diffusion.make_process`. With pairing it always does.
        bin_width: of one gray level of x, which then is from -1 to 1; None where x is not discrete.
        default_grid: of sampling; see :data:`gen_jax.diffusion.recipes.GRIDS`.

    Returns:
        A model of ``batch["x"]``; ``batch["low_res"]`` has the range of x. Its sampler takes the
        options of :mod:`gen_jax.diffusion.options`; with ``cond["image"]`` it begins from an image,
        and with ``cond["mask"]`` it keeps the image where that is 1. Its latents are the noise that
        a deterministic sampler begins with, and its density is a bound or the flow's.

    Raises:
        ValueError: if arguments do not go together.
    """
    shape = tuple(shape)
    process = make_process(
        schedule,
        parameterization,
        num_steps,
        learned_variance=learned_variance,
        clip=clip,
        bin_width=bin_width,
        default_grid=default_grid,
        coupled=pairing or coupled,
    )
    _check_training(
        process,
        objective=objective,
        weighting=weighting,
        own_times=time_sampler is not None,
        importance=bool(importance_batch),
        pairing=pairing,
        shared_condition=not (
            context_dim or low_res_factor or source_scale or inpaints or text or embedding_dim
        ),
    )
    told = Told(
        network,
        num_classes,
        context_dim,
        low_res_factor,
        class_dropout,
        pooled_dim,
        tuple(sizes),
        source_scale,
        inpaints,
        text,
        tuple(null_text),
        text_is_frozen,
        text_pooled,
        low_res_noise,
        embedding_dim,
        embedding_dropout if embedding_dim else 0.0,
        source_dropout,
    )
    guided = _check_told(told, guidance)
    draw_times = process.default_times() if time_sampler is None else time_sampler
    training = _Training(objective, weighting, draw_times, importance_batch, pairing)

    edits = low_res_factor is None and not inpaints
    sampling = _sampling(told, process, shape, guided=guided, edits=edits, usual=guidance)
    update = functools.partial(_update_history, importance_batch or 0)
    return Model(
        init=functools.partial(_init, told, num_steps if importance_batch else None),
        losses={"diffusion": Loss("net", _make_loss(told, process, training))},
        inputs=told.inputs(shape, edits=edits),
        update_stats=update if importance_batch else no_statistics,
        density=Density(
            _make_log_prob(told, process),
            "estimate" if process.coupled else "bound",
            options=options.density_options(process),
            cost=num_steps or 1000,
            faults=lambda chosen, names: options.density_faults(process, chosen, names),
        ),
        **sampling,
    )


def _check_told(told: Told, guidance: float | None) -> bool:
    """Refuse what does not go together in what is told; return whether it may be left out."""
    told_of = (told.num_classes, told.context_dim, told.pooled_dim, told.text, told.embedding_dim)
    conditional = any(given is not None for given in told_of)
    dropout = told.class_dropout
    check_arguments(class_dropout_faults(class_dropout=dropout, conditional=conditional))
    if told.source_dropout and told.source_scale is None:
        raise ValueError(f"source_dropout: got {told.source_dropout}; a source_scale is required")
    if told.low_res_noise and told.low_res_factor is None:
        raise ValueError("low_res_noise: got True; a low_res_factor is required with it")
    if told.text is not None and not told.null_text:
        raise ValueError("null_text: got (); the tokens of an empty text are required with text")
    # Of models of sequences it is not ours to know what they were trained to leave out.
    vectors = told.context_dim is not None or told.pooled_dim is not None
    guided = dropout > 0 or (vectors and told.num_classes is None) or told.text_is_frozen
    guided |= told.embedding_dropout > 0
    if guidance is not None and not guided:
        raise ValueError(f"guidance: got {guidance}; a class_dropout above 0 is required with it")
    return guided


def _check_training(
    process: Process,
    *,
    objective: Objective,
    weighting: Weighting | None,
    own_times: bool,
    importance: bool,
    pairing: bool,
    shared_condition: bool,
) -> None:
    """Refuse what does not go together in what is minimized, in the words of the rules."""
    faults = rules.objective_faults(
        objective=objective,
        learned_variance=process.learned_variance,
        discrete=process.num_steps is not None,
        importance=importance,
        weighted=weighting is not None,
        own_times=own_times and (objective == "simple" or importance),
    )
    unpaired = rules.pairing_faults(
        pairing=pairing,
        coupled=process.coupled,
        objective=objective,
        shared_condition=shared_condition,
    )
    unbounded = rules.weighting_faults(
        weighting="eps" if weighting is simple() else "none",
        prediction=process.parameterization.name,
        continuous=process.num_steps is None,
    )
    check_arguments({**faults, **unpaired, **unbounded})


def _init(
    told: Told, num_steps: int | None, key: Array, batch: Batch, frozen: PyTree
) -> tuple[Params, Stats]:
    """Initialize the network, and a history of losses for each of the steps, if any."""
    keys = rng.per_example(key, 0, len(batch["x"]))
    seen = told.with_noise(told.read(batch, batch["x"]), keys)
    params = {"net": told.init(key, batch["x"], seen, frozen)}
    return params, {} if num_steps is None else {"net": times_of.init_history(num_steps)}


def _update_history(
    importance_batch: int,
    weights: Weights,
    observed: Mapping[str, PyTree],
    key: Array,
    step: Array,
) -> tuple[Stats, Mapping[str, Scalar]]:
    del key, step
    history = weights.stats["net"]
    return {"net": times_of.update_history(history, observed["net"], importance_batch)}, {}


def _make_loss(told: Told, process: Process, training: _Training) -> Callable[..., Any]:
    def loss(weights: Weights, batch: Batch, keys: Keys, context: Context) -> tuple[Scalar, Aux]:
        x_0 = batch["x"]
        time_keys, noise_keys, dropout_keys, condition_keys = rng.split(keys, 4)
        eps = batch["eps"] if "eps" in batch else rng.normal(noise_keys, x_0.shape[1:])
        if training.pairing and "eps" not in batch:
            across = context.across
            label = None if told.num_classes is None else across.gather(take(batch, "label"))
            eps = across.own(optimal_pairing(across.gather(x_0), across.gather(eps), label))
        cond = told.read(batch, x_0, condition_keys if context.train else None)
        cond = told.encode(weights, told.with_noise(cond, condition_keys))
        used = dropout_keys if context.train else None
        scale = jnp.ones(len(x_0))
        if training.importance_batch and context.train:
            t, scale = times_of.importance(weights.stats["net"], time_keys)
        else:
            t = training.draw_times(time_keys)
        losses, reported = objective_losses(
            training.objective,
            process,
            lambda x_t, t: told.apply(weights.params, x_t, t, cond, used),
            x_0,
            t,
            eps,
            training.weighting,
        )
        metrics = {name: batch_mean(batch, value * scale) for name, value in reported.items()}
        observed = {}
        if training.importance_batch:
            assert process.num_steps is not None
            seen = jax.lax.stop_gradient(losses)
            observed = times_of.observe_history(t, seen, process.num_steps)
        return batch_mean(batch, losses * scale), Aux(observed=observed, metrics=metrics)

    return loss


def _make_log_prob(told: Told, process: Process) -> Callable[..., LogProb]:
    def log_prob(weights: Weights, batch: Batch, keys: Keys, **chosen: Any) -> LogProb:
        check_arguments(options.density_faults(process, chosen, ()))

        def denoise_for(cond: Cond) -> Denoiser:
            return process.denoiser(lambda x, t: told.apply(weights.params, x, t, cond, None))

        cond = told.with_noise(told.read(batch, batch["x"]), keys, 0.0)
        cond = told.encode(weights, cond)
        return generation.likelihood(process, denoise_for, cond, batch["x"], keys, **chosen)

    return log_prob


def _sampling(
    told: Told,
    process: Process,
    shape: Shape,
    *,
    guided: bool,
    edits: bool,
    usual: float | None,
) -> dict[str, Any]:
    """Make the sampler, and the latents, which are its beginning."""

    def faults(chosen: Mapping[str, Any], names: Collection[str]) -> Mapping[str, str]:
        # A mask that the network is told keeps nothing by itself.
        names = [name for name in names if not (name == "mask" and told.inpaints)]
        of_source = options.source_faults(chosen, names)
        if "edit_above" in chosen:  # finds a mask itself
            names, chosen = [*names, "mask"], {n: x for n, x in chosen.items() if n != "edit_above"}
        return {**options.sampler_faults(process, chosen, names), **of_source}

    def draw(
        weights: Weights,
        keys: Keys,
        cond: Cond,
        *,
        noise: Array | None = None,
        guidance: ScalarLike | None = None,
        guidance_from: ScalarLike | None = None,
        guidance_to: ScalarLike | None = None,
        classifier: LogClassifier | None = None,
        judge: LogJudge | None = None,
        classifier_scale: ScalarLike | None = None,
        low_res_level: ScalarLike = LOW_RES_LEVEL,
        edit_above: ScalarLike | None = None,
        image_guidance: ScalarLike | None = None,
        **chosen: Any,
    ) -> Float[Array, "batch *points"]:
        """Draw samples; see the sampler's options.

        ``classifier`` and ``judge`` are given their weights, ``frozen["classifier"]``; a judge sees
        the predicted x_0 and ``cond["target"]``.
        """
        if guidance is not None and not guided:
            raise ValueError("guidance: a model trained with class_dropout is required")
        guidance = usual if guidance is None else guidance
        if image_guidance is not None and not told.source_dropout:
            raise ValueError("image_guidance: a model trained with source_dropout is required")
        settings: dict[str, Any] = {
            "guidance": guidance,
            "guidance_from": guidance_from,
            "guidance_to": guidance_to,
            "classifier_scale": classifier_scale,
            "edit_above": edit_above,
            **chosen,
        }
        given = {name: value for name, value in settings.items() if value is not None}
        if classifier is not None or judge is not None:
            given.setdefault("classifier_scale", 1.0)
        check_arguments(faults(given, tuple(cond)))
        interval = given.get("guidance_from", 0.0), given.get("guidance_to", 1.0)
        seen = told.with_noise(told.read(cond), keys, low_res_level)
        denoise = _guided_denoiser(told, process, weights, seen, guidance, interval, image_guidance)
        guide = None
        if classifier is not None or judge is not None:
            strength = given["classifier_scale"]
            guide = _guide(process, weights, cond, classifier, judge, strength, interval)
        begin: dict[str, Any] = {
            "noise": noise,
            "image": cond.get("image"),
            "mask": None if told.inpaints else cond.get("mask"),
        }
        if "source_prompt" in cond:
            begin |= _shown(told, process, weights, cond, keys, edit_above)
        return generation.generate(process, denoise, keys, shape, guide=guide, **begin, **chosen)

    def decode(weights: Weights, z: Array, cond: Cond, **chosen: Any) -> Array:
        # Keys of a way that draws nothing; where it does, the same at each place.
        return draw(weights, rng.per_example(jax.random.key(0), 0, len(z)), cond, noise=z, **chosen)

    known = _options(told, process, guided=guided, edits=edits, usual=usual)
    return {
        "sampler": Sampler(
            draw, known, faults, functools.partial(generation.grid_ahead, process), traces=True
        ),
        "latents": Latents(
            decode,
            _make_encode(told, process),
            lambda keys: start_normal(keys, shape),
            options=known,
            # Of a schedule of a single step too z is the start of a path.
            cost=max(2, generation.default_steps(process, "ddim")),
            undo={"clipped": False},
            faults=lambda chosen, names: options.inversion_faults(process, chosen, names),
        ),
    }


def _make_encode(told: Told, process: Process) -> Callable[..., Any]:
    def encode(
        weights: Weights,
        x: Array,
        cond: Cond,
        keys: Keys | None = None,
        low_res_level: ScalarLike = LOW_RES_LEVEL,
        **chosen: Any,
    ) -> Float[Array, "batch *dims"]:
        check_arguments(options.inversion_faults(process, chosen, ("image",)))
        keys = rng.per_example(jax.random.key(0), 0, len(x)) if keys is None else keys
        seen = told.with_noise(told.read(cond), keys, low_res_level)
        denoise = _guided_denoiser(told, process, weights, seen, None, (0.0, 1.0))
        names = ("solver", "steps", "grid")
        way = {name: chosen[name] for name in names if name in chosen}
        return generation.noise_of(process, denoise, x, keys, **way)

    return encode


def _shown(
    told: Told,
    process: Process,
    weights: Weights,
    cond: Cond,
    keys: Keys,
    above: ScalarLike | None,
) -> dict[str, Any]:
    """Make what follows from what an image shows: how to invert it, or where to edit it."""
    whole = 0.0, 1.0
    shown = told.read({**cond, "prompt": cond["source_prompt"]})
    other = _guided_denoiser(told, process, weights, shown, None, whole)
    if above is None:
        return {"inverting": other}
    wanted = _guided_denoiser(told, process, weights, told.read(cond), None, whole)
    schedule = process.schedule
    differs = difference_mask(wanted, other, schedule, cond["image"], keys, threshold=above)
    return {"mask": 1.0 - differs}


def _options(
    told: Told, process: Process, *, guided: bool, edits: bool, usual: float | None
) -> dict[str, Option]:
    """List the sampler's options, those that follow from what a model is told among them."""
    known = options.sampler_options(process, guided=guided, edits=edits)
    if told.source_dropout:
        known["image_guidance"] = options.IMAGE_GUIDANCE
    if edits and told.text is not None:
        known["edit_above"] = options.EDIT_ABOVE
    if told.low_res_noise:
        known["low_res_level"] = options.LOW_RES_NOISE
    if usual is not None:
        known["guidance"] = known["guidance"]._replace(default=usual)
    return known


def _guide(
    process: Process,
    weights: Weights,
    cond: Cond,
    classifier: LogClassifier | None,
    judge: LogJudge | None,
    scale: ScalarLike,
    interval: tuple[ScalarLike, ScalarLike],
) -> Callable[[Denoiser], Denoiser]:
    """Make what leads a denoiser: a classifier of noisy x, or a judge of clean ones."""
    frozen = weights.frozen

    def guide(denoise: Denoiser) -> Denoiser:
        if classifier is not None:
            label = take(cond, "label")
            log_prob: Callable[..., Array] = functools.partial(
                _log_prob_of, classifier, frozen, label
            )
        else:
            assert judge is not None
            target = take(cond, "target")
            log_prob = through_x_0(denoise, functools.partial(judge, frozen["classifier"], target))
        return classifier_guidance(denoise, process.schedule, log_prob, scale, interval)

    return guide


def _log_prob_of(
    classifier: LogClassifier, frozen: PyTree, label: Array, x: Array, t: ScalarLike
) -> Array:
    return classifier(frozen["classifier"], x, jnp.broadcast_to(t, x.shape[:1]), label)


def _guided_denoiser(
    told: Told,
    process: Process,
    weights: Weights,
    seen: Cond,
    scale: ScalarLike | None,
    interval: tuple[ScalarLike, ScalarLike],
    image_scale: ScalarLike | None = None,
) -> Denoiser:
    """Make a denoiser of what was read of a request, led away from none where there is a scale."""

    def of(condition: Cond) -> Denoiser:
        condition = told.encode(weights, condition)  # here, and not in each step
        return process.denoiser(lambda x, t: told.apply(weights.params, x, t, condition, None))

    def at_once(condition: Cond, num: int) -> Callable[..., Any]:
        denoise = of(condition)

        def run(x: Array, t: ScalarLike) -> tuple[Prediction, ...]:
            made = denoise(jnp.concatenate([x] * num), t)  # with one run of the network
            size = len(x)
            return tuple(
                jax.tree.map(lambda y, i=i: y[i * size : (i + 1) * size], made) for i in range(num)
            )

        return run

    if image_scale is not None:
        usual = 1.0 if scale is None else scale
        return two_conditions(at_once(told.with_parts(seen), 3), usual, image_scale, interval)
    if scale is None:
        return of(seen)
    return classifier_free(at_once(told.with_and_without(seen), 2), scale, interval)
