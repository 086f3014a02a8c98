"""``gen-jax sample`` of diffusion models: what it is given, what it writes, how it goes on."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from gen_jax.launch.cli.main import main
from gen_jax.launch.commands import evaluate
from gen_jax.launch.sampling import shards as parts

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_device")]

SHAPE = (8, 8, 1)


def run(work, out, *flags):
    return main(["sample", "--workdir", str(work), "--out", str(out), *flags])


def images_of(path):
    with np.load(path) as arrays:
        return dict(arrays)


def train(work, config, *overrides):
    line = ["train", "--config", config, "--workdir", str(work)]
    assert main([*line, *(f"--config.{override}" for override in overrides)]) == 0
    return work


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    """A rectified flow with classes that may be left out, and noise of its own."""
    return train(
        tmp_path_factory.mktemp("flow") / "w",
        "configs/ddpm_digits.py:tiny",
        "diffusion.schedule=flow",
        "diffusion.prediction=velocity",
        "model.num_classes=10",
        "model.class_dropout=0.2",
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return train(tmp_path_factory.mktemp("plain") / "w", "configs/ddpm_digits.py:tiny")


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Images, a mask and a picture."""
    folder = tmp_path_factory.mktemp("given")
    images = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), np.uint8)
    np.savez(folder / "images.npz", images=images)
    mask = np.zeros((8, 8), bool)
    mask[:, :4] = True
    np.savez(folder / "mask.npz", mask=mask)
    Image.fromarray((mask * 255).astype(np.uint8)).save(folder / "mask.png")
    Image.fromarray(np.full((20, 30, 3), 200, np.uint8)).save(folder / "gray.jpg")
    np.savez(folder / "wrong.npz", images=images[:, :4])
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.mark.nightly
def test_the_new_solvers_and_strengths_are_flags(flow, tmp_path):
    out = tmp_path / "x.npz"
    for flags in (
        ["--solver", "heun", "--grid", "karras", "--churn", "2", "--churn_noise", "1.1"],
        ["--solver", "dpmpp_2m", "--grid", "quadratic", "--guidance", "3", "--guidance_to", "0.8"],
        ["--solver", "euler_ancestral", "--eta", "0.5", "--quantile", "0.9"],
    ):
        assert run(flow, out, "--num", "8", "--steps", "3", *flags) == 0
        assert images_of(out)["images"].shape == (8, *SHAPE)


def test_noise_is_written_and_makes_the_same_image_again(flow, tmp_path):
    out = tmp_path / "x.npz"
    assert run(flow, out, "--num", "10", "--steps", "4", "--with_noise") == 0
    first = images_of(out)
    assert first["noise"].shape == (10, *SHAPE)
    assert abs(first["noise"].std() - 1) < 0.1
    assert run(flow, tmp_path / "y.npz", "--num", "10", "--steps", "4") == 0
    again = images_of(tmp_path / "y.npz")["images"].astype(int)
    np.testing.assert_allclose(again, first["images"].astype(int), atol=1)


def test_reflow_trains_on_noise_and_image_pairs(flow, tmp_path, capsys):
    pairs = tmp_path / "pairs.npz"
    assert run(flow, pairs, "--num", "16", "--steps", "4", "--with_noise") == 0
    line = ["train", "--config", "configs/ddpm_digits.py:tiny", "--workdir", str(tmp_path / "w")]
    line += ["--config.diffusion.schedule=flow", "--config.diffusion.prediction=velocity"]
    line += ["--config.model.num_classes=10", "--config.model.class_dropout=0.2"]
    line += [f"--config.data.source=npz:{pairs}", f"--config.train.init_from={flow}"]
    assert main(line) == 0, capsys.readouterr().err
    assert "beginning with the averaged weights of step 2" in capsys.readouterr().out
    # The run remembers that its noise came with the data.
    assert run(tmp_path / "w", pairs, "--num", "2", "--steps", "2", "--solver", "ddpm") == 2
    assert "--solver: the noise of this model was paired with its data" in capsys.readouterr().err
    assert run(tmp_path / "w", tmp_path / "y.npz", "--num", "2", "--steps", "2") == 0
    vlb = ["--config.diffusion.schedule=linear", "--config.diffusion.prediction=eps"]
    vlb += ["--config.diffusion.objective=vlb", f"--workdir={tmp_path / 'v'}"]
    assert main([*line, *vlb, "--config.train.init_from="]) == 2
    assert "diffusion.objective: got 'vlb'; a bound supposes" in capsys.readouterr().err
    assert main([*line, "--config.data.flip=True"]) != 0
    other = [x for x in line if "workdir" not in x and str(tmp_path / "w") != x]
    other += ["--workdir", str(tmp_path / "other"), "--config.model.channels=16"]
    assert main(other) == 4
    assert "train.init_from: " in capsys.readouterr().err


