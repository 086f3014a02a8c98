"""Work directories of earlier versions load, sample and resume; see tests/old/README.md."""

import json
import lzma
import tarfile
from pathlib import Path

import numpy as np
import pytest

from gen_jax.launch.cli.main import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_device"),
    # Their twenty steps have the betas of a thousand.
    pytest.mark.filterwarnings("ignore:schedule"),
]

OLD = Path(__file__).parent.parent / "old"
CONFIGS = {"ddpm": "ddpm_digits", "vae": "vae_mnist", "prior": "prior_mnist"}


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    folder = tmp_path_factory.mktemp("old")
    for path in OLD.glob("*.tar.xz"):
        with lzma.open(path) as file, tarfile.open(fileobj=file) as archive:
            archive.extractall(folder, filter="data")
    return folder


def sampled(workdir, out):
    line = ["sample", "--workdir", str(workdir), "--num", "4", "--seed", "3", "--out", str(out)]
    assert main(line) == 0
    with np.load(out) as arrays:
        return arrays["images"].astype(int), str(arrays["digest"])


@pytest.mark.parametrize("name", ["ddpm", "vae", "vqvae", "prior"])
def test_they_sample_what_they_sampled(old, name, tmp_path):
    images, digest = sampled(old / name, tmp_path / "x.npz")
    with np.load(OLD / "samples.npz") as expected:
        assert digest == str(expected[f"{name}_2_digest"])
        np.testing.assert_allclose(images, expected[f"{name}_2"].astype(int), atol=1)


@pytest.mark.parametrize("name", ["ddpm", "vae", "prior"])
def test_they_go_on_as_they_would_have(old, name, tmp_path, capsys):
    """With the optimizer's moments, the data's order and the noise of each step."""
    work = tmp_path / name
    (old / name).rename(work)
    line = ["train", "--config", f"configs/{CONFIGS[name]}.py:tiny", "--workdir", str(work)]
    line += ["--config.train.keep=1", "--config.train.steps=4"]
    if name == "prior":  # its first stage has moved; its own copy is what counts
        line += ["--config.stage1=/moved"]
    assert main(line) == 0, capsys.readouterr().err
    assert "resuming at step 2" in capsys.readouterr().out
    images, _ = sampled(work, tmp_path / "x.npz")
    with np.load(OLD / "samples.npz") as expected:
        difference = np.abs(images - expected[f"{name}_4"].astype(int))
    # Steps are rounded otherwise on another processor; samples of tokens may then leap.
    assert np.mean(difference) < (8 if name == "prior" else 1)
    now = json.loads((work / "config.json").read_text())["model"]
    assert "binarise" not in now
    assert "centred" not in now
    work.rename(old / name)
