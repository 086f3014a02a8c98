"""Texts of foreign models: the encoder and the tokenizer of a pipeline, and CLIP's two towers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gen_jax.data.text import Tokenizer, read_tokenizer
from gen_jax.errors import CheckpointError, ConfigError, DataError
from gen_jax.files import write_file
from gen_jax.interop.clip import fold_pixels, read_clip, read_clip_text
from gen_jax.interop.diffusers import Foreign
from gen_jax.interop.keys import Entry, import_weights
from gen_jax.interop.safetensors import read_folder
from gen_jax.launch.config.fields import flatten
from gen_jax.launch.config.schema import defaults_of, find_faults, nested
from gen_jax.launch.runs.tokens import digest_of, write_tokenizer
from gen_jax.typing import PyTree

__all__ = ["Text", "below", "import_clip", "leaves", "read_text_encoder"]

# Positions of theirs, that old files hold and nobody learns.
_COUNTED = ("position_ids",)


class Text(NamedTuple):
    """What a pipeline's text is read with."""

    tensors: Mapping[str, np.ndarray]
    entries: Sequence[Entry]
    tokenizer: Tokenizer


def leaves(tree: PyTree) -> list[tuple[tuple[str, ...], Any]]:
    """Return the arrays of nested mappings, by path."""
    import jax

    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(tuple(str(key.key) for key in path), x) for path, x in flat]


def below(shapes: Mapping[str, tuple[int, ...]], part: str) -> dict[str, tuple[int, ...]]:
    """Return what lies below one part of a tree."""
    start = f"{part}/"
    return {n.removeprefix(start): shape for n, shape in shapes.items() if n.startswith(start)}


def read_text_encoder(pipeline: Path, foreign: Foreign, values: dict[str, Any]) -> Text:
    """Read ``text_encoder`` and ``tokenizer`` of a pipeline, and put what they are into a config.

    Args:
        pipeline: with both.
        foreign: its network, which looks at a sequence.
        values: fields of the config so far, by dotted name; those of the text are added.

    Raises:
        CheckpointError: naming what is not understood or does not fit.
    """
    for other in ("text_encoder_2", "tokenizer_2"):
        if (pipeline / other).is_dir():
            raise CheckpointError(f"{pipeline / other}: a pipeline with one text is required")
    config, tensors = read_folder(pipeline / "text_encoder")
    try:
        text = read_clip_text(config)
    except CheckpointError as error:
        raise CheckpointError(f"{pipeline / 'text_encoder' / 'config.json'}: {error}") from error
    width, wanted = text.values["width"], foreign.values["context_dim"]
    if width != wanted:
        raise CheckpointError(
            f"{pipeline / 'text_encoder'}: hidden_size: {width}; {wanted} is required, the "
            "cross_attention_dim of the network"
        )
    tokenizer = _read_tokenizer(pipeline / "tokenizer", text.values["vocabulary"])
    values |= {f"text.{name}": value for name, value in text.values.items()}
    values |= {
        "text.tokenizer": str(pipeline / "tokenizer"),
        "model.context_dim": 0,
        "model.class_dropout": 0.1,
        "model.guidance": 7.5,
    }
    start = "text_model."  # which newer files leave out
    kept = {
        n if n.startswith(start) else start + n: x
        for n, x in tensors.items()
        if not n.endswith(_COUNTED)
    }
    return Text(kept, text.entries, tokenizer)


def _read_tokenizer(folder: Path, size: int) -> Tokenizer:
    try:
        tokenizer = read_tokenizer(folder)
    except DataError as error:
        raise CheckpointError(str(error)) from error
    if (tokenizer.size, tokenizer.begin, tokenizer.end) != (size, size - 2, size - 1):
        raise CheckpointError(
            f"{folder}: {tokenizer.size} pieces; {size} are required, the last two of which begin "
            "and end a text"
        )
    return tokenizer


def import_clip(source: Path, workdir: Path, overrides: Mapping[str, Any]) -> None:
    """Make a work directory, at step 0, of a CLIPModel of transformers.

    Args:
        source: its folder, with ``vocab.json`` and ``merges.txt``.
        workdir: to be made.
        overrides: fields of the config, by dotted name.

    Raises:
        CheckpointError: naming what cannot be understood, is missing or not used.
    """
    import jax

    from gen_jax.launch.build.experiment import abstract_state, build
    from gen_jax.train import checkpoint

    config, tensors = read_folder(source)
    try:
        model = read_clip(config)
    except CheckpointError as error:
        raise CheckpointError(f"{source / 'config.json'}: {error}") from error
    shape = "x".join(map(str, model.shape))
    values = {
        **model.values,
        "family": "clip",
        "data.shape": model.shape,
        "data.source": f"synthetic:{shape}",
        "text.tokenizer": f"{source}/",
        **overrides,
    }
    whole = nested({**flatten(defaults_of("clip")), **values})
    if faults := find_faults(whole):
        raise ConfigError("; ".join(map(str, faults)))
    tokenizer = _read_tokenizer(source, model.values["text.vocabulary"])
    experiment = build(whole)
    abstract = abstract_state(experiment, model.shape)
    shapes = {"/".join(path): tuple(x.shape) for path, x in leaves(abstract.params["net"])}
    folded = "image/patches/bias"
    tensors = {n: x for n, x in tensors.items() if not n.endswith(_COUNTED)}
    wanted = {n: shape for n, shape in shapes.items() if n != folded}
    try:
        net = fold_pixels(import_weights(tensors, model.entries, wanted))
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error

    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract)
    state = jax.device_put(state.replace(params={"net": net}, ema_params={"net": net}))
    meta = {"config": whole, "data": None, "stage1": None, "tokenizer": digest_of(tokenizer)}
    with checkpoint.open_checkpoints(workdir / "checkpoints") as manager:
        checkpoint.save(manager, state, meta, wait=True)
    write_tokenizer(tokenizer, workdir)
    write_file(workdir / "config.json", (json.dumps(whole, indent=2) + "\n").encode())
    num = sum(x.size for x in jax.tree.leaves(net))
    print(f"CLIPModel: {num:,} parameters in {workdir}, step 0", flush=True)