def test_a_run_that_could_not_begin_today_is_still_looked_at(plain, tmp_path, capsys):
    work = tmp_path / "w"
    shutil.copytree(plain, work)
    config = json.loads((work / "config.json").read_text())
    config["diffusion"] |= {"pairing": True, "objective": "vlb"}
    (work / "config.json").write_text(json.dumps(config))
    assert run(work, tmp_path / "x.npz", "--num", "2", "--steps", "2") == 0
    assert "diffusion.objective: got 'vlb'; a bound supposes" in capsys.readouterr().err
    config["diffusion"] |= {"objective": "simple"}
    (work / "config.json").write_text(json.dumps(config))
    assert run(work, tmp_path / "x.npz", "--num", "2", "--steps", "2", "--solver", "ddpm") == 2


@pytest.mark.nightly
def test_a_film_is_a_gif_of_the_moments(plain, tmp_path):
    film = tmp_path / "film.gif"
    assert run(plain, tmp_path / "x.png", "--num", "4", "--steps", "5", "--trace", str(film)) == 0
    with Image.open(film) as picture:
        assert picture.n_frames == 6
        first = np.asarray(picture.convert("L"), int)
        picture.seek(5)
        assert np.abs(np.asarray(picture.convert("L"), int) - first).max() > 10


def test_interpolation_begins_and_ends_at_samples(flow, tmp_path):
    assert run(flow, tmp_path / "a.npz", "--num", "3", "--steps", "4", "--label", "1") == 0
    line = ["--num", "2", "--steps", "4", "--label", "1", "--interpolate", "5"]
    assert run(flow, tmp_path / "b.npz", *line) == 0
    ends, paths = (images_of(tmp_path / f"{name}.npz")["images"].astype(int) for name in "ab")
    assert paths.shape == (10, *SHAPE)
    for index, end in ((0, 0), (4, 1), (5, 1), (9, 2)):
        np.testing.assert_allclose(paths[index], ends[end], atol=1)


