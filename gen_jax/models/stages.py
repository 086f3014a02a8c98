"""Systems of several models: Model -> Model.

Each draws with another, frozen model first, within the same program: ``weights.frozen[<stage>]``
are the :class:`gen_jax.protocols.Weights` of that. Sample i depends on its key alone, in all of
them.
"""

import functools
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gen_jax.errors import check_arguments
from gen_jax.ops import keys as rng
from gen_jax.ops.latents import slerp
from gen_jax.protocols import (
    Batch,
    Codec,
    Cond,
    Context,
    Density,
    Input,
    Latents,
    LogProb,
    Loss,
    Matching,
    Model,
    Option,
    Sampler,
    Weights,
    take,
)
from gen_jax.typing import Array, Float, Keys, PyTree, Scalar, ScalarLike, UInt8

__all__ = [
    "best_of",
    "embeddings",
    "over_frozen",
    "with_base",
    "with_image_embedding",
    "with_prior",
]

# Folded into the keys of a stage's samples.
_STAGE_KEYS = {"base": 0xBA5E, "prior": 0x9107}


def with_base(model: Model, base: Model) -> Model:
    """Let another model draw the images that a model makes larger: a cascade.

    As of CDM (Ho et al. 2022) and Imagen (Saharia et al. 2022, section 2.3).

    Args:
        model: of images, told ``low_res``.
        base: of such images; ``frozen["base"]`` are its weights.

    Returns:
        A model that is told what both are told; where ``low_res`` is given, that is made larger
        and the base left out. The base's options begin with ``base_``. Losses and density are the
        model's own.
    """

    def fill(made: Array) -> dict[str, Array]:
        return {"low_res": made}

    return _after(model, base, "base", ("low_res",), fill)


def with_prior(model: Model, prior: Model) -> Model:
    """Let a prior draw the embeddings that a model is told: unCLIP (Ramesh et al. 2022).

    Args:
        model: of :func:`with_image_embedding`.
        prior: of embeddings of images, told a text; ``frozen["prior"]`` are its weights.

    Returns:
        A model that is told what both are told. The prior's options begin with ``prior_``. With an
        image, ``like``, that decides, and the prior is left out.
    """

    def fill(made: Array) -> dict[str, Array]:
        return {"embedding": made}

    return _after(model, prior, "prior", ("embedding", "like"), fill)


