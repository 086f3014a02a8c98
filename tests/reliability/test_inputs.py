"""F13 to F16, F23, F24, F27: data that is not what it should be."""

import io
import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from gen_jax.data import open_source, train_batches
from gen_jax.data.decode import decode_image
from gen_jax.errors import DataError
from gen_jax.files import png_bytes
from gen_jax.reading import parse_json, read_npz
from tests.reliability.job import ROOT, VAE, Job, children, record, run, train_line, tries


def encoded(mode="RGB", kind="PNG", size=(8, 6), **options):
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 4), np.uint8), "RGBA")
    if mode == "I;16":
        picture = Image.fromarray(rng.integers(0, 2**16, (size[1], size[0]), np.uint16))
    else:
        picture = colours.convert("RGB").convert(mode) if mode != "RGBA" else colours
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def animated(kind):
    frames = [Image.new("RGB", (8, 6), c) for c in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6  # lay it on its side
    return encoded(kind="JPEG", exif=exif)


def huge(side):
    """A PNG of little more than a header that claims side x side pixels."""
    buffer = io.BytesIO()
    Image.new("1", (side, side)).save(buffer, "PNG")
    return buffer.getvalue()


def with_text_bomb():
    info = PngImagePlugin.PngInfo()
    info.add_text("x", "a" * 2**24, zip=True)
    return encoded(pnginfo=info)


# What comes in, and what must come out: a mode and a size, or the words of a refusal.
TABLE = {
    "rgb png": (lambda: encoded("RGB"), ("RGB", (8, 6))),
    "grey png": (lambda: encoded("L"), ("L", (8, 6))),
    "black and white png": (lambda: encoded("1"), ("L", (8, 6))),
    "palette png": (lambda: encoded("P"), ("RGB", (8, 6))),
    "grey and alpha": (lambda: encoded("LA"), ("RGB", (8, 6))),
    "rgba png": (lambda: encoded("RGBA"), ("RGB", (8, 6))),
    "palette, transparent": (lambda: encoded("P", transparency=0), ("RGB", (8, 6))),
    "rgb jpeg": (lambda: encoded(kind="JPEG"), ("RGB", (8, 6))),
    "progressive jpeg": (lambda: encoded(kind="JPEG", progressive=True), ("RGB", (8, 6))),
    "grey jpeg": (lambda: encoded("L", "JPEG"), ("L", (8, 6))),
    "cmyk jpeg": (lambda: encoded("CMYK", "JPEG"), ("RGB", (8, 6))),
    "rotated by exif": (rotated, ("RGB", (6, 8))),
    "webp": (lambda: encoded(kind="WEBP"), ("RGB", (8, 6))),
    "webp with alpha": (lambda: encoded("RGBA", "WEBP"), ("RGB", (8, 6))),
    "16 bits": (lambda: encoded("I;16"), "eight bits"),
    "animated webp": (lambda: animated("WEBP"), "more than one frame"),
    "animated png": (lambda: animated("PNG"), "more than one frame"),
    "gif": (lambda: animated("GIF"), "none of PNG, JPEG, WEBP"),
    "tiff": (lambda: encoded(kind="TIFF"), "none of PNG, JPEG, WEBP"),
    "bmp": (lambda: encoded(kind="BMP"), "none of PNG, JPEG, WEBP"),
    "eps": (lambda: encoded(kind="EPS"), "none of PNG, JPEG, WEBP"),
    "empty": (lambda: b"", "none of PNG, JPEG, WEBP"),
    "text": (lambda: b"<svg/>", "none of PNG, JPEG, WEBP"),
    "half a png": (lambda: encoded()[:60], ""),
    "half a jpeg": (lambda: encoded(kind="JPEG", size=(64, 64))[:900], ""),
    "64 million pixels": (lambda: huge(8000), "at most 50000000"),
    "200 million pixels": (lambda: huge(14_200), ""),
    "a text chunk of 16 MB": (with_text_bomb, ""),
    "wrong checksum": (lambda: encoded()[:-6] + b"zzzzzz", None),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", TABLE)
def test_every_kind_of_image_is_taken_or_refused(name):
    make, expected = TABLE[name]
    data = make()
    if expected is None:  # either is right
        decode_or_refuse(data)
    elif isinstance(expected, str):
        with pytest.raises(DataError, match=f"here: not a usable image: .*{expected}"):
            decode_image(data, "here")
    else:
        image = decode_image(data, "here")
        assert (image.mode, image.size) == expected


def decode_or_refuse(data):
    try:
        return decode_image(data, "here")
    except DataError:
        return None


@pytest.mark.slow
def test_whatever_is_no_image_is_one_error():
    """Mutations of good files: an image, or DataError, soon and in little memory."""
    rng = random.Random(0)
    seeds = [make() for make, expected in TABLE.values() if isinstance(expected, tuple)]
    count, longest, taken = tries(20_000, 1_000_000), 0.0, 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(count):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 8)):
            how = rng.random()
            if how < 0.7:
                data[rng.randrange(len(data))] = rng.randrange(256)
            elif how < 0.85:
                del data[rng.randint(1, len(data)) :]
            else:
                data[rng.randrange(len(data)) :] = rng.randbytes(rng.randint(1, 64))
        begin = time.thread_time()
        taken += decode_or_refuse(bytes(data)) is not None
        longest = max(longest, time.thread_time() - begin)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert 0 < taken < count
    assert longest <= 1
    assert grown <= 500_000  # kB
    record("F13", mutations=count, taken=taken, other_errors=0, longest_s=round(longest, 3))