class TestImages:
    def test_a_mask_keeps_its_pixels(self, plain, given, tmp_path):
        for mask in ("mask.npz", "mask.png"):
            out = tmp_path / "x.npz"
            flags = ["--image", str(given / "images.npz"), "--mask", str(given / mask)]
            assert run(plain, out, "--num", "3", "--steps", "4", "--resamples", "2", *flags) == 0
            theirs = images_of(given / "images.npz")["images"]
            np.testing.assert_array_equal(images_of(out)["images"][:, :, :4], theirs[:, :, :4])

    def test_little_strength_changes_little(self, plain, given, tmp_path):
        changes = []
        for strength in ("0.05", "1.0"):
            out = tmp_path / "x.npz"
            flags = ["--image", str(given / "images.npz"), "--strength", strength, "--num", "3"]
            assert run(plain, out, "--steps", "4", *flags) == 0
            theirs = images_of(given / "images.npz")["images"].astype(int)
            changes.append(np.abs(images_of(out)["images"].astype(int) - theirs).mean())
        assert changes[0] < changes[1] / 2

    def test_a_picture_of_any_size_is_fitted_and_shown_beside_its_result(
        self, plain, given, tmp_path
    ):
        out = tmp_path / "x.png"
        flags = ["--image", str(given / "gray.jpg"), "--invert", "--num", "2", "--steps", "4"]
        assert run(plain, out, *flags) == 0
        with Image.open(out) as picture:
            assert picture.size == (2 + 2 * 34, 2 + 2 * 34)  # two rows, before and after

    @pytest.mark.nightly
    def test_between_images_through_their_noise(self, plain, given, tmp_path):
        out = tmp_path / "x.npz"
        flags = ["--image", str(given / "images.npz"), "--interpolate", "3", "--num", "2"]
        assert run(plain, out, "--steps", "10", *flags) == 0
        assert images_of(out)["images"].shape == (6, *SHAPE)

    @pytest.mark.parametrize(
        ("flags", "code", "message"),
        [
            (["--image", "images.npz"], 2, "--strength, --mask, --invert or --interpolate is"),
            (["--mask", "mask.png"], 2, "--mask: has a meaning only with --image"),
            (["--strength", "0.5"], 2, "--strength: has a meaning only with --image"),
            (["--strength", "0", "--image", "images.npz"], 2, "--strength: 0.0; a number above 0"),
            (["--resamples", "2"], 2, "--resamples: has a meaning only with --mask"),
            (["--image", "images.npz", "--mask", "mask.npz", "--jump", "5"], 2, "--jump: has a"),
            (["--image", "gray.jpg", "--interpolate", "3"], 2, "takes an npz with two or more"),
            (
                ["--image", "images.npz", "--mask", "mask.npz", "--solver", "dpmpp_2m"],
                2,
                "--mask: goes with solvers of one step",
            ),
            (
                ["--image", "images.npz", "--invert", "--strength", "0.5"],
                2,
                "--invert: goes neither",
            ),
            (["--with_noise", "--solver", "ddpm"], 2, "--with_noise: a deterministic solver"),
            (["--with_noise", "--eta", "0.5"], 2, "--with_noise: a deterministic solver"),
            (["--image", "gone.npz", "--invert"], 3, "gone.npz: cannot be read"),
            (["--image", "wrong.npz", "--invert"], 3, "uint8 images of 8x8x1 are required"),
            (["--image", "broken.png", "--invert"], 3, "broken.png: not a usable image"),
            (
                ["--image", "mask.npz", "--invert"],
                3,
                "no images or arr_0 or x_test or x_train; found mask",
            ),
            (["--image", "images.npz", "--mask", "images.npz"], 3, "no mask; found images"),
            (["--trace", "film.png"], 2, "--trace: 'film.png'; a name ending in .gif"),
            (["--context", "images.npz"], 2, "--context: this model is not told it"),
            (["--classifier_scale", "2"], 2, "has a meaning only with --classifier"),
            (["--guidance", "2"], 2, "guidance"),
            (["--image", "images.npz", "--invert", "--quantile", "0.9"], 2, "--quantile: does not"),
            (["--churn", "1"], 2, "--churn: has a meaning only with --solver heun or euler"),
            (["--churn_to", "1"], 2, "--churn_to: has a meaning only with --churn"),
            (["--guidance_to", "0.5"], 2, "--guidance_to: has a meaning only with --guidance"),
        ],
    )
    def test_what_makes_no_sense_is_refused(
        self, plain, given, tmp_path, capsys, monkeypatch, flags, code, message
    ):
        plain, out = plain.resolve(), tmp_path / "x.npz"
        monkeypatch.chdir(given)
        assert run(plain, out, "--num", "2", "--steps", "2", *flags) == code
        assert message in capsys.readouterr().err
        assert not out.exists()


