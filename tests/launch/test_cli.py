"""The contract with users: what is printed, what is written, and the exit codes."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from gen_jax.launch.cli.main import main
from gen_jax.launch.runs.restore import load_trained
from gen_jax.launch.runs.workdir import checkpoint_steps
from gen_jax.launch.sampling import draw as sampling
from gen_jax.launch.sampling.draw import Draw, draw_samples
from gen_jax.pictures import grid
from tests.reliability.job import VAE, Job, logged, run, train_line, write_images

ROOT = Path(__file__).parent.parent.parent
pytestmark = [pytest.mark.tiered, pytest.mark.usefixtures("one_device_by_day")]
TINY = ["--config", str(ROOT / "configs" / "ddpm_digits.py:tiny")]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A class-conditional run, trained once."""
    folder = tmp_path_factory.mktemp("run") / "work"
    overrides = ["--config.model.num_classes=10", "--config.train.sample_every=2"]
    assert main(["train", *TINY, "--workdir", str(folder), *overrides]) == 0
    return folder


def sample(work, out, *arguments):
    return main(["sample", "--workdir", str(work), "--out", str(out), *arguments])


@pytest.mark.slow
class TestWorkdir:
    def test_layout(self, work):
        names = {str(p.relative_to(work)) for p in work.rglob("*")}
        assert {
            "config.json",
            "metrics.jsonl",
            "checkpoints/2",
            "images/0000002_samples.png",
        } <= names
        assert any(name.startswith("tensorboard/events") for name in names)
        assert not [name for name in names if "tmp" in name or "probe" in name]

    def test_metrics(self, work):
        lines = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2]
        assert {
            "diffusion/loss",
            "diffusion/grad_norm",
            "guard/skipped",
            "time/images_seen",
            "time/images_per_second",
        } <= lines[0].keys()

    def test_samples_do_not_depend_on_the_batch(self, work, tmp_path):
        results = []
        for size in ("8", "16"):
            out = tmp_path / f"{size}.npz"
            assert sample(work, out, "--num", "16", "--batch_size", size, "--steps", "4") == 0
            with np.load(out) as arrays:
                results.append(arrays["images"].astype(int))
        np.testing.assert_allclose(*results, atol=1)

    def test_labels_are_written_and_chosen(self, work, tmp_path):
        for flags, labels in (([], np.arange(12) % 10), (["--label", "7"], np.full(12, 7))):
            out = tmp_path / "x.npz"
            assert sample(work, out, "--num", "12", "--steps", "2", *flags) == 0
            with np.load(out) as arrays:
                np.testing.assert_array_equal(arrays["labels"], labels)

    def test_both_solvers_and_every_option(self, work, tmp_path):
        for flags in (
            ["--solver", "ddpm"],
            ["--solver=ddpm", "--variance=beta_tilde", "--steps=7"],
            ["--solver", "ddim", "--eta", "0.5", "--steps", "3", "--seed", "4294967295"],
        ):
            out = tmp_path / "x.png"
            assert sample(work, out, "--num", "2", *flags) == 0
            assert out.exists()

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--steps", "21"], "--steps: 21; a whole number from 1 to 20 is required"),
            (["--steps", "0"], "--steps: 0; a whole number"),
            (["--steps", "x"], "steps"),
            (["--eta", "1.5"], "--eta: 1.5; a number from 0 to 1 is required"),
            (
                ["--solver", "rk4"],
                "--solver: 'rk4'; one of ddim, ddpm, euler, euler_ancestral, heun, ",
            ),
            (["--variance", "small"], "--variance: 'small'; one of beta, beta_tilde"),
            (["--label", "10"], "--label: 10; a class from 0 to 9 is required"),
            (["--label", "-1"], "--label: -1; a class from 0 to 9"),
            (
                ["--solver", "ddpm", "--eta", "0.5"],
                "--eta: has a meaning only with --solver ddim or ",
            ),
            (["--variance", "beta"], "--variance: has a meaning only with --solver ddpm"),
            (["--setps", "3"], "did you mean 'steps'?"),
            (["--num", "0"], "num"),
            (["--seed", "-1"], "seed"),
            (["--seed", "4294967296"], "seed"),
        ],
    )
    def test_bad_flags_are_usage_errors(self, work, tmp_path, capsys, flags, message):
        assert sample(work, tmp_path / "x.png", *flags) == 2
        err = capsys.readouterr().err
        assert message in err
        assert "Traceback" not in err
        assert not list(tmp_path.iterdir())

    def test_evaluation(self, work, capsys):
        assert main(["evaluate", "--workdir", str(work), "--num", "16", "--steps", "2"]) == 0
        out = capsys.readouterr().out
        results = json.loads((work / "eval" / "2.json").read_text())
        for name in (
            "diffusion_loss_test",
            "diffusion_loss_train",
            "frechet_pixels_samples_to_test",
            "frechet_pixels_train_to_test",
        ):
            assert results[name] > 0
            assert name in out
        assert results["frechet_num"] == 16

    def test_pictures_of_a_run_share_one_compiled_sampler(self, work):
        trained = load_trained(work)
        sampling._compiled.cache_clear()
        for _ in range(3):
            draw = Draw(0, {"steps": 2, "eta": 0.5}, {"label": np.zeros(8, np.int32)})
            draw_samples(trained.experiment.model, trained.weights, draw, trained.mesh, 8)
        info = sampling._compiled.cache_info()
        assert (info.misses, info.hits) == (1, 2)

    def test_frozen_fields_are_refused_on_resume(self, work, capsys):
        before = sorted(work.rglob("*"))
        again = ["train", *TINY, "--workdir", str(work), "--config.model.num_classes=10"]
        assert main([*again, "--config.seed=5"]) == 4
        assert "seed: checkpoint 0, config 5" in capsys.readouterr().err
        assert sorted(work.rglob("*")) == before

    def test_changed_data_is_refused_on_resume(self, work, tmp_path, capsys, monkeypatch):
        import gen_jax.data

        original = gen_jax.data.open_source
        monkeypatch.setattr(
            gen_jax.data,
            "open_source",
            lambda *a, **o: original(*a, **o)._replace(fingerprint="other"),
        )
        again = ["train", *TINY, "--workdir", str(work), "--config.model.num_classes=10"]
        assert main([*again, "--config.train.sample_every=2", "--config.train.steps=4"]) == 3
        assert "not what the checkpoint was trained on: other" in capsys.readouterr().err


