"""The tokenizer of a work directory: made once, of the training captions, and kept."""

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gen_jax.data import with_prompts
from gen_jax.data.sources import Source
from gen_jax.data.text import Tokenizer, from_json, make_tokenizer, to_json
from gen_jax.errors import CheckpointError, ConfigError
from gen_jax.files import write_file
from gen_jax.launch.config.files import reader_of
from gen_jax.launch.runs.workdir import TOKENIZER

__all__ = [
    "digest_of",
    "keep_tokenizer",
    "load_tokenizer",
    "with_text",
    "write_tokenizer",
]

# Of so many captions the lengths are looked at, and a vocabulary is learned.
_MOST = 100_000
_LEFT_RIGHT = {"left", "right"}


def load_tokenizer(config: Mapping[str, Any], workdir: Path) -> Tokenizer | None:
    """Load the tokenizer of a work directory; None for a model that is told no text.

    Raises:
        CheckpointError: if it is missing, or not as it was written.
    """
    if config.get("text", {}).get("tokenizer", "none") == "none":
        return None
    path = workdir / TOKENIZER
    try:
        kept = json.loads(path.read_text())
        text, digest = kept["tokenizer"], kept["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: the tokenizer cannot be read: {error}") from error
    if hashlib.sha256(text.encode()).hexdigest() != digest:
        raise CheckpointError(f"{path}: not as it was written; its sha256 is another")
    return from_json(text, str(path))


def keep_tokenizer(
    config: Mapping[str, Any], workdir: Path, source: Source, *, write: bool
) -> Tokenizer | None:
    """Load the tokenizer of a run, or make one of its training captions; says what was cut.

    Args:
        config: without faults.
        workdir: of the run.
        source: of training images with captions.
        write: whether this process writes; all of a job make the same.

    Raises:
        DataError: if there are no captions, or the vocabulary does not suffice.
    """
    kind = config.get("text", {}).get("tokenizer", "none")
    if kind == "none":
        return None
    length = config["text"]["length"]
    with_prompts(source, Tokenizer("bytes"), length)  # has it captions?
    assert source.captions is not None
    some = np.unique(np.linspace(0, source.size - 1, min(source.size, _MOST)).astype(np.int64))
    captions = source.captions(some)
    if config["data"]["flip"] and any(_LEFT_RIGHT & set(text.split()) for text in captions):
        raise ConfigError("data.flip: got True; False is required: captions say left and right")
    if (theirs := workdir / reader_of(config)).is_dir():  # a frozen stage reads its own tokens
        if write and not (workdir / TOKENIZER).exists():
            write_file(workdir / TOKENIZER, (theirs / TOKENIZER).read_bytes())
        return load_tokenizer(config, theirs)
    if (workdir / TOKENIZER).exists():
        return load_tokenizer(config, workdir)
    clip = config["text"]["network"] == "clip"
    made = make_tokenizer(kind, captions, config["text"]["vocabulary"], keep_ids=clip)
    if write:
        write_tokenizer(made, workdir)
        _report(source, captions, made, length)
    return made


def digest_of(tokenizer: Tokenizer | None) -> str | None:
    """Return what tells tokenizers apart; checkpoints remember it."""
    return None if tokenizer is None else hashlib.sha256(to_json(tokenizer).encode()).hexdigest()


def write_tokenizer(tokenizer: Tokenizer, workdir: Path) -> None:
    """Keep a tokenizer in a work directory, with its digest."""
    text, digest = to_json(tokenizer), digest_of(tokenizer)
    write_file(workdir / TOKENIZER, json.dumps({"sha256": digest, "tokenizer": text}).encode())


def _report(source: Source, captions: list[str], made: Tokenizer, length: int) -> None:
    where = f", of {source.captions_from}" if source.captions_from else ""
    num = len(set(captions))
    print(f"captions{where}: {num:,} different ones, as {captions[0]!r}; {made.kind}", flush=True)
    _, num_cut = made.batch(captions, length)
    if num_cut:
        longest = max(len(made.encode(text)) for text in captions) + 2
        print(
            f"gen_jax: data: {num_cut / len(captions):.1%} of the captions have more than "
            f"text.length {length} tokens and are cut; the longest has {longest}",
            file=sys.stderr,
            flush=True,
        )


def with_text(source: Source, tokenizer: Tokenizer | None, config: Mapping[str, Any]) -> Source:
    """Let a source bring what a model is told of its captions."""
    if tokenizer is None:
        return source
    return with_prompts(source, tokenizer, config["text"]["length"])
