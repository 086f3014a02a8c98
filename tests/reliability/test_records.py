"""F14 to F16, F27: records, workers and datasets that are not what they should be."""

import json
import os
import re
import shutil
import sys
import time

import numpy as np
import pytest
from PIL import Image

from gen_jax.data import open_source, train_batches
from gen_jax.errors import DataError
from tests.reliability.job import VAE, Job, children, run, train_line, write_images
from tests.reliability.test_images import encoded


def write_folder(root, spoil=None, count=24):
    write_images(root, count, classes="abc")
    if spoil:
        spoil(root / "a" / "06.png")


def save_npz(path, **changes):
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (24, 8, 8), np.uint8),
        "y_train": rng.integers(0, 3, 24),
    }
    np.savez(path, **{**arrays, **changes})


def with_label(value):
    labels = np.arange(24) % 3
    labels[5] = value
    return labels


BAD_NPZ = {
    "float images": (
        {"x_train": np.zeros((24, 8, 8), np.float32)},
        "x_train: got float32 .*; uint8",
    ),
    "no image axis": (
        {"x_train": np.zeros((24, 64), np.uint8)},
        r"x_train: got uint8 \[24, 64\]; uint8",
    ),
    "another shape": (
        {"x_train": np.zeros((24, 9, 9), np.uint8)},
        "9x9x1, but data.shape is 8x8x1",
    ),
    "too few labels": ({"y_train": np.zeros(23, int)}, "y_train: got .*; 24 whole numbers"),
    "labels that are no numbers": (
        {"y_train": np.array(["a"] * 24)},
        "y_train: got .*; 24 whole numbers",
    ),
    "a negative label": ({"y_train": with_label(-2)}, "y_train: index 5: label -2"),
    "a label beyond": ({"y_train": with_label(7)}, "num_classes is 3: index 5: label 7"),
}

CLASSES = "--config.model.num_classes=3"


@pytest.mark.parametrize("name", BAD_NPZ)
def test_a_bad_array_is_named(name, tmp_path, capsys):
    from gen_jax.launch.cli.main import main

    changes, words = BAD_NPZ[name]
    save_npz(tmp_path / "x.npz", **changes)
    line = train_line(
        VAE, tmp_path / "w", f"--config.data.source=npz:{tmp_path / 'x.npz'}", CLASSES
    )
    assert main([*line, "--config.data.holdout=0"]) == 3
    err = capsys.readouterr().err
    assert re.search(words, err), err
    assert err.startswith("gen_jax: data: npz:")


SPOILT_FILES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "no image": lambda path: path.write_bytes(b"text"),
    "gone": lambda path: path.chmod(0) if os.getuid() else path.write_bytes(b""),
    "16 bits": lambda path: path.write_bytes(encoded("I;16")),
}


@pytest.mark.parametrize(
    ("name", "workers"), [*((name, 0) for name in SPOILT_FILES), ("truncated", 2)]
)
def test_a_bad_file_is_named_or_replaced(name, workers, tmp_path, capsys):
    write_folder(tmp_path / "images", SPOILT_FILES[name])
    source = open_source(f"folder:{tmp_path / 'images'}", "train", (8, 8, 1))
    options = {"seed": 0, "batch_size": 8, "num_workers": workers}
    with pytest.raises(Exception, match=r"a/06\.png: not a usable image"):
        for _, _ in zip(range(4), train_batches(source, **options), strict=False):
            pass
    replaced = train_batches(source, max_bad_fraction=0.1, **options)
    batches = [next(replaced) for _ in range(6)]
    assert all(set(batch) == {"image", "label"} for batch in batches)
    assert "a/06.png: not a usable image" in capsys.readouterr().err
    # The next one stands for it, in this run and in any other.
    again = train_batches(source, max_bad_fraction=0.1, **options)
    for batch in batches:
        np.testing.assert_array_equal(batch["image"], next(again)["image"])
    with pytest.raises(DataError, match=r"a/06\.png.*1 bad examples of 22 are more than"):
        for _, _ in zip(
            range(4), train_batches(source, max_bad_fraction=0.01, **options), strict=False
        ):
            pass


