"""Tokenizers, and texts as they lie beside pictures."""

import json
import tarfile

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image

from gen_jax.data import named_by, open_source, with_prompts
from gen_jax.data.text import (
    BYTES,
    bpe,
    from_json,
    make_tokenizer,
    read_tokenizer,
    to_json,
    words,
)
from gen_jax.errors import DataError

CAPTIONS = ["a large red circle", "three green crosses", "a red circle above a blue square"]
TRAINED = bpe(CAPTIONS * 3, 300)


@given(st.text(max_size=60))
def test_bytes_and_bpe_give_back_any_text(text):
    for tokenizer in (BYTES, TRAINED):
        ids = tokenizer.encode(text)
        assert all(3 <= i < tokenizer.size for i in ids)
        assert tokenizer.decode([1, *ids, 2, 0, 0]) == text


def test_bpe_merges_what_is_frequent_and_is_made_anew_alike():
    assert len(TRAINED.encode("a red circle")) < len(BYTES.encode("a red circle")) / 2
    assert TRAINED.size <= 300
    assert bpe(CAPTIONS * 3, 300) == TRAINED
    assert bpe(["ab"], 300).merges == ()  # what occurs once is merged with nothing


def test_rows_begin_end_and_are_cut_aloud():
    rows, num_cut = words(CAPTIONS).batch([CAPTIONS[0], CAPTIONS[2], ""], 6)
    assert rows.dtype == np.int32
    assert num_cut == 1
    assert (rows[:, 0] == 1).all()
    assert rows[1, -1] == 2  # what is cut keeps its end
    assert tuple(rows[2]) == BYTES.null(6) == (1, 2, 0, 0, 0, 0)


def test_an_unknown_word_is_named():
    with pytest.raises(DataError, match="got 'pink'.*as a, above, blue"):
        words(CAPTIONS).encode("a pink circle")


def test_a_tokenizer_is_kept_whole():
    for tokenizer in (BYTES, TRAINED, words(CAPTIONS)):
        assert from_json(to_json(tokenizer)) == tokenizer
    for wrong in ("{}", "[]", '{"kind": "x", "pieces": [], "merges": []}'):
        with pytest.raises(DataError, match="tokenizer"):
            from_json(wrong)


def clip_files(folder):
    """Write a vocabulary as CLIP's: bytes, bytes that end a word, merges, and two signs."""
    signs = list(TRAINED.pieces[:256])
    merges = [("r", "e"), ("re", "d</w>"), ("c", "i"), ("ci", "r")]
    pieces = [*signs, *(f"{s}</w>" for s in signs), *(a + b for a, b in merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({p: i for i, p in enumerate(pieces)}))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines))
    return pieces


def test_clip_s_files_are_read_with_their_ids(tmp_path):
    pieces = clip_files(tmp_path)
    tokenizer = read_tokenizer(tmp_path)
    assert [pieces[i] for i in tokenizer.encode("  A RED&amp;  circle")] == [
        *("a</w>", "red</w>", "&</w>", "cir", "c", "l", "e</w>"),
    ]
    rows, _ = tokenizer.batch(["red"], 5)
    assert [pieces[i] for i in rows[0]] == [*("<|startoftext|>", "red</w>", *["<|endoftext|>"] * 3)]
    assert tokenizer.decode(rows[0]) == "red"
    ours = make_tokenizer(str(tmp_path), [], 600)  # for a network of ours, its ends are 1 and 2
    assert tuple(ours.batch(["red"], 4)[0][0][[0, 2, 3]]) == (1, 2, 0)
    with pytest.raises(DataError, match=r"text.vocabulary: got 300; \d+ or more"):
        make_tokenizer(str(tmp_path), [], 300)
    (tmp_path / "vocab.json").write_text('{"a": 3}')
    with pytest.raises(DataError, match="numbers from 0 on"):
        read_tokenizer(tmp_path)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Lay the same 20 captioned pictures in six ways."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 8, 8, 3), np.uint8)
    texts = [f"picture {i} of twenty, ünï" for i in range(20)]
    names = [f"{i:03}.png" for i in range(20)]
    places = {}
    for kind in ("jsonl", "csv", "txt", "shards", "tars", "npz"):
        root = places[kind] = tmp_path_factory.mktemp(kind)
        for i, (image, name) in enumerate(zip(images, names, strict=True)):
            below = root / (f"0000{i // 10}" if kind == "shards" else ".")
            below.mkdir(exist_ok=True)
            if kind != "npz":
                Image.fromarray(image).save(below / name)
            if kind in ("txt", "shards", "tars"):
                (below / name).with_suffix(".txt").write_text(texts[i] + "\n")
    for number in range(2):  # members in any order
        place = places["tars"]
        with tarfile.open(place / f"{number}.tar", "w") as tar:
            for file in sorted(place.glob(f"0{number}*"), reverse=bool(number)):
                tar.add(file, file.name)
                file.unlink()
    rows = [{"file_name": n, "text": t} for n, t in zip(names, texts, strict=True)]
    lines = "\n".join(map(json.dumps, reversed(rows)))
    (places["jsonl"] / "metadata.jsonl").write_text(lines)
    table = "\n".join(["file_name,text", *(f'{r["file_name"]},"{r["text"]}"' for r in rows)])
    (places["csv"] / "metadata.csv").write_text(table)
    train = [i for i in range(20) if i % 10 != 9]  # every tenth is held out
    np.savez(places["npz"] / "x.npz", x_train=images[train],
             captions_train=np.array(texts)[train])  # fmt: skip
    return places


