"""What the README and the guides show is run."""

import contextlib
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from gen_jax.launch.cli.main import main
from tests.devices import one_device

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


EVERY_DAY = [ROOT / "README.md"]  # what the guides show is run in the nightly tier
PYTHON = [(page, i, code) for page in PAGES for i, code in enumerate(blocks(page, "python"))]
COMMANDS = {
    page: [
        line
        for block in blocks(page, "bash")
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("gen-jax ")
    ]
    for page in PAGES
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "index", "code"),
    [
        pytest.param(
            page,
            index,
            code,
            id=f"{page.stem}-{index}",
            marks=() if page in EVERY_DAY else pytest.mark.nightly,
        )
        for page, index, code in PYTHON
    ],
)
def test_python_blocks_run(page, index, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, f"{page.name}[{index}]", "exec"), {"__name__": "__main__"})


def test_there_are_blocks_to_run():
    assert len(PYTHON) >= 4
    assert len(COMMANDS[PAGES[0]]) >= 3
    assert sum(map(len, COMMANDS.values())) >= 30


@pytest.mark.slow
def test_the_readme_s_commands_run_in_order(tmp_path, monkeypatch, capsys):
    run_commands(EVERY_DAY, tmp_path, monkeypatch, capsys)


@pytest.mark.nightly
@pytest.mark.timeout(1800)  # minutes, where nothing is compiled yet
def test_the_commands_of_all_pages_run_in_order(tmp_path, monkeypatch, capsys):
    """One after another: guides go on with what the README has trained."""
    run_commands(PAGES, tmp_path, monkeypatch, capsys)


def run_commands(pages, tmp_path, monkeypatch, capsys):
    """Run with the tiny variant of the config that they name, and in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "photos" / "red.png")
    for line in (line for page in pages for line in COMMANDS[page]):
        words = [re.sub(r"(configs/\w+\.py)$", r"\1:tiny", word) for word in shlex.split(line)]
        words = ["--steps=10" if w == "--steps=50" else w for w in words[1:]]
        words = ["--config.train.steps=4" if "train.steps" in w else w for w in words]
        words = [w for w in words if not re.match(r"--config\.data\.(source|other)=npz:", w)]
        # Plans are for as many devices as they name.
        with contextlib.nullcontext() if "plan" in words else one_device():
            assert main(words) == 0, (line, capsys.readouterr().err)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target
