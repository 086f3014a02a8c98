"""Autoregressive priors: a causal transformer or a gated PixelCNN over pixels or codes."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from gen_jax.codecs import tokens, with_codec
from gen_jax.errors import ConfigError
from gen_jax.launch.build import texts
from gen_jax.launch.build.experiment import Experiment, Stage1, make_optimizer
from gen_jax.models.autoregressive import Network, autoregressive_model, hierarchical_model
from gen_jax.models.captioned import captioned_model
from gen_jax.nn.llama import Llama, TextStream
from gen_jax.nn.pixelcnn import PixelCNN
from gen_jax.nn.transformer import CausalTransformer
from gen_jax.protocols import Model

__all__ = ["build"]

_TRANSFORMER = ("width", "depth", "num_heads", "mlp_ratio", "positions", "remat", "dropout")
_PIXELCNN = ("width", "depth", "kernel", "hidden", "dropout")


def build(values: Mapping[str, Any], stage1: Stage1 | None = None) -> Experiment:
    """Build the model, its codec and its optimizers."""
    shapes: Any = tuple(values["data.shape"])
    categories: Any = values["model.levels"]
    codec = tokens(values["model.levels"])
    if stage1 is not None:
        codec, shapes = stage1.codec, stage1.code_shape
        categories = codec.num_categories
    if categories is None:
        raise ConfigError(
            "stage1: its codes are real numbers; a prior over tokens needs a first stage with "
            "discrete ones, and family 'diffusion' models these"
        )
    model, num_tokens = _model(values, shapes, categories)
    players = sorted({loss.player for loss in model.losses.values()})
    return Experiment(
        with_codec(model, codec),
        {player: make_optimizer(values, player) for player in players},
        frozen={} if stage1 is None else {"codec": stage1.weights},
        stage1_digest=None if stage1 is None else stage1.digest,
        num_tokens=num_tokens,
    )


def _model(values: Mapping[str, Any], shapes: Any, categories: Any) -> tuple[Model, int]:
    """Make the model of one grid of tokens, or of several, and count the tokens."""
    if values["model.network"] == "llama":
        if isinstance(shapes, Mapping):
            raise ConfigError(
                "stage1: its codes are several grids; model.network 'transformer' is required"
            )
        return _behind_prefix(values, shapes, categories), math.prod(shapes)
    shared = (values["model.num_classes"] or None, values["model.class_dropout"])
    if not isinstance(shapes, Mapping):
        model = autoregressive_model(_network(values, shapes, categories), shapes, *shared)
        return model, math.prod(shapes)
    names = sorted(shapes, key=lambda name: math.prod(shapes[name]))
    networks = {
        name: _network(
            values,
            shapes[name],
            categories[name],
            tuple(categories[above] for above in names[:number]),
        )
        for number, name in enumerate(names)
    }
    num_tokens = sum(math.prod(shape) for shape in shapes.values())
    return hierarchical_model(networks, shapes, *shared), num_tokens


def _behind_prefix(values: Mapping[str, Any], shape: tuple[int, ...], num_categories: int) -> Model:
    """Make LlamaGen's model, or with a weight of the text's tokens DALL-E's."""
    text, weight = texts.make_text(values), values["model.text_weight"]
    dtype = jnp.dtype(values["model.dtype"])
    if weight:
        encoder = text["text"]
        text["text"] = TextStream(encoder.num_tokens, encoder.length, encoder.width, dtype=dtype)
    # One label more, for none, where conditions are left out in training.
    num_classes = values["model.num_classes"]
    network = Llama(
        num_categories,
        shape,
        num_classes=num_classes + bool(values["model.class_dropout"]) if num_classes else None,
        context_dim=texts.width_of(values),
        num_text=values["text.vocabulary"] if weight else None,
        dtype=dtype,
        **{name: values[f"model.{name}"] for name in ("width", "depth", "num_heads", "dropout")},
    )
    return captioned_model(
        network,
        num_classes or None,
        values["model.class_dropout"],
        text_weight=weight,
        guidance=values["model.guidance"] or None,
        **text,
    )


def _network(
    values: Mapping[str, Any],
    shape: tuple[int, ...],
    num_categories: int,
    above: tuple[int, ...] = (),
) -> Network:
    transformer = values["model.network"] == "transformer"
    names = _TRANSFORMER if transformer else _PIXELCNN
    return (CausalTransformer if transformer else PixelCNN)(
        num_categories=num_categories,
        shape=shape,
        num_classes=values["model.num_classes"] or None,
        above=above,
        dtype=jnp.dtype(values["model.dtype"]),
        **{name: values[f"model.{name}"] for name in names},
    )