def fails(arguments, code, message, capsys):
    assert main(arguments) == code
    err = capsys.readouterr().err
    assert message in err
    assert err.startswith("gen_jax: ")
    assert len(err.strip().splitlines()) == 1


def test_usage(capsys):
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert capsys.readouterr().out.count("usage: gen-jax COMMAND") == 2
    for command in ("train", "sample", "evaluate"):
        assert main([command, "--help"]) == 0
        assert "--workdir" in capsys.readouterr().out


def test_errors_are_one_line_with_the_code_of_their_resource(tmp_path, capsys):
    work = str(tmp_path / "w")
    fails(
        ["fly"],
        2,
        "'fly' is no command; train, help-config, configs, launch, plan, sample, evaluate,",
        capsys,
    )
    fails(["train"], 2, "--config and --workdir: missing", capsys)
    fails(["train", *TINY, "--workdir", work, "--stpes", "3"], 2, "--stpes: not a flag", capsys)
    fails(["sample", "--workdir", work], 2, "--out: missing", capsys)
    fails(
        ["sample", "--workdir", work, "--out", "x.jpg"], 2, "a name ending in .png or .npz", capsys
    )
    fails(["sample", "--workdir", work, "--out", "x.png"], 4, "config.json: cannot be read", capsys)
    (tmp_path / "file.txt").write_text("")
    out = str(tmp_path / "file.txt" / "x.png")
    fails(["sample", "--workdir", work, "--out", out], 7, "x.png: cannot be written", capsys)
    fails(["evaluate", "--workdir", work], 4, "config.json: cannot be read", capsys)
    source = "--config.data.source=npz:/nowhere/x.npz"
    fails(["train", *TINY, "--workdir", work, source], 3, "/nowhere/x.npz: cannot be read", capsys)
    (tmp_path / "file").write_text("")
    in_file = str(tmp_path / "file" / "w")
    fails(["train", *TINY, "--workdir", in_file], 7, "cannot be written to", capsys)