@pytest.mark.slow
class TestWorkers:
    """F15: through the command line, with what becomes of the run."""

    def line(self, tmp_path, *overrides, workers=2):
        if not (tmp_path / "images").exists():
            write_folder(tmp_path / "images", count=40)
        return train_line(
            VAE,
            tmp_path / "w",
            f"--config.data.source=folder:{tmp_path / 'images'}",
            f"--config.data.num_workers={workers}",
            "--config.data.holdout=0",
            *overrides,
            steps=100_000,
            save_every=100_000,
        )

    def faulty(self, tmp_path, fault, *overrides, workers=2):
        name = next(iter(fault))
        arguments = [json.dumps(fault), *self.line(tmp_path, *overrides, workers=workers)]
        begin = time.monotonic()
        code, text = run(arguments, tmp_path / f"{name}.log", module="tests.reliability.faulty")
        return code, text, time.monotonic() - begin

    @pytest.mark.parametrize("workers", [2, pytest.param(0, marks=pytest.mark.nightly)])
    def test_one_that_raises_ends_the_run(self, tmp_path, workers):
        code, text, _ = self.faulty(tmp_path, {"raise": "a/06.png"}, workers=workers)
        assert code == 3, text
        error = text.strip().splitlines()[-1]
        assert error.startswith("gen_jax: data: ")
        assert "as no reader should" in error

    def test_a_bad_file_is_one_line_and_costs_no_step(self, tmp_path):
        write_folder(tmp_path / "images", SPOILT_FILES["no image"], count=40)
        code, text = run(self.line(tmp_path), tmp_path / "log")
        assert code == 3, text
        error = text.strip().splitlines()[-1]
        assert re.match(r"gen_jax: data: .*a/06\.png: not a usable image", error), text

    @pytest.mark.parametrize("workers", [2, pytest.param(0, marks=pytest.mark.nightly)])
    def test_one_that_hangs_ends_the_run_in_time(self, tmp_path, workers):
        timeout = "--config.data.timeout_s=6"
        code, text, took = self.faulty(tmp_path, {"hang": "a/06.png"}, timeout, workers=workers)
        assert code == 8, text
        error = text.strip().splitlines()[-1]
        assert "no batch within 6 s (data.timeout_s); where every thread stood" in error
        (stacks,) = (tmp_path / "w").glob("stacks-*.txt")
        assert "Thread" in stacks.read_text()
        # And where the worker stood, which its own process must tell.
        assert not workers or "in spoilt" in text
        assert took < 6 + 30
        # The steps before it are kept.
        assert "compiled" not in text or list((tmp_path / "w" / "checkpoints").glob("[0-9]*"))

    def test_one_that_is_killed_ends_the_run(self, tmp_path):
        with Job(self.line(tmp_path), tmp_path / "log") as job:
            job.says("step 5/")
            workers = [pid for pid in children(job.pid) if is_grain_worker(pid)]
            assert workers
            os.kill(workers[0], 9)
            code, text = job.wait(60)
        assert code == 3, text
        assert "exit code -9" in text.strip().splitlines()[-1] or "terminated" in text
        assert list((tmp_path / "w" / "checkpoints").glob("[0-9]*"))

    def test_a_bad_file_among_the_pictures_is_skipped_too(self, tmp_path):
        """The VAE looks at reconstructions of fixed examples, of which one is bad."""
        write_folder(tmp_path / "images", SPOILT_FILES["no image"], count=40)
        skip = ("--config.data.on_bad=skip", "--config.data.max_bad_fraction=0.1")
        more = ("--config.train.steps=4", "--config.train.sample_every=4")
        code, text = run([*self.line(tmp_path), *skip, *more], tmp_path / "log")
        assert code == 0, text
        assert text.count("replaced by the next") == 1
        assert (tmp_path / "w" / "images" / "0000004_reconstructions.png").exists()

    def test_a_first_example_that_hangs_ends_it_too(self, tmp_path):
        hang, timeout = {"hang": ".png"}, "--config.data.timeout_s=4"  # whichever comes first
        code, text, took = self.faulty(tmp_path, hang, timeout, workers=0)
        assert code == 8, text
        assert "no batch within 4 s" in text.strip().splitlines()[-1]
        assert list((tmp_path / "w").glob("stacks-*.txt"))
        assert took < 4 + 30

    def test_a_signal_is_heard_while_waiting_for_data(self, tmp_path):
        arguments = [json.dumps({"hang": "a/06.png"}), *self.line(tmp_path, workers=0)]
        with Job(arguments, tmp_path / "log", module="tests.reliability.faulty") as job:
            job.says("compiled")
            time.sleep(3)
            begin = time.monotonic()
            job.signal(15)
            code, text = job.wait(60)
        assert code == 143, text
        assert time.monotonic() - begin < 10