def test_six_ways_to_lay_captions_give_the_same_batches(pictures):
    batches = []
    for kind, place in pictures.items():
        spec = f"npz:{place}/x.npz" if kind == "npz" else f"folder:{place}"
        spec = f"tars:{place}" if kind == "tars" else spec
        source = with_prompts(open_source(spec, "train", (8, 8, 3)), BYTES, 40)
        assert source.captions is not None
        batches.append(source.read(np.array([3, 0, 17])))
    for batch in batches[1:]:
        np.testing.assert_array_equal(batch["image"], batches[0]["image"])
        np.testing.assert_array_equal(batch["prompt"], batches[0]["prompt"])
    assert BYTES.decode(batches[0]["prompt"][1]) == "picture 0 of twenty, ünï"


def test_what_lacks_a_caption_is_named(pictures, tmp_path):
    for kind, gone in (("txt", "003.txt"), ("jsonl", "metadata.jsonl")):
        place = tmp_path / kind
        place.mkdir()
        for path in pictures[kind].iterdir():
            (place / path.name).write_bytes(path.read_bytes())
        if kind == "txt":
            (place / gone).unlink()
            message = "003.txt: missing; 17 of 18 pictures have a text"
        else:
            rows = (place / gone).read_text().splitlines()
            (place / gone).write_text("\n".join(rows[:-1]))
            message = "metadata.jsonl: nothing of 000.png"
        with pytest.raises(DataError, match=message):
            open_source(f"folder:{place}", "train", (8, 8, 3))
    (place / gone).write_text('{"file_name": 3}')
    with pytest.raises(DataError, match="line 1: file_name and text are required"):
        open_source(f"folder:{place}", "train", (8, 8, 3))


def test_classes_become_captions_and_nothing_becomes_none():
    source = named_by(open_source("digits", "train", (8, 8, 1)), "a handwritten {}")
    assert source.captions(np.array([0])) == [f"a handwritten {source.read([0])['label'][0]}"]
    with pytest.raises(DataError, match=r"no captions; data.captions can make"):
        with_prompts(open_source("digits", "train", (8, 8, 1)), BYTES, 9)


def test_a_tokenizer_json_is_read_by_its_library_and_kept_whole(tmp_path):
    library = pytest.importorskip("tokenizers")
    own = library.Tokenizer(library.models.WordLevel({"a": 0, "red": 1, "[UNK]": 2}, "[UNK]"))
    own.pre_tokenizer = library.pre_tokenizers.Whitespace()
    path = tmp_path / "tokenizer.json"
    own.save(str(path))
    made = make_tokenizer(str(path), [], 64)
    assert made.size == 6  # those around a text come first
    assert made.encode("a red thing") == [3, 4, 5]
    rows, num_cut = made.batch(["a red", "red red red red"], 5)
    assert rows.tolist() == [[1, 3, 4, 2, 0], [1, 4, 4, 4, 2]]
    assert num_cut == 1
    assert made.decode(rows[0]) == "a red"
    again = from_json(to_json(made))
    assert again == made
    with pytest.raises(DataError, match="6 or more are required"):
        make_tokenizer(str(path), [], 5)
    path.write_text("{}")
    with pytest.raises(DataError, match=r"not a tokenizer\.json"):
        make_tokenizer(str(path), [], 64)
    with pytest.raises(DataError, match="cannot be read"):
        make_tokenizer(str(tmp_path / "none.json"), [], 64)