def test_data_that_does_not_fit_is_a_data_error(tmp_path, capsys):
    np.savez(tmp_path / "x.npz", x_train=np.zeros((20, 8, 8), np.uint8))
    base = ["train", *TINY, "--workdir", str(tmp_path / "w")]
    source = f"--config.data.source=npz:{tmp_path / 'x.npz'}"
    fails([*base, source, "--config.model.num_classes=3"], 3, "no classes, but", capsys)
    fails([*base, source, "--config.data.batch_size=64"], 3, "64 is more than its 20", capsys)
    fails(
        [*base, "--config.model.num_classes=3"], 3, "10 classes, but model.num_classes is 3", capsys
    )


def test_unforeseen_errors_are_one_line_too(tmp_path, capsys, monkeypatch):
    from gen_jax.launch.config import files as configfile

    def broken(*_):
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(configfile, "load_config", broken)
    arguments = ["train", *TINY, "--workdir", str(tmp_path)]
    fails(arguments, 1, "unexpected RuntimeError: first line; --debug shows where", capsys)
    assert main([*arguments, "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_workdir_without_checkpoints_is_not_sampled(tmp_path, capsys):
    from gen_jax.launch.config.files import load_config, to_json

    (tmp_path / "config.json").write_text(to_json(load_config(TINY[1], [])))
    fails(["sample", "--workdir", str(tmp_path), "--out", "x.png"], 4, "no checkpoint yet", capsys)
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    fails(
        ["sample", "--workdir", str(tmp_path), "--out", "x.png"],
        4,
        "no usable checkpoint among 1: ",
        capsys,
    )
    # Never from scratch where something was.
    fails(["train", *TINY, "--workdir", str(tmp_path)], 4, "no usable checkpoint among 1: ", capsys)


@pytest.mark.slow
def test_a_second_job_is_told_who_holds_the_work_directory(tmp_path):
    line = train_line(VAE, tmp_path / "w", steps=10**6, save_every=10**6)
    with Job(line, tmp_path / "first.log") as first:
        first.says("step 3/")
        begin = time.monotonic()
        code, text = run(line, tmp_path / "second.log")
        assert code == 6, text
        assert f"in use by process {first.pid} on" in text
        assert time.monotonic() - begin < 10
        first.signal(signal.SIGINT)
        assert first.wait()[0] == 130
    assert checkpoint_steps(tmp_path / "w") == logged(tmp_path / "w")[-1:]
    assert not list((tmp_path / "w").rglob("*tmp*"))


@pytest.mark.slow
def test_ctrl_c_reaches_workers_too_and_still_saves(tmp_path):
    """A terminal signals the whole process group."""
    write_images(tmp_path / "images", 20)
    line = train_line(
        VAE,
        tmp_path / "w",
        f"--config.data.source=folder:{tmp_path / 'images'}",
        "--config.data.num_workers=2",
        "--config.data.holdout=0",
        steps=10**6,
        save_every=10**6,
    )
    with Job(line, tmp_path / "log", group=True) as job:
        job.says("step 4/")
        os.killpg(job.pid, signal.SIGINT)
        code, text = job.wait(60)
    assert code == 130, text
    assert checkpoint_steps(tmp_path / "w") == logged(tmp_path / "w")[-1:]
    assert "leaked" not in text  # neither semaphores nor shared memory are left for Python to find


def test_grids_have_borders_and_hard_edges():
    images = np.zeros((5, 8, 8, 1), np.uint8)
    images[0, 0, 0] = 255
    picture = grid(images)
    assert picture.shape == (2 * 34 + 2, 3 * 34 + 2, 1)
    assert (picture[:2] == 128).all()
    assert (picture[2:6, 2:6] == 255).all()
    assert (picture[6, 2:6] == 0).all()
    assert (picture[36:, 70:] == 128).all()  # the sixth cell is empty
    large = grid(np.zeros((2, 40, 40, 3), np.uint8), columns=1)
    assert large.shape == (2 * 42 + 2, 44, 3)