def _after(
    model: Model,
    first: Model,
    stage: str,
    filled: tuple[str, ...],
    fill: Callable[[Array], dict[str, Array]],
) -> Model:
    sampler, before = model.sampler, first.sampler
    if sampler is None or before is None:
        raise ValueError(f"{stage}: models that can be sampled are required")
    prefix = f"{stage}_"
    theirs = {f"{prefix}{name}": option for name, option in before.options.items()}

    def split(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        own = {name: x for name, x in options.items() if not name.startswith(prefix)}
        other = {
            name.removeprefix(prefix): x for name, x in options.items() if name.startswith(prefix)
        }
        return own, other

    def draw(weights: Weights, keys: Keys, cond: Cond, **options: Any) -> Any:
        own, other = split(options)
        told = {name: x for name, x in cond.items() if name in model.inputs}
        if not any(name in cond for name in filled):
            seen = {name: x for name, x in cond.items() if name in first.inputs}
            keys_of = rng.fold_in(keys, _STAGE_KEYS[stage])
            told |= fill(before.draw(weights.frozen[stage], keys_of, seen, **other))
        return sampler.draw(weights, keys, told, **own)

    def faults(options: Mapping[str, Any], told: Collection[str]) -> Mapping[str, str]:
        own, other = split(options)
        found = dict(sampler.faults(own, [name for name in told if name in model.inputs]))
        for name, what in before.faults(other, ()).items():
            words = re.sub(r"`(\w+)`", lambda match: f"`{prefix}{match[1]}`", what)
            found[f"{prefix}{name}"] = words
        return found

    def ahead(options: Mapping[str, Any], told: Collection[str]) -> Mapping[str, Any]:
        own, other = split(options)
        made = before.ahead(other, told)
        return {**sampler.ahead(own, told), **{f"{prefix}{name}": x for name, x in made.items()}}

    inputs = {
        name: given._replace(needed=False) if name in filled else given
        for name, given in model.inputs.items()
    }
    others = {n: given for n, given in first.inputs.items() if n not in ("image", "mask")}
    return model._replace(
        inputs={**others, **inputs},
        sampler=sampler._replace(
            draw=draw, options={**sampler.options, **theirs}, faults=faults, ahead=ahead
        ),
        latents=None,
    )


def best_of(
    sampler: Sampler, score: Callable[[Weights, PyTree, Cond], Array], usual: int = 2
) -> Sampler:
    """Draw several samples for each one wanted, and keep that with the highest score.

    Args:
        sampler: of a model.
        score: ``(weights, x, cond) -> [batch]``.
        usual: how many are drawn where nothing is said: the option ``candidates``.
    """

    def draw(
        weights: Weights, keys: Keys, cond: Cond, *, candidates: int = usual, **options: Any
    ) -> PyTree:
        made = sampler.draw(weights, keys, cond, **options)
        best = score(weights, made, cond)
        for number in range(1, candidates):
            other = sampler.draw(weights, rng.fold_in(keys, number), cond, **options)
            value = score(weights, other, cond)
            made = jax.tree.map(functools.partial(_where, value > best), other, made)
            best = jnp.maximum(best, value)
        return made

    option = Option(
        int, usual, "a whole number from 1 to 64", lambda x: 1 <= x <= 64, True,
        "are drawn for each sample, and the one kept that goes best with the text",
    )  # fmt: skip
    return sampler._replace(draw=draw, options={**sampler.options, "candidates": option})


def _where(better: Array, x: Array, y: Array) -> Array:
    return jnp.where(jnp.reshape(better, (-1, *(1 for _ in x.shape[1:]))), x, y)


def embeddings(matching: Matching, dim: int) -> Codec:
    """Make the map from uint8 images to their embeddings, of the length sqrt(dim).

    Scaled so, each number has a variance of about 1, as diffusion expects (Ramesh et al. 2022's
    reproductions). Nothing leads back: what is decoded are embeddings.

    Args:
        matching: of a model of images, whose weights are the codec's.
        dim: of its space.
    """

    def encode(frozen: PyTree, image: UInt8[Array, "batch *dims"], keys: Keys) -> Array:
        del keys
        return matching.image(frozen, image) * dim**0.5

    def decode(frozen: PyTree, x: Float[Array, "batch dim"]) -> Array:
        del frozen
        return x

    return Codec(encode, decode, num_categories=None, log_scale=None)


_MIX = Option(
    float, 0.0, "a number from 0 to 1", lambda x: 0 <= x <= 1, False,
    "how far the embedding of `like` is turned, to `like_to` or by the difference of `toward` and "
    "`away`",
)  # fmt: skip


def with_image_embedding(model: Model, matching: Matching, text: Input, dim: int) -> Model:
    """Let a model that is told an embedding be told an image: the decoder of unCLIP.

    Wrap it around a model of images (see :func:`gen_jax.codecs.with_codec`). Training embeds the
    images of the batch; ``frozen["clip"]`` are the weights of whose matching it is.

    Args:
        model: of images, told ``embedding`` [dim].
        matching: of images and texts.
        text: declaration of its texts.
        dim: of its space.

    Returns:
        A model that is told ``like``, an image, in place of the embedding. With the option ``mix``
        that is turned by great circles, toward another image ``like_to``, or toward the difference
        of the texts ``toward`` and ``away`` (Ramesh et al. 2022, section 3).
    """

    def embed(frozen: PyTree, image: Array) -> Array:
        return jax.lax.stop_gradient(matching.image(frozen["clip"], image)) * dim**0.5

    def told(frozen: PyTree, batch: Batch) -> Batch:
        if "embedding" in batch:
            return batch
        images = batch.get("image", batch.get("x"))
        if images is None:
            raise ValueError("image: missing; codes alone cannot be embedded")
        return {**batch, "embedding": embed(frozen, images)}

    def asked(frozen: PyTree, cond: Cond, mix: ScalarLike | None) -> Cond:
        own = {name: x for name, x in cond.items() if name not in _OWN}
        if "embedding" in cond:
            return own
        z = embed(frozen, take(cond, "like"))
        end = None
        if "like_to" in cond:
            end = embed(frozen, cond["like_to"])
        elif "toward" in cond:
            clip = frozen["clip"]
            moved = matching.text(clip, cond["toward"]) - matching.text(clip, take(cond, "away"))
            end = moved / (jnp.linalg.norm(moved, axis=-1, keepdims=True) + 1e-6) * dim**0.5
        if end is not None:
            share = jnp.asarray(0.0 if mix is None else mix)
            z = jax.vmap(slerp, in_axes=(0, 0, None))(z, end, share[None])[:, 0]
        return {**own, "embedding": z}

    def wrap(loss: Loss) -> Loss:
        def fn(weights: Weights, batch: Batch, keys: Keys, context: Context) -> tuple[Scalar, Any]:
            return loss.fn(weights, told(weights.frozen, batch), keys, context)

        return Loss(loss.player, fn)

    inputs = {name: given for name, given in model.inputs.items() if name != "embedding"}
    inputs["like"] = Input("image", derive=lambda image: image, help="image to be like")
    inputs["like_to"] = Input("image", needed=False, help="image that it is turned toward, by mix")
    for name, help_ in (("toward", "text"), ("away", "text it is turned away from, with toward")):
        inputs[name] = text._replace(needed=False, help=help_ if name == "away" else _TOWARD)
    return model._replace(
        init=lambda key, batch, frozen: model.init(key, told(frozen, batch), frozen),
        losses={name: wrap(loss) for name, loss in model.losses.items()},
        inputs=inputs,
        sampler=None if model.sampler is None else _asking(model.sampler, asked),
        latents=None if model.latents is None else _latents_asking(model.latents, asked),
        density=None if model.density is None else _density_told(model.density, told),
    )


_OWN = ("like", "like_to", "toward", "away")
_TOWARD = "text whose difference from away an image is turned by, by mix"


def _asking(sampler: Sampler, asked: Callable[..., Cond]) -> Sampler:
    def draw(
        weights: Weights, keys: Keys, cond: Cond, *, mix: ScalarLike | None = None, **options: Any
    ) -> PyTree:
        check_arguments(_mix_faults({} if mix is None else {"mix": mix}, tuple(cond)))
        return sampler.draw(weights, keys, asked(weights.frozen, cond, mix), **options)

    def faults(options: Mapping[str, Any], names: Collection[str]) -> Mapping[str, str]:
        own = {name: x for name, x in options.items() if name != "mix"}
        rest = [name for name in names if name not in _OWN]
        return {**sampler.faults(own, rest), **_mix_faults(options, names)}

    def ahead(options: Mapping[str, Any], names: Collection[str]) -> Mapping[str, Any]:
        return sampler.ahead(options, [name for name in names if name not in _OWN])

    return sampler._replace(
        draw=draw, options={**sampler.options, "mix": _MIX}, faults=faults, ahead=ahead
    )


def _mix_faults(options: Mapping[str, Any], names: Collection[str]) -> dict[str, str]:
    ends = [name for name in ("like_to", "toward") if name in names]
    faults = {}
    if "mix" in options and not ends:
        faults["mix"] = "`like_to`, or `toward` and `away`, are required with it"
    if ends and "mix" not in options:
        faults[ends[0]] = "`mix` is required with it"
    if len(ends) > 1:
        faults["toward"] = "goes not with `like_to`"
    for name, other in (("toward", "away"), ("away", "toward")):
        if name in names and other not in names:
            faults[name] = f"`{other}` is required with it"
    return faults


def _latents_asking(latents: Latents, asked: Callable[..., Cond]) -> Latents:
    encode_x = latents.encode

    def encode(
        weights: Weights, x: PyTree, cond: Cond, keys: Keys | None = None, **options: Any
    ) -> PyTree:
        assert encode_x is not None
        cond = cond if "like" in cond or "embedding" in cond else {**cond, "like": x}
        return encode_x(weights, x, asked(weights.frozen, cond, None), keys, **options)

    def decode(weights: Weights, z: PyTree, cond: Cond, **options: Any) -> PyTree:
        return latents.decode(weights, z, asked(weights.frozen, cond, None), **options)

    return latents._replace(decode=decode, encode=None if encode_x is None else encode)


def _density_told(density: Density, told: Callable[..., Batch]) -> Density:
    def log_prob(weights: Weights, batch: Batch, keys: Keys, **options: Any) -> LogProb:
        return density.log_prob(weights, told(weights.frozen, batch), keys, **options)

    return density._replace(log_prob=log_prob)


def over_frozen(model: Model, stage: str) -> Model:
    """Train what a model has beside another, frozen one: layers over time, for example.

    Parameters of the one that bear the other's names are not trained: they are
    ``frozen[stage]``, the only player's subtree of that. Checkpoints, averages and optimizers hold
    the rest.

    Args:
        model: with one player, ``"net"``, whose parameters contain the other's.
        stage: name of the frozen parameters.

    Returns:
        A model with the same losses and abilities.
    """

    def whole(weights: Weights) -> Weights:
        net = _merged(weights.frozen[stage], weights.params["net"])
        return weights._replace(params={"net": net})

    def init(key: jax.Array, batch: Batch, frozen: PyTree) -> Any:
        params, stats = model.init(key, batch, frozen)
        return {"net": _without(params["net"], frozen[stage])}, stats

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def over(weights: Weights, *arguments: Any, **options: Any) -> Any:
            return function(whole(weights), *arguments, **options)

        return over

    sampler, latents, density = model.sampler, model.latents, model.density
    if latents is not None:
        encode = None if latents.encode is None else wrap(latents.encode)
        latents = latents._replace(decode=wrap(latents.decode), encode=encode)
    return model._replace(
        init=init,
        losses={name: Loss(one.player, wrap(one.fn)) for name, one in model.losses.items()},
        sampler=None if sampler is None else sampler._replace(draw=wrap(sampler.draw)),
        latents=latents,
        density=None if density is None else density._replace(log_prob=wrap(density.log_prob)),
    )


def _merged(one: PyTree, other: PyTree) -> PyTree:
    """Put two nested mappings together that share no leaf."""
    if not isinstance(one, Mapping):
        return one
    both = {name: x for name, x in other.items() if name not in one}
    return both | {name: _merged(x, other[name]) if name in other else x for name, x in one.items()}


def _without(tree: PyTree, known: PyTree) -> PyTree:
    """Leave out leaves that are known, and what then is empty.

    Raises:
        ValueError: if one is known by another shape, or not there.
    """
    rest = {}
    for name, x in tree.items():
        if name not in known:
            rest[name] = x
        elif isinstance(x, Mapping):
            if inner := _without(x, known[name]):
                rest[name] = inner
        elif x.shape != known[name].shape:
            raise ValueError(f"{name}: got {known[name].shape}; {x.shape} is required")
    if missing := sorted(set(known) - set(tree)):
        raise ValueError(f"{missing[0]}: frozen, and not of this network")
    return rest