class TestLongJobs:
    @pytest.fixture(autouse=True)
    def small_parts(self, monkeypatch):
        monkeypatch.setattr(parts, "PART", 16)

    def test_a_job_goes_on_where_it_was_stopped(self, plain, tmp_path, monkeypatch):
        whole, out = tmp_path / "whole.npz", tmp_path / "x.npz"
        line = ["--num", "40", "--steps", "2", "--batch_size", "8"]
        assert run(plain, whole, *line) == 0
        assert not parts.parts_of(whole).exists()

        import gen_jax.launch.sampling.command as module

        drawn, real = [], module.draw_some

        def stopping(*arguments):
            first = arguments[4]
            drawn.append(first)
            if first >= 32 and drawn.count(32) == 1:
                raise KeyboardInterrupt
            return real(*arguments)

        monkeypatch.setattr(module, "draw_some", stopping)
        assert run(plain, out, *line) == 130
        assert not out.exists()
        assert len(list(parts.parts_of(out).glob("*.npz"))) == 2
        # Another batch size is another number of devices as far as the samples are concerned.
        assert run(plain, out, *line[:-1], "16") == 0
        assert drawn == [0, 16, 32, 32]
        a, b = (images_of(path)["images"].astype(int) for path in (whole, out))
        np.testing.assert_allclose(a, b, atol=1)
        assert not parts.parts_of(out).exists()

    def test_a_part_that_is_not_whole_is_drawn_again(self, plain, tmp_path):
        out = tmp_path / "x.npz"
        line = ["--num", "32", "--steps", "2"]
        assert run(plain, out, *line) == 0
        first = images_of(out)["images"]
        # What a killed job would have left.
        folder = parts.parts_of(out)
        origin = {}
        real = parts.clear
        try:
            parts.clear = lambda out: None
            import gen_jax.launch.sampling.command as module

            module.parts.clear = parts.clear
            assert run(plain, out, *line) == 0
        finally:
            parts.clear = real
        (folder / "00001.npz").write_bytes((folder / "00001.npz").read_bytes()[:-50])
        origin = json.loads((folder / "origin.json").read_text())
        assert origin["num"] == 32
        assert run(plain, out, *line) == 0
        np.testing.assert_array_equal(images_of(out)["images"], first)

    def test_parts_of_other_samples_are_not_taken(self, plain, tmp_path, capsys):
        out = tmp_path / "x.npz"
        folder = parts.parts_of(out)
        folder.mkdir()
        (folder / "origin.json").write_text('{"seed": 1}')
        assert run(plain, out, "--num", "32", "--steps", "2") == 7
        assert "holds parts of other samples (another " in capsys.readouterr().err
        (folder / "origin.json").unlink()  # what a job killed while clearing up leaves
        np.savez(folder / "00000.npz", images=np.zeros((16, *SHAPE), np.uint8))
        assert run(plain, out, "--num", "32", "--steps", "2") == 0
        assert images_of(out)["images"][:16].any()


@pytest.mark.nightly
class TestClassifier:
    @pytest.fixture(scope="class")
    def judge(self, tmp_path_factory):
        """A classifier of the digits' noise."""
        return train(
            tmp_path_factory.mktemp("judge") / "w",
            "configs/classifier_mnist.py:tiny",
            "data.source=digits",
            "data.shape=(8,8,1)",
            "diffusion.num_steps=20",
        )

    def test_it_guides_and_judges(self, judge, plain, flow, tmp_path, capsys):
        out = tmp_path / "x.npz"
        flags = ["--num", "8", "--steps", "2", "--classifier", str(judge)]
        assert run(plain, out, *flags) == 0  # all classes in turn
        assert images_of(out)["labels"].tolist() == list(range(8))
        assert run(plain, out, *flags, "--label", "3", "--classifier_scale", "2.5") == 0
        # Its scale need not be said for it to guide, and to lead elsewhere than back.
        assert run(plain, out, *flags, "--guidance_from", "0.2", "--label", "3") == 0
        images = tmp_path / "images.npz"
        np.savez(images, images=np.zeros((3, *SHAPE), np.uint8))
        back = ["--label", "1", "--image", str(images), "--interpolate", "3"]
        assert run(plain, out, *flags, *back) == 2
        assert "would lead elsewhere than back to the image" in capsys.readouterr().err
        assert run(flow, out, *flags, "--label", "3") == 2
        assert "was trained on another noise (schedule)" in capsys.readouterr().err
        assert run(plain, out, "--num", "2", "--classifier", str(plain), "--label", "1") == 2
        assert "family 'diffusion'; 'classifier' is required" in capsys.readouterr().err
        line = ["evaluate", "--workdir", str(flow), "--num", "16", "--steps", "2"]
        assert main([*line, "--classifier", str(judge)]) == 0
        found = json.loads((flow / "eval" / "2.json").read_text())
        assert 0 <= found["class_accuracy_samples"] <= 1
        assert found["frechet_features_samples_to_test"] >= 0
        for name in ("precision", "recall", "coverage"):
            assert 0 <= found[f"{name}_features_samples"] <= 1
        with Image.open(flow / "eval" / "2.nearest.png") as picture:
            assert picture.size[0] > 16 * 32
        assert main([*line, "--features", "inception"]) == 2

    @pytest.mark.nightly
    def test_a_guided_job_goes_on(self, judge, plain, tmp_path, monkeypatch):
        monkeypatch.setattr(parts, "PART", 8)
        monkeypatch.setattr(parts, "clear", lambda out: None)
        out = tmp_path / "x.npz"
        line = ["--num", "16", "--steps", "2", "--classifier", str(judge), "--label", "3"]
        for _ in range(2):
            assert run(plain, out, *line) == 0
        assert run(plain, out, *line, "--classifier_scale", "2") == 7

    @pytest.mark.nightly
    def test_classes_must_be_the_same(self, judge, tmp_path, capsys):
        line = ("configs/ddpm_digits.py:tiny", "model.num_classes=11", "diffusion.num_steps=20")
        model = train(tmp_path / "w", *line)
        flags = ["--num", "2", "--steps", "2", "--classifier", str(judge)]
        assert run(model, tmp_path / "x.npz", *flags) == 2
        assert "--classifier: knows 10 classes; the model's 11" in capsys.readouterr().err

    def test_it_is_evaluated_by_its_accuracy(self, judge):
        assert main(["evaluate", "--workdir", str(judge)]) == 0
        found = json.loads((judge / "eval" / "2.json").read_text())
        assert 0 <= found["accuracy_test"] <= 1
        assert found["classify_loss_test"] > 0


