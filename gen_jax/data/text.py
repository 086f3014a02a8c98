"""Text as numbers: bytes, words, or pairs of bytes that merge (BPE), CLIP's and GPT-2's included.

A text becomes ``[begin, ids..., end, pad...]`` of a fixed length. The null text, that guidance
leads away from, is the tokens of ``""``, never zeros.
"""

import functools
import html
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gen_jax.errors import DataError
from gen_jax.lazy import without_extra
from gen_jax.reading import read_file

__all__ = [
    "BYTES",
    "KINDS",
    "Tokenizer",
    "bpe",
    "from_json",
    "make_tokenizer",
    "read_tokenizer",
    "to_json",
    "words",
]

KINDS = ("bytes", "words", "bpe", "library")
_LARGEST = 1 << 26  # bytes of a vocabulary's file
_PAD, _BEGIN, _END, _SPECIAL = 0, 1, 2, 3


class Tokenizer(NamedTuple):
    """A map between text and token ids.

    Attributes:
        kind: ``"bytes"``, ``"words"``, ``"bpe"`` or ``"library"``.
        pieces: what ids from ``offset`` on stand for: words, or byte strings written as GPT-2
            writes them. Of a library's the whole of its ``tokenizer.json``.
        merges: of pairs of pieces, the first to be merged first.
        offset: the first piece's id.
        begin: id before each text.
        end: id behind it.
        pad: id of what is left.
        clip: whether text is cleaned and words are ended as CLIP does.
    """

    kind: str
    pieces: tuple[str, ...] = ()
    merges: tuple[tuple[str, str], ...] = ()
    offset: int = _SPECIAL
    begin: int = _BEGIN
    end: int = _END
    pad: int = _PAD
    clip: bool = False

    @property
    def size(self) -> int:
        """Return the number of ids: all are below it."""
        pieces = 256 if self.kind == "bytes" else len(self.pieces)
        if self.kind == "library":
            pieces = _library(self.pieces[0]).get_vocab_size()
        return max(self.offset + pieces, self.begin + 1, self.end + 1, self.pad + 1)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without those around it.

        Raises:
            DataError: for a word that a vocabulary of words does not have.
        """
        if self.kind == "bytes":
            return [self.offset + byte for byte in text.encode()]
        known = _numbers(self.pieces)
        if self.kind == "library":
            made = _library(self.pieces[0]).encode(text, add_special_tokens=False)
            return [self.offset + number for number in made.ids]
        if self.kind == "words":
            split = text.split()
            if strange := [word for word in split if word not in known]:
                near = ", ".join(self.pieces[:30])
                raise DataError(
                    f"prompt: got {strange[0]!r}; words that training captions held are required, "
                    f"as {near}"
                )
            return [self.offset + known[word] for word in split]
        text = _clean(text) if self.clip else text
        pattern = _CLIP_WORDS if self.clip else _GPT2_WORDS
        ids: list[int] = []
        for word in pattern.findall(text):
            written = tuple(_WRITTEN[byte] for byte in word.encode())
            if self.clip:
                written = (*written[:-1], f"{written[-1]}</w>")
            ids += [self.offset + known[piece] for piece in _merged(written, self.merges)]
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, what stands around it left out."""
        around = {self.begin, self.end, self.pad}
        numbers = [int(i) - self.offset for i in ids if int(i) not in around]
        if self.kind == "bytes":
            return bytes(x for x in numbers if 0 <= x < 256).decode(errors="replace")
        if self.kind == "library":
            return str(_library(self.pieces[0]).decode(numbers))
        pieces = [self.pieces[x] for x in numbers if 0 <= x < len(self.pieces)]
        if self.kind == "words":
            return " ".join(pieces)
        text = "".join(pieces)
        ended = text.replace("</w>", " ") if self.clip else text
        raw = bytearray()
        for sign in ended:
            raw += bytes([_READ[sign]]) if sign in _READ else sign.encode()
        decoded = raw.decode(errors="replace")
        return decoded.strip() if self.clip else decoded

    def batch(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, int]:
        """Encode texts to one length, and count those that were cut.

        Args:
            texts: N of them.
            length: of each row, from 2.

        Returns:
            int32 [N, length], and how many texts were longer; these keep their end.
        """
        rows = np.full((len(texts), length), self.pad, np.int32)
        num_cut = 0
        for row, text in zip(rows, texts, strict=True):
            ids = self.encode(text)
            num_cut += len(ids) > length - 2
            ids = ids[: length - 2]
            row[: len(ids) + 2] = [self.begin, *ids, self.end]
        return rows, num_cut

    def null(self, length: int) -> tuple[int, ...]:
        """Return the row of the empty text."""
        return (self.begin, self.end, *(self.pad,) * (length - 2))


