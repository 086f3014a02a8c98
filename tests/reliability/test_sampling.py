"""F21: sampling while training goes on."""

import json
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from gen_jax.launch.cli import main
from gen_jax.launch.workdir import load_weights
from gen_jax.train.integrity import inspect_leaves
from tests.reliability.job import VAE, Job, digests, record, steps_of, train_line, tries

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("keep", [1, 3])
def test_what_is_read_beside_a_running_job_is_whole(keep, tmp_path):
    """It saves every second step, as fast as it can, and deletes what is older."""
    seconds, reads, steps = tries(8, 32), 0, set()
    line = train_line(VAE, tmp_path / "w", f"--config.train.keep={keep}", steps=10**6)
    with Job(line, tmp_path / "log") as job:
        job.until(lambda: len(steps_of(tmp_path / "w")) >= 1)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            saved = load_weights(tmp_path / "w")  # verified, or it raises
            assert all(leaf.finite for leaf in inspect_leaves(saved.params).values())
            reads += 1
            steps.add(saved.step)
        assert job.running()
    assert reads >= seconds / 2
    assert len(steps) > 1
    record("F21", keep=keep, seconds=seconds, reads=reads, failures=0, wrong=0)


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