def test_what_memory_will_not_do_for_is_refused_before_sampling(
    plain, tmp_path, capsys, monkeypatch
):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    50 kB\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    free = evaluate._free_memory
    assert free(tmp_path) == 50 * 1024
    for name, value in (("max", "30000"), ("current", "10000")):
        (tmp_path / "sys/fs/cgroup" / f"memory.{name}").write_text(value)
    assert free(tmp_path) == 20_000
    assert free(tmp_path / "nowhere") is None
    monkeypatch.setattr(evaluate, "_free_memory", lambda: free(tmp_path))
    assert main(["evaluate", "--workdir", str(plain), "--num", "1000"]) == 2
    assert "--num: got 1000; the Fréchet distance takes 0.0 GiB" in capsys.readouterr().err


class TestLikelihood:
    @pytest.mark.nightly
    def test_the_bound_is_a_table_of_terms(self, plain, capsys):
        line = ["evaluate", "--workdir", str(plain), "--num", "8", "--steps", "2"]
        assert main(line) == 0
        assert "no likelihood: it takes 20 network runs an image" in capsys.readouterr().out
        assert main([*line, "--likelihood_num", "8"]) == 0
        found = json.loads((plain / "eval" / "2.json").read_text())
        parts_of_it = [found[f"bits_per_dim_test_{n}"] for n in ("prior", "between", "last")]
        assert sum(parts_of_it) == pytest.approx(found["bits_per_dim_test"], rel=1e-4)
        terms = json.loads((plain / "eval" / "2_test_bound.json").read_text())
        assert len(terms["steps_bits_per_dim"]) == 20

    @pytest.mark.nightly
    def test_the_flow_s_density_has_both_errors(self, plain):
        line = ["evaluate", "--workdir", str(plain), "--num", "8", "--steps", "2"]
        line += ["--likelihood_num", "4", "--likelihood", "flow", "--probes", "2"]
        assert main([*line, "--tolerance", "0.05"]) == 0
        found = json.loads((plain / "eval" / "2.json").read_text())
        assert found["nats_test_estimator_stderr"] > 0
        assert found["bits_per_dim_test_stderr"] > 0


@pytest.mark.nightly
def test_a_smaller_image_is_made_larger(tmp_path, given, capsys):
    work = train(
        tmp_path / "w",
        "configs/ddpm_digits.py:tiny",
        "model.low_res_factor=2",
        "train.sample_every=2",
    )
    out = tmp_path / "x.npz"
    assert run(work, out, "--num", "2", "--steps", "2") == 2
    assert "--low_res: is required by this model: image to make larger" in capsys.readouterr().err
    small = np.zeros((2, 4, 4, 1), np.uint8)
    np.savez(tmp_path / "small.npz", images=small)
    assert run(work, out, "--num", "2", "--steps", "2", "--image", str(tmp_path / "small.npz")) == 0
    assert images_of(out)["images"].shape == (2, *SHAPE)


