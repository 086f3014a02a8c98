"""gen-jax compare: a row for each kind of model, kept, and what is refused."""

import json

import pytest

from gen_jax.launch.cli.main import main

QUICK = ["--num=24", "--seeds=2", "--likelihood_num=16", "--batch_size=24"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A VAE, a GAN and a classifier of the same discs, of two steps."""
    folder = tmp_path_factory.mktemp("runs")
    for name, config in (("vae", "vae_mnist"), ("gan", "gan_mnist"), ("judge", "classifier_mnist")):
        line = ["train", f"--config=configs/{config}.py:tiny", f"--workdir={folder / name}"]
        more = ["data.source=synthetic:8x8x1", "data.shape=(8,8,1)", "train.steps=2",
                "train.sample_every=0", "optimizer.warmup_steps=0"]  # fmt: skip
        assert main([*line, *(f"--config.{x}" for x in more)]) == 0
    return folder


@pytest.mark.nightly  # a second; compiling all that is measured, half a minute
def test_rows_are_measured_once_and_say_what_there_is(runs, capsys):
    out = runs / "table.md"
    names = [str(runs / "vae"), str(runs / "gan")]
    line = ["compare", *names, f"--classifier={runs / 'judge'}", f"--table={out}", *QUICK]
    assert main(line) == 0
    vae, gan = json.loads(out.with_suffix(".json").read_text())
    assert (vae["likelihood"], gan["likelihood"]) == ("bound", "none")
    for name in ("frechet", "precision", "recall", "coverage", "class_kl", "samples_per_second"):
        for row in (vae, gan):
            assert row[name] >= 0
            assert row[f"{name}_spread"] is not None
    assert vae["round_trip"] > 0
    assert 0 <= vae["informativeness"] <= 1
    assert "round_trip" not in gan
    assert vae["gflop_per_sample"] > 0
    lines = out.read_text().splitlines()
    assert lines[0] == "| | vae | gan | training images |"
    assert all(line.count("|") == 5 for line in lines)
    assert (runs / "table_gan_samples.png").is_file()
    capsys.readouterr()
    assert main(line) == 0  # from what was kept
    assert "measuring" not in capsys.readouterr().out


@pytest.mark.nightly
def test_what_cannot_be_compared_is_said(runs, capsys):
    judge, vae = f"--classifier={runs / 'judge'}", str(runs / "vae")
    for arguments, words in (
        ([judge, "--table=x.md"], "names of work directories"),
        ([vae, judge, "--table=x.txt"], "ending in .md"),
        ([vae, f"--classifier={vae}", "--table=x.md"], "family 'vae'"),
    ):
        assert main(["compare", *arguments]) == 2
        assert words in capsys.readouterr().err
