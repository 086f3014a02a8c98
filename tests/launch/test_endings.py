"""What ends a job, and what must not: signals, readers that leave, places on other machines."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gen_jax.errors import ConfigError
from gen_jax.launch.cli.main import main
from gen_jax.launch.cli.streams import _Unheard
from gen_jax.launch.config.files import load_config
from gen_jax.launch.jobs.processes import STOP_SIGNALS, stop_signals
from gen_jax.launch.runs.workdir import checkpoint_steps

ROOT = Path(__file__).parent.parent.parent
PROGRAM = [sys.executable, "-m", "gen_jax"]


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: number.name)
def test_every_signal_that_asks_for_an_end_is_collected(number, capfd):
    before = signal.signal(number, signal.SIG_DFL)  # whatever this suite runs under
    try:
        with stop_signals() as (received, stop):
            assert not stop(0)
            os.kill(os.getpid(), number)
            assert received == [number]
            assert stop(1)
    finally:
        signal.signal(number, before)
    assert f"{number.name}: saving, then ending" in capfd.readouterr().out


def test_what_is_ignored_stays_ignored():
    """Under nohup a terminal that closes ends nothing."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals() as (received, _):
            os.kill(os.getpid(), signal.SIGHUP)
        assert received == []
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_thread_trains_without_signals():
    found = []

    def run():
        with stop_signals() as (received, stop):
            found.append((received, stop(0)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [([], False)]


@pytest.mark.slow
def test_training_goes_on_when_nobody_reads(tmp_path):
    """Behind ``| head -1``, with an encoding that cannot show the path, and with stderr closed."""
    work = tmp_path / "w\u00e4rme"
    line = f"{sys.executable} -m gen_jax train --config ddpm_digits:tiny --workdir '{work}' 2>&-"
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUNBUFFERED": "1"}
    made = subprocess.run(
        ["bash", "-c", f"{line} | head -1; exit ${{PIPESTATUS[0]}}"],
        cwd=ROOT, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0
    assert len(made.stdout.splitlines()) == 1
    assert checkpoint_steps(work) == [2]


def test_a_stream_that_fails_is_unheard():
    read, write = os.pipe()
    stream = _Unheard(os.fdopen(write, "w", encoding="ascii", closefd=False))
    print("w\u00e4rme", file=stream)
    assert os.read(read, 100) == b"w\\xe4rme\n"
    os.close(read)
    print("nobody", file=stream, flush=True)
    os.close(write)
    print("nothing", file=stream, flush=True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["train", "--config=ddpm_digits", "--workdir=gs://b/w"], "--workdir: got 'gs://b/w'"),
        (["sample", "--workdir=w", "--out=s3://b/x.png"], "--out: got 's3://b/x.png'; a local"),
        (["import", "--from=hf://x/y", "--workdir=w"], "--from: got 'hf://x/y'; a local path"),
        (["export", "--workdir=w", "--to=gs://x/y"], "--to: got 'gs://x/y'; a local path"),
        (["evaluate", "--workdir=w", "--data=npz:gs://x"], "--workdir"),
    ],
)
def test_places_elsewhere_are_one_line(line, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(line) in (2, 4)
    assert message in capsys.readouterr().err or message == "--workdir"
    assert not any(tmp_path.iterdir())  # and no folder called gs:


def test_configs_name_places_here(monkeypatch, tmp_path):
    for override in ("stage1=gs://b/w", "data.source=npz:s3://b/x.npz"):
        with pytest.raises(ConfigError, match="a local path is required"):
            load_config("latent_mnist", [override])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_config("latent_mnist", ["stage1=~/w"])["stage1"] == f"{tmp_path}/w"


def test_adm_is_a_preset():
    plain, adm = (load_config(f"ddpm_cifar10{variant}", []) for variant in ("", ":adm"))
    differs = {name for name in plain["model"] if plain["model"][name] != adm["model"][name]}
    assert differs == {
        *("adaptive", "resample", "head_dim", "epsilon", "cos_first", "frequency_shift"),
        "time_offset",
    }
    assert {name: x for name, x in plain.items() if name != "model"} == {
        name: x for name, x in adm.items() if name != "model"
    }


def test_shipped_configs_go_by_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert load_config("ddpm_digits:tiny", []) == load_config(
        str(ROOT / "configs" / "ddpm_digits.py:tiny"), []
    )
    with pytest.raises(ConfigError, match="got 'ddpm_digit'; FILE.py, or one of these is required"):
        load_config("ddpm_digit", [])
    with pytest.raises(ConfigError, match="no such file; --config ddpm_digits comes with gen_jax"):
        load_config("configs/ddpm_digits.py", [])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cuda", "what"])
def test_a_platform_that_is_not_there_is_a_usage_error(name, tmp_path):
    made = subprocess.run(
        [*PROGRAM, "train", "--config", "ddpm_digits:tiny", "--workdir", str(tmp_path / "w")],
        env={**os.environ, "JAX_PLATFORMS": name}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 2, made.stderr
    assert f"JAX_PLATFORMS: got '{name}'; JAX finds no such devices here" in made.stderr
    assert "Traceback" not in made.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_classes_have_names_and_data_may_change(tmp_path, capsys):
    images, work = tmp_path / "images", tmp_path / "w"
    for index in range(30):
        folder = images / ("a", "b", "c")[index % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 8 * index).save(folder / f"{index:02d}.png")
    line = ["train", "--config", "vae_mnist:tiny", f"--workdir={work}", "--config.data.holdout=0"]
    line += [f"--config.data.source=folder:{images}", "--config.model.num_classes=3"]
    assert main(line) == 0
    assert "classes: 0 a, 1 b, 2 c" in capsys.readouterr().out
    sample = ["sample", f"--workdir={work}", "--num=2", f"--out={tmp_path / 'x.npz'}"]
    assert main([*sample, "--label=b"]) == 0
    with np.load(tmp_path / "x.npz") as made:
        assert made["labels"].tolist() == [1, 1]
    assert main([*sample, "--label=d"]) == 2
    assert "--label: got 'd'; a number, or one of a, b, c is required" in capsys.readouterr().err

    Image.new("L", (9, 8), 3).save(images / "a" / "00.png")  # repaired
    assert main([*line, "--config.train.steps=4"]) == 0
    assert "some pictures have other sizes than before; going on" in capsys.readouterr().out
    Image.new("L", (8, 8), 3).save(images / "a" / "99.png")
    more = [*line, "--config.train.steps=6"]
    assert main(more) == 3
    told = capsys.readouterr().err
    assert "--allow_data_change goes on with it" in told
    assert "train.init_from begins a new run" in told
    assert main([*more, "--allow_data_change"]) == 0
    assert "data changed: checkpoint 27-" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_little_data_bears_one_bad_picture_and_unknown_classes_are_named(tmp_path, capsys):
    images = tmp_path / "images"
    for index in range(40):
        folder = images / ("a", "b")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 6 * index).save(folder / f"{index:02d}.png")
    bad = images / "a" / "04.png"
    bad.write_bytes(bad.read_bytes()[:40])
    line = ["train", "--config", "vae_mnist:tiny", f"--workdir={tmp_path / 'w'}"]
    line += ["--config.data.holdout=0", f"--config.data.source=folder:{images}"]
    line += ["--config.model.num_classes=20", "--config.data.on_bad=skip"]
    assert main([*line, "--config.train.steps=12"]) == 0
    told = capsys.readouterr().err
    assert "2 classes, but model.num_classes is 20: nothing is known of classes 2 to 19" in told
    assert "04.png: not a usable image" in told
    assert "replaced by the next" in told
    none = [f"--workdir={tmp_path / 'v'}", "--config.data.max_bad_fraction=0"]
    assert main([*line, *none, "--config.train.steps=12"]) == 3