@pytest.mark.slow
def test_a_large_transparent_image_takes_no_more_than_it_must(tmp_path):
    """49 million pixels with an alpha channel, the worst that is taken."""
    Image.new("RGBA", (7000, 7000), (1, 2, 3, 4)).save(tmp_path / "x.png")
    code = (
        "import sys\nfrom gen_jax.data.decode import decode_image\n"
        "data = open(sys.argv[1], 'rb').read()\ndecode_image(data, 'x')\n"
        # Not getrusage(), which knows what the parent took before this began.
        "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.png")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(out.stdout) < 700_000  # kB, of which Python and NumPy are 100,000


class TestJSON:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (b'{"a": 1, "a": 2}', "'a' is there twice"),
            (b'{"a": 1e999}', "1e999 is no finite number"),
            (b'{"a": NaN}', "NaN is no finite number"),
            (b"-Infinity", "-Infinity is no finite number"),
            (b"[" * 65 + b"]" * 65, "nested more than 64 deep"),
            (b"[" * 10**6, "nested more than 64 deep"),
            (b" " * (2**20 + 1), "at most 1,048,576 are read"),
            (b"\xff", "decode"),
            (b"{", ""),
        ],
    )
    def test_what_nobody_means_is_refused(self, text, words):
        with pytest.raises(ValueError, match=words):
            parse_json(text)

    def test_no_text_takes_long(self):
        """Of strings that never end, and of those that nearly do."""
        begin = time.monotonic()
        for text in (b'"' + b'\\"' * 500_000, b'"a' * 500_000, b'{"a":' * 150_000, b"\\" * 10**6):
            with pytest.raises(ValueError, match=r"\w"):
                parse_json(text)
        assert time.monotonic() - begin < 5

    def test_brackets_in_strings_do_not_count(self):
        value = {"a": "[" * 100 + '"' + "\\" + "{" * 100, "b": [[1.5, -2, None, True]]}
        assert parse_json(json.dumps(value).encode()) == value


