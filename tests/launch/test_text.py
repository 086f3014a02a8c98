"""Prompts on the command line: asked for, read, refused, written under pictures, ranked."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from gen_jax.data.text import from_json, to_json
from gen_jax.errors import DataError
from gen_jax.launch.build.experiment import build
from gen_jax.launch.build.sources import check_source, open_split
from gen_jax.launch.cli.main import main
from gen_jax.launch.config.files import load_config
from gen_jax.launch.runs.tokens import keep_tokenizer, with_text

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_device")]
PROMPT = "a red circle above a blue square"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for name in ("text", "clip"):
        line = ["train", "--config", f"configs/{name}_scenes.py:tiny", "--workdir"]
        assert main([*line, str(folder / name)]) == 0
    return folder


def sample(runs, out, *arguments):
    line = ["sample", "--workdir", str(runs / "text"), "--num", "4", "--steps=2"]
    return main([*line, "--out", str(out), *arguments])


def test_prompts_are_read_in_turn_and_kept_with_what_they_made(runs, tmp_path, capsys):
    (tmp_path / "p.txt").write_text("two red crosses\n\na  small white circle\n")
    out = tmp_path / "a.npz"
    assert sample(runs, out, "--prompts", str(tmp_path / "p.txt"), "--negative", PROMPT) == 0
    with np.load(out) as arrays:
        assert list(arrays["prompts"]) == ["two red crosses", "a small white circle"] * 2
    png = tmp_path / "a.png"
    assert sample(runs, png, "--prompt", PROMPT) == 0
    with Image.open(png) as picture:  # two in a row, enlarged, words below
        assert picture.size[0] == 2 * 96 + 18
        assert picture.size[1] > 2 * 96 + 30
    capsys.readouterr()
    rank = ["rank", "--workdir", str(runs / "clip"), "--images", str(out)]
    best = tmp_path / "best.npz"
    assert main([*rank, "--keep", "1", "--out", str(best)]) == 0
    with np.load(best) as arrays:
        assert list(arrays["prompts"]) == ["two red crosses", "a small white circle"]
        assert arrays["indices"][0] in (0, 2)
        assert arrays["indices"][1] in (1, 3)
    assert main([*rank, "--prompt", PROMPT, "--keep", "3", "--out", str(tmp_path / "b.png")]) == 0
    assert "3 of 4 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "--prompt: is required by this model"),
        (("--prompt", "a pink circle"), 3, "got 'pink'; words that training captions held"),
        (("--prompt", PROMPT, "--prompts", "x"), 2, "--prompts: goes not with --prompt"),
        (("--prompts", "nowhere.txt"), 2, "--prompts: nowhere.txt: cannot be read"),
        (("--prompt", PROMPT, "--label=3"), 2, "this model is not told it; it is told --prompt"),
    ],
)
def test_slips_are_named(runs, tmp_path, capsys, arguments, code, message):
    assert sample(runs, tmp_path / "a.png", *arguments) == code
    assert message in capsys.readouterr().err


def test_what_is_cut_is_shown(runs, tmp_path, capsys):
    long = " and ".join([PROMPT] * 3).replace(" and", "")
    assert sample(runs, tmp_path / "a.png", "--prompt", long) == 0
    err = capsys.readouterr().err
    assert "1 of 1 cut at 14 tokens" in err
    assert f"{' '.join(long.split()[:12])!r} is left of" in err


def test_a_tokenizer_that_changed_is_noticed(runs, capsys):
    path = runs / "text" / "tokenizer.json"
    whole = path.read_text()
    try:
        kept = json.loads(whole)
        path.write_text(json.dumps({**kept, "tokenizer": kept["tokenizer"].replace("red", "rad")}))
        line = ["train", "--config", "configs/text_scenes.py:tiny", "--workdir"]
        assert main([*line, str(runs / "text"), "--config.train.steps=3"]) == 4
        assert "not as it was written" in capsys.readouterr().err
        changed = to_json(from_json(kept["tokenizer"])._replace(pad=3))
        digest = hashlib.sha256(changed.encode()).hexdigest()
        path.write_text(json.dumps({"sha256": digest, "tokenizer": changed}))
        assert main([*line, str(runs / "text"), "--config.train.steps=3"]) == 4
        assert "the tokenizer in the work directory is not what this run" in capsys.readouterr().err
    finally:
        path.write_text(whole)


def test_what_would_train_another_thing_is_refused(runs, capsys):
    flip = ["train", "--config", "configs/text_scenes.py:tiny", "--config.data.flip=True"]
    assert main([*flip, "--workdir", str(runs / "flipped")]) == 2
    assert "captions say left and right" in capsys.readouterr().err
    parts = ["train", "--config", "configs/clip_scenes.py:tiny", "--config.train.microbatches=2"]
    assert main([*parts, "--workdir", str(runs / "parts")]) == 2
    assert "over all pairs of a batch" in capsys.readouterr().err


@pytest.mark.nightly
def test_facts_are_measured_apart(runs):
    line = ["evaluate", "--workdir", str(runs / "text"), "--num", "6", "--steps=2"]
    assert main([*line, "--clip", str(runs / "clip")]) == 0
    (file,) = (runs / "text" / "eval").glob("*.json")
    results = json.loads(file.read_text())
    for fact in ("color", "shape", "size", "count", "binding", "position", "all", "fit"):
        assert 0 <= results[f"facts_seen_{fact}"] <= 1
        assert 0 <= results[f"facts_unseen_{fact}"] <= 1
    assert -1 <= results["clip_score_samples"] <= 1
    assert main(["evaluate", "--workdir", str(runs / "clip")]) == 0


def test_pictures_of_a_folder_are_trained_with_their_texts(tmp_path, capsys):
    for i in range(20):
        Image.new("RGB", (16, 16), (12 * i, 0, 0)).save(tmp_path / f"{i:02}.png")
        (tmp_path / f"{i:02}.txt").write_text(f"picture {i} ünï {(i + 3) * 7919**4}")
    config = load_config(
        "configs/text_scenes.py:tiny",
        [f"data.source=folder:{tmp_path}", "text.tokenizer=bpe", "text.vocabulary=300"],
    )
    source, experiment = open_split(config, "train"), build(config)
    tokenizer = keep_tokenizer(config, tmp_path, source, write=True)
    check_source(with_text(source, tokenizer, config), experiment, config)
    out = capsys.readouterr()
    assert "captions, of NAME.txt beside each picture: 18 different ones" in out.out
    assert "of the captions have more than text.length 14 tokens" in out.err
    with pytest.raises(DataError, match="no captions; data.captions can make"):
        keep_tokenizer(config, tmp_path, source._replace(captions=None), write=True)


def test_clip_leads_to_a_target(runs, tmp_path, capsys):
    """From the same noise, twice as far in the space of both."""
    clip = ["--clip", str(runs / "clip")]
    assert sample(runs, tmp_path / "a.npz", "--prompt", PROMPT, *clip) == 2
    assert "--target, a text, is required" in capsys.readouterr().err
    target = ["--target", "a large red circle"]
    assert sample(runs, tmp_path / "a.npz", "--prompt", "", *target) == 2
    assert "--target: this model is not told it" in capsys.readouterr().err
    images = []
    for scale in ("0", "20"):
        out = tmp_path / f"{scale}.npz"
        line = [*clip, *target, f"--clip_scale={scale}", "--guidance=1"]
        assert sample(runs, out, "--prompt", "", *line) == 0
        images.append(out)
    rank = ["rank", "--workdir", str(runs / "clip"), "--prompt", "a large red circle"]
    scores = []
    for out in images:
        best = out.with_suffix(".best.npz")
        assert main([*rank, "--images", str(out), "--out", str(best)]) == 0
        with np.load(best) as arrays:
            scores.append(arrays["scores"].mean())
    assert scores[1] > scores[0]
