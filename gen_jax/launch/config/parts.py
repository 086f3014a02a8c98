"""Fields that several families have, and the rules that go with them."""

from collections.abc import Mapping
from typing import Any

from gen_jax.launch.config.fields import (
    Field,
    boolean,
    choice,
    integer,
    integers,
    number,
    positives,
    prefixed,
    text,
)
from gen_jax.models.rules import PATCH_GAMES, PERCEPTUAL
from gen_jax.nn.geometry import autoencoder_faults

__all__ = [
    "ADVERSARY",
    "AUTOENCODER",
    "CONV",
    "DTYPE",
    "GUIDANCE",
    "REMAT",
    "STAGE1",
    "STAGE_FAMILIES",
    "TEXT",
    "TINY_ADVERSARY",
    "TINY_AUTOENCODER",
    "adversary_faults",
    "binarize",
    "class_dropout",
    "conv_faults",
    "guidance_faults",
    "log_sigma",
    "network_faults",
    "num_classes",
    "square",
    "stages",
    "text_faults",
    "told_text",
]

# Free, because it may move: a run keeps a copy of the one it began with.
STAGE1 = {
    "stage1": text(
        ".*",
        "the work directory of a first stage, or nothing to model pixels",
        doc="first stage whose codes are modeled",
    )
}
# What each stage may be, by family; see gen_jax.launch.runs.stages.
STAGE_FAMILIES = {
    "text": ("clip",),
    "clip": ("clip",),
    "prior": ("embedding_prior",),
    "base": ("autoregressive", "diffusion", "gan", "next_scale"),
    "image": ("diffusion",),
}
_STAGE_DOCS = {
    "text": "run of CLIP whose text encoder, frozen, the model is told by",
    "clip": "run of CLIP whose embeddings of images the model is told",
    "prior": "run that draws such embeddings from a text, when sampling",
    "base": "run that draws the images to make larger, when sampling",
    "image": "run of images, frozen, whose frames learn to follow one another",
}


def stages(*names: str) -> dict[str, Field]:
    """Make the fields of frozen stages: other runs, of which a run keeps copies."""
    return {
        f"stages.{name}": text(
            ".*",
            f"the work directory of a run of {' or '.join(STAGE_FAMILIES[name])}, or nothing",
            doc=_STAGE_DOCS[name],
        )
        for name in names
    }


DTYPE = {
    "model.dtype": choice(
        "float32", "bfloat16", doc="precision that the network computes in; weights are float32"
    )
}
REMAT = {
    "model.remat": choice(
        "none",
        "matmuls",
        "full",
        doc="activations computed again in the backward pass, to save memory",
    )
}

TEXT = {
    "text.tokenizer": text(
        "none|bytes|words|bpe|.*/.*",
        "none, bytes, words, bpe, a folder with vocab.json and merges.txt, or a tokenizer.json",
        default="none",
        change="frozen",
        doc="how captions become tokens; none: the model is told no text",
    ),
    "text.network": choice(
        "own",
        "clip",
        change="frozen",
        doc="transformer that reads a text: looking both ways, or CLIP's text tower",
    ),
    "text.vocabulary": integer(
        4, default=259, change="frozen", doc="number of token ids; of bytes there are 259"
    ),
    "text.length": integer(
        3, default=48, change="frozen", doc="tokens of a text, its beginning and end among them"
    ),
    "text.width": integer(4, default=64, change="frozen", doc="width of the text's transformer"),
    "text.depth": integer(1, default=2, change="frozen", doc="layers of the text's transformer"),
    "text.num_heads": integer(
        1, default=4, change="frozen", doc="attention heads of the text's transformer"
    ),
}


GUIDANCE = {
    "model.guidance": number(
        0,
        default=0.0,
        doc="scale of classifier-free guidance where a request says nothing; 0: none",
    )
}


def guidance_faults(values: Mapping[str, Any]) -> dict[str, str]:
    """Find guidance away from what was never left out."""
    scale = values["model.guidance"]
    if scale and not values["model.class_dropout"]:
        what = "0, or a model.class_dropout above 0, is required"
        return {"model.guidance": f"got {scale:g}; {what}"}
    return {}