def npy_header(shape, descr="<f4", order=False):
    buffer = io.BytesIO()
    header = {"descr": descr, "fortran_order": order, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


class TestNpz:
    def write(self, path, members, compression=zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, data in members:
                archive.writestr(name, data)

    def test_what_numpy_wrote_is_read(self, tmp_path):
        arrays = {
            "a": np.arange(24, dtype=np.int16).reshape(2, 3, 4),
            "b": np.asfortranarray(np.random.default_rng(0).normal(size=(3, 5))),
            "c": np.float32(3),
            "d": np.zeros((0, 4), np.uint8),
            "e": np.array("text"),
        }
        for save in (np.savez, np.savez_compressed):
            save(tmp_path / "x.npz", **arrays)
            found, names = read_npz(tmp_path / "x.npz")
            assert names == list(arrays)
            for name, array in arrays.items():
                np.testing.assert_array_equal(found[name], array)
                assert found[name].dtype == array.dtype
            assert list(read_npz(tmp_path / "x.npz", {"b"}.__contains__)[0]) == ["b"]

    def test_what_is_crafted_is_refused(self, tmp_path):
        """Eight files that NumPy or zipfile would follow into code or out of memory."""
        objects = io.BytesIO()
        np.save(objects, np.array([{"a": 1}], object), allow_pickle=True)
        good = npy_header((4,)) + bytes(16)
        bomb = npy_header((2**28,)) + bytes(2**30)
        members = {
            "objects": ([("x.npy", objects.getvalue())], "Python objects"),
            "a bomb": ([("x.npy", bomb)], "at most 100 times"),
            "a header of terabytes": ([("x.npy", npy_header((10**12,)))], "promises"),
            "too short": ([("x.npy", good[:-4])], "promises 16 bytes"),
            "too long": ([("x.npy", good + b"more")], "promises 16 bytes"),
            "negative": ([("x.npy", npy_header((-1,)))], ""),
            "twice": ([("x.npy", good), ("x.npy", good)], "twice"),
            "no header": ([("x.npy", b"\x80\x04K\x01.")], ""),
        }
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        path = tmp_path / "x.npz"
        for name, (content, words) in members.items():
            if name == "a bomb":
                before_bomb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            self.write(path, content)
            if name == "a bomb":  # making it took memory, not reading it
                before += resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_bomb
            del content
            with pytest.raises(ValueError, match=words):
                read_npz(path)
        self.write(path, [("x.npy", good)])
        data = path.read_bytes()
        for broken in (data[: len(data) // 2], data[:40] + b"zz" + data[42:], b"", b"text"):
            path.write_bytes(broken)
            with pytest.raises(ValueError, match=r"\w"):
                read_npz(path)
        self.write(path, [("../../escaped.npy", good)])
        assert list(read_npz(path)[0]) == ["../../escaped"]  # a name, and no path
        assert not list(tmp_path.parent.rglob("escaped*"))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 200_000  # kB
        record("F23", crafted=len(members) + 4, refused=len(members) + 4)


# --- Records that are wrong: eight cases, read here or by worker processes.


def write_folder(root, spoil=None, count=24):
    for index, image in enumerate(
        np.random.default_rng(0).integers(0, 256, (count, 8, 8), np.uint8)
    ):
        folder = root / "abc"[index % 3]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index:02d}.png").write_bytes(png_bytes(image[..., None]))
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
        "x_train: uint8 .* got float32",
    ),
    "no image axis": ({"x_train": np.zeros((24, 64), np.uint8)}, r"x_train: uint8 .*\[24, 64\]"),
    "another shape": (
        {"x_train": np.zeros((24, 9, 9), np.uint8)},
        "9x9x1, but data.shape is 8x8x1",
    ),
    "too few labels": ({"y_train": np.zeros(23, int)}, "y_train: 24 whole numbers"),
    "labels that are no numbers": ({"y_train": np.array(["a"] * 24)}, "y_train: 24 whole numbers"),
    "a negative label": ({"y_train": with_label(-2)}, "y_train: index 5: label -2"),
    "a label beyond": ({"y_train": with_label(7)}, "num_classes is 3: index 5: label 7"),
}
CLASSES = "--config.model.num_classes=3"


@pytest.mark.parametrize("name", BAD_NPZ)
def test_a_bad_array_is_named(name, tmp_path, capsys):
    from gen_jax.launch.cli import main

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

    @pytest.mark.parametrize("workers", [0, 2])
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

    @pytest.mark.parametrize("workers", [0, 2])
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


# --- Datasets that describe themselves.


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
        with pytest.raises(DataError, match="a name in lower case is needed"):
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