@pytest.mark.nightly
def test_a_sequence_comes_with_the_data(tmp_path, capsys):
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (32, 8, 8), np.uint8),
        "context_train": rng.standard_normal((32, 3, 6)).astype(np.float32),
    }
    np.savez(tmp_path / "x.npz", **arrays)
    options = (
        f"data.source=npz:{tmp_path / 'x.npz'}",
        "model.context_dim=6",
        "train.sample_every=2",
    )
    work = train(tmp_path / "w", "configs/ddpm_digits.py:tiny", *options)
    np.savez(tmp_path / "c.npz", context=arrays["context_train"][:2])
    flags = ["--num", "2", "--steps", "2", "--context", str(tmp_path / "c.npz")]
    assert run(work, tmp_path / "y.npz", *flags) == 0
    # Guidance leads away from nothing, or from what the file says nothing is.
    made = []
    for changes in ({}, {"no_context": np.full((3, 6), 9.0, np.float32)}):
        np.savez(tmp_path / "c.npz", context=arrays["context_train"][:2], **changes)
        assert run(work, tmp_path / "y.npz", *flags, "--guidance", "3") == 0
        made.append(images_of(tmp_path / "y.npz")["images"])
    assert made[0].shape == made[1].shape == (2, *SHAPE)
    np.savez(tmp_path / "c.npz", context=arrays["context_train"][:2], no_context=np.zeros((2, 6)))
    assert run(work, tmp_path / "y.npz", *flags, "--guidance", "3") == 3
    assert (
        "no_context: got [2, 6]; one sequence as long as those of context"
        in capsys.readouterr().err
    )
    line = ["train", "--config", "configs/ddpm_digits.py:tiny", "--workdir", str(tmp_path / "v")]
    assert main([*line, "--config.model.context_dim=6"]) == 3
    assert "no context, but this model is told [L, 6]" in capsys.readouterr().err


def test_a_picture_with_a_hole_comes_with_the_data_and_is_filled(tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (32, *SHAPE), np.uint8)
    mask = np.ones((32, 8, 8), np.uint8)
    mask[:, 2:5] = 0
    data = tmp_path / "x.npz"
    np.savez(data, x_train=images, masked_train=images, mask_train=mask)
    config = "configs/ddpm_digits.py:tiny"
    options = (f"data.source=npz:{data}", "model.beside=masked", "train.sample_every=2")
    work = train(tmp_path / "w", config, *options)
    np.savez(tmp_path / "q.npz", images=images[:2], mask=mask[:2])
    given = ["--masked", str(tmp_path / "q.npz"), "--mask", str(tmp_path / "q.npz")]
    flags = ["--num", "2", "--steps", "2"]
    assert run(work, tmp_path / "y.npz", *flags, *given) == 0
    made = images_of(tmp_path / "y.npz")["images"]
    np.testing.assert_array_equal(made[:, 5:], images[:2, 5:])
    assert run(work, tmp_path / "z.npz", *flags, *given[:2]) == 2
    assert "--mask: is required by this model" in capsys.readouterr().err
    np.savez(data, x_train=images, masked_train=images[:, :4], mask_train=mask)
    line = ["train", "--config", config, "--workdir", str(tmp_path / "v")]
    line += [f"--config.{option}" for option in options]
    assert main(line) == 3
    assert "masked_train: got uint8 [32, 4, 8, 1]; uint8 [32, 8, 8, 1]" in capsys.readouterr().err
    np.savez(data, x_train=images, masked_train=images, mask_train=mask)
    assert main([*line, "--config.data.flip=True"]) == 0  # all three move alike


def test_several_processes_would_write_the_same_file(plain, tmp_path, capsys, monkeypatch):
    place = {"COORDINATOR_ADDRESS": "host:1", "NUM_PROCESSES": "2", "PROCESS_ID": "1"}
    for name, value in place.items():
        monkeypatch.setenv(f"JAX_{name}", value)
    assert run(plain, tmp_path / "x.npz", "--num", "2") == 2
    assert "sample: runs as one process, and here are 2 (environment)" in capsys.readouterr().err


def test_help_of_a_work_directory_lists_its_sampler_s_flags(plain, capsys):
    assert main(["sample", "--help"]) == 0
    out = capsys.readouterr().out
    assert "with --workdir W also the flags" in out
    assert "--solver" not in out
    assert main(["sample", "--workdir", str(plain), "--help"]) == 0
    out = capsys.readouterr().out
    assert "--solver" in out
    assert "with_noise" in out
    assert main(["evaluate", "--help", "--workdir", str(plain)]) == 0
    out = capsys.readouterr().out
    assert "--likelihood_variance" in out
    assert "--strength" not in out