def told_text(values: Mapping[str, Any]) -> bool:
    """Return whether a model is told a text."""
    return values["text.tokenizer"] != "none" or bool(values.get("stages.text"))


def text_faults(values: Mapping[str, Any]) -> dict[str, str]:
    """Find what is wrong with a text's tokens and transformer."""
    kind, size = values["text.tokenizer"], values["text.vocabulary"]
    faults = {}
    if kind in ("bytes", "bpe") and size < 259:
        faults["text.vocabulary"] = f"got {size}; 259 or more are required for {kind}"
    if values["text.width"] % values["text.num_heads"]:
        heads = values["text.num_heads"]
        what = f"a divisor of text.width, {values['text.width']}, is required"
        faults["text.num_heads"] = f"got {heads}; {what}"
    if values["text.network"] == "clip" and kind in ("bytes", "words", "bpe"):
        what = "a folder with CLIP's vocab.json and merges.txt is required with text.network 'clip'"
        faults["text.tokenizer"] = f"got {kind!r}; {what}"
    return faults


def num_classes(least: int = 0) -> dict[str, Field]:
    """Make the number of classes that a model is told; 0 for none."""
    doc = "number of classes" + ("; 0 for an unconditional model" if least == 0 else "")
    default = 0 if least == 0 else 10
    return {"model.num_classes": integer(least, default=default, change="frozen", doc=doc)}


def class_dropout(change: Any = "free") -> dict[str, Field]:
    """Make the share of conditions that training leaves out."""
    return {
        "model.class_dropout": number(
            0,
            1,
            below=True,
            default=0.0,
            change=change,
            doc="share of examples whose condition is dropped, for classifier-free guidance",
        )
    }


def binarize(default: str) -> dict[str, Field]:
    """Make what gray levels become for a Bernoulli likelihood."""
    return {
        "model.binarize": choice(
            "stochastic",
            "threshold",
            "none",
            default=default,
            change="frozen",
            doc="how gray levels become bits for a Bernoulli likelihood",
        )
    }


def log_sigma(change: Any = "frozen") -> dict[str, Field]:
    """Make the deviation of a Gaussian likelihood."""
    return {
        "model.log_sigma": number(
            -20,
            20,
            default=0.0,
            change=change,
            doc="log of a Gaussian likelihood's sigma; where it is learned, its first value",
        )
    }


def conv(**defaults: Any) -> dict[str, Field]:
    """Make the fields of convolutional halves, with defaults by name."""
    given = {
        "channels": 32, "multipliers": (1, 2, 2), "num_res_blocks": 1, "groups": 8,
        "attention": False, "projected": 0, **defaults,
    }  # fmt: skip
    frozen: Any = {"change": "frozen"}
    return {
        "model.channels": integer(
            1,
            default=given["channels"],
            **frozen,
            doc="channels of the convolutions; of conv, of its first level",
        ),
        "model.multipliers": positives(
            default=given["multipliers"],
            **frozen,
            doc="conv: channels of each level, as multiples of the first's",
        ),
        "model.num_res_blocks": integer(
            1, default=given["num_res_blocks"], **frozen, doc="conv: residual blocks of each level"
        ),
        "model.groups": integer(
            1, default=given["groups"], **frozen, doc="conv: groups of group normalization"
        ),
        "model.attention": boolean(
            default=given["attention"],
            **frozen,
            doc="conv: self-attention at the lowest resolution",
        ),
        "model.projected": integer(
            0,
            default=given["projected"],
            **frozen,
            doc="conv: channels between the network and a 1x1 convolution to the codes; 0 has none",
        ),
    }


CONV = ("channels", "multipliers", "num_res_blocks", "groups", "attention", "projected")

AUTOENCODER = {
    "model.network": choice("mlp", "conv", change="frozen", doc="network of encoder and decoder"),
    "model.widths": integers(
        1,
        default=(200, 200),
        change="frozen",
        doc="mlp: width of each hidden layer of the encoder; the decoder's are reversed",
    ),
    "model.activation": choice(
        "tanh", "relu", "silu", change="frozen", doc="mlp: activation function"
    ),
    **conv(),
    "model.latent_dim": integer(
        1, default=50, change="frozen", doc="dimensions of a code; of a grid, channels"
    ),
    **DTYPE,
}