BYTES = Tokenizer("bytes")
"""UTF-8 as it is: 259 ids, no vocabulary, every text."""


def words(captions: Iterable[str]) -> Tokenizer:
    """Make a vocabulary of all words between spaces."""
    return Tokenizer("words", tuple(sorted({word for text in captions for word in text.split()})))


def bpe(captions: Iterable[str], size: int) -> Tokenizer:
    """Train byte-level BPE (Sennrich et al. 2016; Radford et al. 2019), the frequent pairs first.

    Args:
        captions: texts.
        size: ids at most, from 259; fewer if nothing occurs twice any more.

    Raises:
        DataError: if not even the bytes would fit.
    """
    if size < _SPECIAL + 256:
        raise DataError(f"vocabulary: got {size}; {_SPECIAL + 256} or more are required for bpe")
    counts = Counter(word for text in captions for word in _GPT2_WORDS.findall(text))
    spelled = {word: tuple(_WRITTEN[byte] for byte in word.encode()) for word in counts}
    pieces, merges = [_WRITTEN[byte] for byte in range(256)], []
    while len(pieces) + _SPECIAL < size:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, spelling in spelled.items():
            for pair in itertools.pairwise(spelling):
                pairs[pair] += counts[word]
        # Of equally frequent pairs the first in order, so that training is repeatable.
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None or pairs[best] < 2:
            break
        merges.append(best)
        pieces.append("".join(best))
        spelled = {
            word: _join(spelling, best) if best[0] in spelling else spelling
            for word, spelling in spelled.items()
        }
    return Tokenizer("bpe", tuple(pieces), tuple(merges))


def make_tokenizer(
    kind: str, captions: Iterable[str], size: int, *, keep_ids: bool = False
) -> Tokenizer:
    """Make a tokenizer for captions.

    Args:
        kind: of :data:`KINDS`, or the place of another's files; see :func:`read_tokenizer`.
        captions: texts to learn a vocabulary from.
        size: ids at most.
        keep_ids: leave another's ids as they are, for a network of its own.

    Raises:
        DataError: if the vocabulary is larger, or the files cannot be used.
    """
    if kind == "bytes":
        made = BYTES
    elif kind == "words":
        made = words(captions)
    elif kind == "bpe":
        made = bpe(captions, size)
    else:
        made = read_tokenizer(Path(kind).expanduser())
        if not keep_ids:  # those of ours around the text, which a network of ours is built for
            made = made._replace(offset=_SPECIAL, begin=_BEGIN, end=_END, pad=_PAD)
    if made.size > size:
        raise DataError(
            f"text.vocabulary: got {size}; {made.size} or more are required for these {kind!r}"
        )
    return made


def read_tokenizer(path: Path) -> Tokenizer:
    """Read CLIP's or GPT-2's tokenizer: ``vocab.json`` and ``merges.txt`` of a folder.

    A file ``tokenizer.json`` is read by Hugging Face's ``tokenizers``, of the extra ``[text]``.

    Raises:
        DataError: naming the file and what is wrong with it.
    """
    if path.suffix == ".json":
        return _read_library(path)
    vocabulary = path / "vocab.json"
    try:
        ids = json.loads(read_file(vocabulary, _LARGEST))
        lines = read_file(path / "merges.txt", _LARGEST).decode().splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: vocab.json and merges.txt are required: {error}") from error
    whole = isinstance(ids, dict) and sorted(ids.values()) == list(range(len(ids)))
    if not whole:
        raise DataError(f"{vocabulary}: pieces with the numbers from 0 on are required")
    merges = [tuple(x.split(" ")) for x in lines if x and not x.startswith("#version")]
    if any(len(pair) != 2 for pair in merges):
        raise DataError(f"{path / 'merges.txt'}: two pieces in each line are required")
    pieces = tuple(sorted(ids, key=ids.__getitem__))
    clip = "<|startoftext|>" in ids
    end = ids.get("<|endoftext|>")
    if end is None:
        raise DataError(f"{vocabulary}: no <|endoftext|>, as CLIP's and GPT-2's have")
    begin = ids["<|startoftext|>"] if clip else end
    pairs = tuple((first, second) for first, second in merges)
    lacking = next((sign for sign in _WRITTEN.values() if sign not in ids), None)
    lacking = lacking or next((a + b for a, b in pairs if a + b not in ids), None)
    if lacking is not None:
        raise DataError(f"{vocabulary}: no {lacking!r}, which merges.txt or some byte needs")
    return Tokenizer("bpe", pieces, pairs, 0, begin, end, end, clip)


