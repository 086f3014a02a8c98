"""Autoregressive priors: a causal transformer or a gated PixelCNN over pixels or codes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gen_jax.launch.schema import choice, integer, number, text
from gen_jax.nn.geometry import POSITIONS, pixelcnn_faults, transformer_faults

if TYPE_CHECKING:
    from gen_jax.launch.experiment import Experiment
    from gen_jax.launch.stage1 import Stage1
    from gen_jax.models.autoregressive import Network

FIELDS = {
    # Free, because it may move: a run keeps a copy of the one it began with.
    "stage1": text(".*", "the work directory of a first stage, or nothing to model pixels"),
    "model.network": choice("transformer", "pixelcnn", change="frozen"),
    "model.levels": integer(2, 256, change="frozen"),  # of pixels
    "model.width": integer(1, change="frozen"),
    "model.depth": integer(1, change="frozen"),
    "model.num_heads": integer(1, change="frozen"),  # transformer, from here
    "model.mlp_ratio": integer(1, change="frozen"),
    "model.positions": choice(*POSITIONS, change="frozen"),
    "model.remat": choice("none", "matmuls", "full"),  # to here
    "model.kernel": integer(1, change="frozen"),  # pixelcnn
    "model.hidden": integer(1, change="frozen"),  # pixelcnn
    "model.dropout": number(0, 1, below=True),
    "model.num_classes": integer(0, change="frozen"),  # 0: unconditional
    "model.class_dropout": number(0, 1, below=True),  # above 0: classifier-free guidance
    "model.dtype": choice("float32", "bfloat16"),
}

_TRANSFORMER = ("width", "depth", "num_heads", "mlp_ratio", "positions", "remat", "dropout")
_PIXELCNN = ("width", "depth", "kernel", "hidden", "dropout")


def faults(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Find what is wrong between fields that are each right by themselves."""
    if values["model.network"] == "transformer":
        found = transformer_faults(
            width=values["model.width"],
            num_heads=values["model.num_heads"],
            positions=values["model.positions"],
        )
    else:
        found = pixelcnn_faults(depth=values["model.depth"], kernel=values["model.kernel"])
    faults = [(f"model.{name}", fault) for name, fault in found.items()]
    if values["model.class_dropout"] and not values["model.num_classes"]:
        dropout = values["model.class_dropout"]
        faults.append(("model.class_dropout", f"{dropout}; 0 is needed without model.num_classes"))
    return faults


def build(values: Mapping[str, Any], stage1: "Stage1 | None" = None) -> "Experiment":
    """Build the model, its codec and its optimisers."""
    # Here and not above: the schema reads FIELDS before anything heavy may be loaded.
    import math

    from gen_jax.codecs import tokens, with_codec
    from gen_jax.errors import ConfigError
    from gen_jax.launch.experiment import Experiment, make_optimizer
    from gen_jax.models.autoregressive import autoregressive_model, hierarchical_model
    from gen_jax.nn.blocks import TENSOR_DIMS

    num_classes = values["model.num_classes"] or None
    shapes: Any = tuple(values["data.shape"])
    categories: Any = values["model.levels"]
    codec, weights = tokens(values["model.levels"]), None
    if stage1 is not None:
        codec, weights, shapes = stage1.codec, stage1.weights, stage1.code_shape
        categories = codec.num_categories
    if categories is None:
        raise ConfigError(
            "stage1: its codes are real numbers; a prior over tokens needs a first stage with "
            "discrete ones, and family 'diffusion' models these"
        )
    shared = (num_classes, values["model.class_dropout"])
    if isinstance(shapes, Mapping):
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
        model = hierarchical_model(networks, shapes, *shared)
        num_tokens = sum(math.prod(shape) for shape in shapes.values())
    else:
        model = autoregressive_model(_network(values, shapes, categories), shapes, *shared)
        num_tokens = math.prod(shapes)
    players = sorted({loss.player for loss in model.losses.values()})
    return Experiment(
        model=with_codec(model, codec),
        optimizers={player: make_optimizer(values) for player in players},
        frozen={"codec": {} if weights is None else weights},
        tensor_dims=TENSOR_DIMS,
        stage1_digest=None if stage1 is None else stage1.digest,
        num_tokens=num_tokens,
    )


def _network(
    values: Mapping[str, Any],
    shape: tuple[int, ...],
    num_categories: int,
    above: tuple[int, ...] = (),
) -> "Network":
    import jax.numpy as jnp

    from gen_jax.nn.pixelcnn import PixelCNN
    from gen_jax.nn.transformer import CausalTransformer

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