def is_grain_worker(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        line = file.read()
    return b"spawn_main" in line


@pytest.mark.slow
class TestTFDS:
    @pytest.fixture(scope="class")
    def prepared(self, tmp_path_factory):
        import tensorflow_datasets as tfds

        class Squares(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                features = {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=3),
                }
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, manager):
                return {"train": self._generate_examples()}

            def _generate_examples(self):
                for i in range(30):
                    yield i, {"image": Image.new("L", (8, 8), i), "label": i % 3}

        root = tmp_path_factory.mktemp("tfds")
        Squares(data_dir=root, file_format="array_record").download_and_prepare()
        return root

    def open(self, root):
        return open_source("tfds:squares", "train", (8, 8, 1), str(root))

    def copy(self, prepared, tmp_path):
        shutil.copytree(prepared, tmp_path / "data", dirs_exist_ok=True)
        return tmp_path / "data"

    def test_it_is_read(self, prepared):
        assert self.open(prepared).size == 30
        with pytest.raises(DataError, match="found train; data.holdout keeps some of it from"):
            open_source("tfds:squares", "test", (8, 8, 1), str(prepared))

    def test_a_description_that_names_a_module_is_refused(self, prepared, tmp_path):
        root = self.copy(prepared, tmp_path)
        (path,) = root.rglob("features.json")
        original = path.read_text()
        for evil in ("this.Class", "os.path.Class", "tensorflow_datasets.core.features.x.y.Z"):
            changed = original.replace(
                "tensorflow_datasets.core.features.image_feature.Image", evil
            )
            assert changed != original
            path.write_text(changed)
            sys.modules.pop("this", None)
            with pytest.raises(DataError, match="is none of TFDS's own features"):
                self.open(root)
            assert "this" not in sys.modules
        # Nor by another spelling of the name, or behind a link.
        path.write_text(original.replace("tensorflow_datasets.core.features.image_f", "this.f"))
        with pytest.raises(DataError, match="a name in lower case is required"):
            open_source("tfds:Squares", "train", (8, 8, 1), str(root))
        version = path.parent
        version.rename(tmp_path / "elsewhere")
        version.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(DataError, match="is none of TFDS's own features"):
            self.open(root)
        assert "this" not in sys.modules

    def test_a_shard_that_is_damaged_is_named(self, prepared, tmp_path):
        for number, damage in enumerate(
            [
                lambda p: p.unlink(),
                lambda p: p.write_bytes(b""),
                lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]),
                lambda p: p.write_bytes(p.read_bytes()[:-1]),
                lambda p: p.write_bytes(bytes(p.stat().st_size)),
            ]
        ):
            root = self.copy(prepared, tmp_path / str(number))
            (path,) = root.rglob("*array_record*-of-*")
            damage(path)
            with pytest.raises(DataError, match=r"array_record.*: (missing|damaged|\d+ records)"):
                self.open(root)
