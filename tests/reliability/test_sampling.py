"""F21: sampling while training goes on."""

import json
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from gen_jax.launch.cli.main import main
from gen_jax.launch.runs.restore import load_weights
from gen_jax.launch.runs.workdir import checkpoint_steps
from gen_jax.train import checkpoint
from gen_jax.train.integrity import inspect_leaves
from tests.reliability.job import VAE, Job, digests, record, run, train_line
from tests.tiers import tries

pytestmark = pytest.mark.slow


EVERY = 10


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """The digests of the averaged weights at each tenth step, of a run that nobody looked at."""
    folder = tmp_path_factory.mktemp("known")
    steps = tries(600, 2000)
    line = train_line(VAE, folder / "w", "--config.train.keep=1000", steps=steps, save_every=EVERY)
    assert run(line, folder / "log")[0] == 0
    return {
        step: {n: x for n, x in digests(folder / "w", step).items() if n.startswith(".ema_params")}
        for step in checkpoint_steps(folder / "w")
    }


@pytest.mark.nightly
@pytest.mark.parametrize("keep", [1, 3])
def test_what_is_read_beside_a_running_job_is_whole(keep, known, tmp_path):
    """It saves as often as it can, and deletes what is older."""
    seconds, reads, compared, steps = 32, 0, 0, set()
    line = train_line(
        VAE, tmp_path / "w", f"--config.train.keep={keep}", steps=10**6, save_every=EVERY
    )
    with Job(line, tmp_path / "log") as job:
        job.until(lambda: len(checkpoint_steps(tmp_path / "w")) >= 1)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            saved = load_weights(tmp_path / "w")
            reads += 1
            steps.add(saved.step)
            if saved.step in known:
                found = inspect_leaves(saved.weights.params)
                expected = {n.removeprefix(".ema_params"): x for n, x in known[saved.step].items()}
                assert {name: leaf.digest for name, leaf in found.items()} == expected
                compared += 1
        assert job.running()
    assert reads >= seconds / 2
    assert len(steps) > 1
    assert compared
    counted = {"reads": reads, "compared_with_another_run": compared, "wrong": 0}
    record("F21", keep=keep, seconds=seconds, **counted)


@pytest.mark.parametrize("keep", [1, 2])
def test_a_step_that_is_slowly_deleted_is_not_called_damaged(keep, tmp_path, capsys, monkeypatch):
    """As a network's file system would: its files go one by one while it is being read."""
    line = train_line(VAE, tmp_path / "w", "--config.train.keep=5", steps=8)
    assert main(line) == 0
    folder = tmp_path / "w" / "checkpoints"
    for step in checkpoint_steps(tmp_path / "w")[: -keep - 1]:
        shutil.rmtree(folder / str(step))
    newest = checkpoint_steps(tmp_path / "w")[-1]
    hidden = tmp_path / str(newest)
    (folder / str(newest)).rename(hidden)  # it comes while the one before is read
    before = checkpoint_steps(tmp_path / "w")[-1]
    read = checkpoint.restore_weights
    looks = []

    def read_while_it_goes(directory, step, abstract, whole=False):
        if not looks:
            shutil.rmtree(folder / str(before) / "weights")
            hidden.rename(folder / str(newest))
        looks.append(step)
        return read(directory, step, abstract)

    monkeypatch.setattr(checkpoint, "restore_weights", read_while_it_goes)
    capsys.readouterr()
    assert load_weights(tmp_path / "w").step == newest
    assert looks == [before, newest]
    assert not capsys.readouterr().err


def test_samples_say_what_they_are_of(tmp_path, capsys):
    line = train_line(VAE, tmp_path / "w", steps=2)
    assert main(line) == 0
    sample = ["sample", f"--workdir={tmp_path / 'w'}", "--num=4"]
    assert main([*sample, f"--out={tmp_path / 'x.png'}"]) == 0
    assert main([*sample, f"--out={tmp_path / 'x.npz'}"]) == 0
    text = Image.open(tmp_path / "x.png").text["gen_jax"]
    with np.load(tmp_path / "x.npz") as arrays:
        assert int(arrays["step"]) == 2
        assert f"step 2, weights {arrays['digest']}, seed 0" in text
    assert json.loads((tmp_path / "w" / "config.json").read_text())["family"] == "vae"
    # Other weights, another digest.
    assert main([*line, "--config.train.steps=4"]) == 0
    assert digests(tmp_path / "w", 2) != digests(tmp_path / "w", 4)
    assert main([*sample, f"--out={tmp_path / 'y.png'}"]) == 0
    assert Image.open(tmp_path / "y.png").text["gen_jax"] != text
    shutil.rmtree(tmp_path / "w" / "checkpoints")
    capsys.readouterr()
    assert main([*sample, f"--out={tmp_path / 'z.png'}"]) == 4
    assert "no checkpoint yet" in capsys.readouterr().err