ADVERSARY = {
    "model.adversary": choice(
        "none",
        "patch",
        change="frozen",
        doc="a discriminator of patches beside the reconstruction's loss, as VQGAN's",
    ),
    "model.disc_widths": integers(
        1,
        default=(64, 128, 256),
        change="frozen",
        doc="adversary: channels of its convolutions, each of which halves the image",
    ),
    "model.disc_groups": integer(
        0, default=32, change="frozen", doc="adversary: groups of group normalization; 0 has none"
    ),
    "model.disc_weight": number(
        0, default=0.8, doc="adversary: weight of its loss, beside gradients as long as the others"
    ),
    "model.adaptive": boolean(
        default=True, doc="adversary: weigh its loss by the ratio of gradients at the last layer"
    ),
    "model.disc_from": number(
        0, 1, default=0.2, doc="adversary: share of the steps after which it is trained"
    ),
    "model.adversarial_from": number(
        0, 1, default=0.3, doc="adversary: share of the steps after which its loss counts"
    ),
    "model.adversarial_ramp": number(
        0,
        1,
        default=0.05,
        doc="adversary: share of the steps in which its loss rises to its weight",
    ),
    "model.adversarial_game": choice(
        *PATCH_GAMES, doc="adversary: what it and the autoencoder minimize"
    ),
    "model.lecam": number(0, default=0.0, doc="adversary: weight of LeCam's penalty"),
    "model.perceptual": choice(
        "none",
        *PERCEPTUAL,
        change="frozen",
        doc="network of a perceptual loss (LPIPS), of the extra [perceptual]",
    ),
    "model.perceptual_weight": number(
        0, default=1.0, doc="weight of LPIPS, beside the mean squared error"
    ),
}

TINY_ADVERSARY = {"model.disc_widths": (8,), "model.disc_groups": 4}


def adversary_faults(values: Mapping[str, Any]) -> dict[str, str]:
    """Find what does not go together in an adversary's fields."""
    faults: dict[str, str] = {}
    if values["model.adversarial_from"] < values["model.disc_from"]:
        given = values["model.adversarial_from"]
        faults["model.adversarial_from"] = f"got {given}; from model.disc_from on is required"
    groups, widths = values["model.disc_groups"], values["model.disc_widths"]
    if groups and any(width % groups for width in widths[1:]):
        faults["model.disc_groups"] = f"{groups} does not divide the widths {tuple(widths[1:])}"
    side = min(values["data.shape"][:2])
    least = {"vgg16": 16, "alexnet": 31}.get(values["model.perceptual"], 1)
    if side < least:
        faults["model.perceptual"] = f"takes {least} pixels or more; data.shape has {side}"
    return faults


TINY_AUTOENCODER = {
    "data.holdout": lambda size: min(size, 16),
    "model.widths": (32, 16),
    "model.latent_dim": lambda dim: min(dim, 4),
    "model.channels": 8,
    "model.multipliers": (1, 2),
    "model.num_res_blocks": 1,
    "model.groups": 4,
}


def square(values: Mapping[str, Any]) -> dict[str, str]:
    """Refuse images that are not square."""
    height, width, _ = values["data.shape"]
    if height != width:
        return {"data.shape": f"got {height}x{width}; square images are required"}
    return {}


def network_faults(values: Mapping[str, Any]) -> dict[str, str]:
    """Find what is wrong between a network's fields that are each right by themselves."""
    latent = values.get("model.latent", "vector")
    if values["model.network"] == "mlp":
        if latent == "grid":
            return {"model.latent": "got 'grid'; with model.network 'mlp' a code is a 'vector'"}
        return {}
    if values["model.projected"] and latent != "grid":
        return {"model.projected": f"got {values['model.projected']}; 0 is required for a 'vector'"}
    return conv_faults(values)


def conv_faults(values: Mapping[str, Any]) -> dict[str, str]:
    """Find what is wrong between the fields of convolutional halves."""
    if faults := square(values):
        return faults
    names = ("channels", "multipliers", "groups")
    side = values["data.shape"][0]
    return prefixed(
        "model",
        autoencoder_faults(resolution=side, **{name: values[f"model.{name}"] for name in names}),
    )