def _read_library(path: Path) -> Tokenizer:
    try:
        text = read_file(path, _LARGEST).decode()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    try:
        _library(text)
    except ModuleNotFoundError as error:
        raise DataError(f"{path}: {without_extra('a tokenizer.json', error)}") from error
    except Exception as error:  # the library raises Exception itself
        raise DataError(f"{path}: not a tokenizer.json: {error}") from error
    return Tokenizer("library", (text,))


@functools.lru_cache(maxsize=4)
def _library(text: str) -> Any:
    from tokenizers import Tokenizer as Library

    made = Library.from_str(text)
    made.no_padding()
    made.no_truncation()  # which is ours, and told of
    return made


def to_json(tokenizer: Tokenizer) -> str:
    """Write a tokenizer as one file."""
    return json.dumps(tokenizer._asdict(), ensure_ascii=False)


def from_json(text: str | bytes, where: str = "tokenizer") -> Tokenizer:
    """Read what :func:`to_json` wrote.

    Raises:
        DataError: for anything else.
    """
    try:
        given: Mapping[str, Any] = json.loads(text)
        made = Tokenizer(
            **{
                **given,
                "pieces": tuple(given["pieces"]),
                "merges": tuple((first, second) for first, second in given["merges"]),
            }
        )
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{where}: not a tokenizer of gen-jax: {error}") from error
    if made.kind not in KINDS or not all(isinstance(piece, str) for piece in made.pieces):
        raise DataError(f"{where}: kind: got {made.kind!r}; one of {', '.join(KINDS)} is required")
    return made


def _byte_signs() -> dict[int, str]:
    """Write each byte as a sign that can be seen (GPT-2's table)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {b: chr(256 + i) for i, b in enumerate(hidden)}


_WRITTEN = _byte_signs()
_READ = {sign: byte for byte, sign in _WRITTEN.items()}
# GPT-2's and CLIP's words. Letters are what Python calls so, numbers its digits, and an underscore
# is neither, where both ask Unicode.
_GPT2_WORDS = re.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?[^\W\d_]+| ?\d+| ?(?:[^\s\w]|_)+|\s+(?!\S)|\s+"
)
_CLIP_WORDS = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+", re.IGNORECASE)


def _clean(text: str) -> str:
    """Clean text as CLIP does without ftfy: HTML's signs, spaces and capitals."""
    text = html.unescape(html.unescape(text))
    return re.sub(r"\s+", " ", text).strip().lower()


def _join(spelling: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """Merge each occurrence of a pair, from the left."""
    made, index = [], 0
    while index < len(spelling):
        if spelling[index : index + 2] == pair:
            made.append("".join(pair))
            index += 2
        else:
            made.append(spelling[index])
            index += 1
    return tuple(made)


def _merged(spelling: tuple[str, ...], merges: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    ranks = _numbers(merges)
    while len(spelling) > 1:
        pairs = itertools.pairwise(spelling)
        best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        spelling = _join(spelling, best)
    return spelling


_NUMBERS: dict[int, tuple[Any, dict[Any, int]]] = {}


def _numbers(items: tuple[Any, ...]) -> dict[Any, int]:
    """Return the number of each item, from a table that is kept: to hash 49,408 takes a while."""
    kept = _NUMBERS.get(id(items))
    if kept is None or kept[0] is not items:
        if len(_NUMBERS) > 16:
            _NUMBERS.clear()
        kept = (items, {item: number for number, item in enumerate(items)})
        _NUMBERS[id(items)] = kept
    return kept[1]
