"""The page of a run: whole in one file, written while it trains, beside others' in another."""

import html
import json
import os
import re
import time
from html.parser import HTMLParser

import numpy as np
import pytest

from gen_jax.files import png_bytes
from gen_jax.launch.cli.main import main
from gen_jax.launch.config.schema import defaults_of
from gen_jax.launch.report.reading import look_at


def make_run(folder, name="a", seed=0, steps=40, family="vae"):
    """Write what a run writes."""
    work = folder / name
    (work / "images").mkdir(parents=True)
    (work / "eval").mkdir()
    config = defaults_of(family)
    config["seed"] = seed
    config["train"]["steps"] = 40
    (work / "config.json").write_text(json.dumps(config))
    lines = [
        {"step": step, "vae/loss": 100 / step, "time/images_per_second": 5.0 + seed,
         "time/steps_per_second": 0.5, "other/turn": None}
        for step in range(10, steps + 1, 10)
    ]  # fmt: skip
    torn = '{"step": 50, "vae/lo'
    text = "".join(json.dumps(line) + "\n" for line in lines) + torn
    (work / "metrics.jsonl").write_text(text)
    rng = np.random.default_rng(seed)
    for step in range(10, steps + 1, 10):
        picture = rng.integers(0, 256, (8, 8, 3), np.uint8)
        (work / "images" / f"{step:07}_samples.png").write_bytes(png_bytes(picture))
    (work / "eval" / "40.json").write_text(json.dumps({"step": 40, "nats_test": 91.5 + seed}))
    (work / "lives.jsonl").write_text(json.dumps({"command": "gen-jax train <b>"}) + "\n")
    return work


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen, self.links = [], [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        given = dict(attributes)
        self.links += [given[name] for name in ("src", "href") if name in given]
        if tag not in ("meta", "link", "img", "input", "line", "circle", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            assert self.open[-1] == tag or tag in ("html", "body", "tr", "td", "th")
            while self.open.pop() != tag:
                pass


def test_a_page_is_whole_and_says_what_was_written(tmp_path, capsys):
    work = make_run(tmp_path, steps=20)
    assert main(["report", "--workdir", str(work)]) == 0
    page = (work / "report.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert all(link.startswith("data:") for link in tags.links)  # nothing from elsewhere
    assert tags.links.count("data:,") == 1
    assert page.count("<img") == 2
    assert "step 20 of 40" in page
    assert "40 s left" in page
    assert "http-equiv=refresh" in page
    assert "91.5" in page
    assert "gen-jax train &lt;b&gt;" in page
    assert "other/turn" not in page  # never a number
    curve = re.findall(r"data-curve='([^']*)'", page)[0]
    assert json.loads(html.unescape(curve))["runs"] == [["", [[10, 10.0], [20, 5.0]]]]
    capsys.readouterr()
    assert main(["report", "--workdir", str(tmp_path / "nothing")]) == 2
    assert "no run" in capsys.readouterr().err


def test_what_differs_from_the_defaults_is_found_and_a_run_that_ended_is_not_waited_for(tmp_path):
    work = make_run(tmp_path, seed=3)
    look = look_at(work)
    assert look.changed == {"seed": 3, "train.steps": 40}
    assert look.steps == (40, 40)
    assert not look.alive
    assert list(look.curves) == ["vae/loss", "time/images_per_second"]
    assert [step for step, _ in look.pictures["samples"]] == [10, 20, 30, 40]
    assert look_at(tmp_path) is None
    old = make_run(tmp_path, "old", steps=20)
    long_ago = time.time() - 3600
    os.utime(old / "metrics.jsonl", (long_ago, long_ago))
    assert not look_at(old).alive


def test_runs_are_laid_side_by_side(tmp_path, capsys):
    first, second = make_run(tmp_path, "a", 0), make_run(tmp_path, "b", 1, steps=10)
    out = tmp_path / "c.html"
    assert main(["compare", str(first), str(second), "--out", str(out)]) == 0
    page = out.read_text()
    assert page.count("<polyline") == 4
    assert page.count("<figure class=pic") == 2
    assert "92.5" in page
    assert main(["compare", str(first), "--out", str(tmp_path / "c.txt")]) == 2
    assert ".html is required" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "x"), "--out", str(out)]) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_training_writes_its_page_and_who_trained(tmp_path):
    work = tmp_path / "work"
    line = ["train", "--config", "ae_mnist:tiny", "--workdir", str(work)]
    assert main([*line, "--config.train.sample_every=1"]) == 0
    page = (work / "report.html").read_text()
    assert "step 2 of 2" in page
    assert page.count("<img") == 4  # samples and reconstructions, of both steps
    assert main([*line, "--config.train.steps=3"]) == 0
    lives = [json.loads(text) for text in (work / "lives.jsonl").read_text().splitlines()]
    assert [life["from_step"] for life in lives] == [0, 2]
    assert {"jax", "python", "host", "command", "commit"} <= set(lives[0])
    assert "step 3 of 3" in (work / "report.html").read_text()
