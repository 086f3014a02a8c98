import io

import numpy as np
import pytest
from PIL import Image, ImageFont

from gen_jax.data import hold_out, open_source
from gen_jax.data.decode import decode_image, fit_image
from gen_jax.errors import DataError

RNG = np.random.default_rng(0)


def test_digits_are_the_real_ones():
    from sklearn.datasets import load_digits

    train, test = (open_source("digits", split, (8, 8, 1)) for split in ("train", "test"))
    assert (train.size, test.size, train.num_classes) == (1500, 297, 10)
    data = load_digits()
    batch = test.read(np.array([0, 296]))
    assert batch["image"].dtype == np.uint8
    np.testing.assert_allclose(
        batch["image"][..., 0], data.images[[1500, 1796]] * 15.9375, atol=0.5
    )
    np.testing.assert_array_equal(batch["label"], data.target[[1500, 1796]])


def write_npz(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


def test_npz_reads_the_keras_layout(tmp_path):
    images = RNG.integers(0, 256, (6, 4, 5), np.uint8)
    spec = write_npz(
        tmp_path / "a.npz", x_train=images, y_train=np.arange(6).reshape(6, 1), x_test=images[:2]
    )
    train, test = (open_source(spec, split, (4, 5, 1)) for split in ("train", "test"))
    batch = train.read(np.array([5, 0]))
    np.testing.assert_array_equal(batch["image"][..., 0], images[[5, 0]])
    np.testing.assert_array_equal(batch["label"], [5, 0])
    assert batch["label"].dtype == np.int32
    assert train.num_classes == 6
    assert test.num_classes is None
    assert "label" not in test.read(np.array([0]))
    assert train.fingerprint != test.fingerprint


IMAGES = np.zeros((3, 4, 4, 1), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_test": IMAGES}, "no array x_train; found x_test"),
        ({"x_train": IMAGES.astype(np.float32)}, "x_train: got float32 .*; uint8 .* is required"),
        ({"x_train": IMAGES[0, 0]}, r"x_train: got uint8 \[4, 1\]; uint8"),
        (
            {"x_train": IMAGES, "y_train": np.zeros(2, int)},
            "y_train: got int64 .*; 3 whole numbers are required",
        ),
        ({"x_train": IMAGES, "y_train": np.zeros(3)}, "y_train: got float64 .*; 3 whole numbers"),
        ({"x_train": IMAGES, "y_train": np.array([0, -1, 0])}, "y_train: index 1: label -1 < 0"),
        ({"x_train": IMAGES[:0]}, "no examples"),
        ({"x_train": np.zeros((3, 5, 4), np.uint8)}, "images are 5x4x1, but data.shape is 4x4x1"),
        ({"x_train": np.array([{}], object)}, "cannot be read as npz: .*holds Python objects"),
    ],
)
def test_unusable_npz_is_refused_by_name(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message) as error:
        open_source(write_npz(tmp_path / "bad.npz", **arrays), "train", (4, 4, 1))
    assert "bad.npz" in str(error.value)


def test_files_that_are_no_npz_are_refused(tmp_path):
    (tmp_path / "no.npz").write_bytes(b"PK\x03\x04 not really")
    for name in ("no.npz", "missing.npz"):
        with pytest.raises(DataError, match=f"{name}: cannot be read as npz"):
            open_source(f"npz:{tmp_path / name}", "train", (4, 4, 1))


def encode(array, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def make_folder(root, per_class=10, size=(6, 8)):
    for label, kind in enumerate(("PNG", "JPEG", "WEBP")):
        folder = root / f"class{label}"
        folder.mkdir(parents=True)
        for index in range(per_class):
            array = np.full((*size, 3), 80 * label + index, np.uint8)
            (folder / f"{index:02d}.{kind.lower()}").write_bytes(encode(array, kind))
        (folder / "notes.txt").write_text("not an image")
    return root


def test_folder_reads_classes_and_holds_out_every_tenth(tmp_path):
    spec = f"folder:{make_folder(tmp_path)}"
    train, test = (open_source(spec, split, (4, 4, 3)) for split in ("train", "test"))
    assert (train.size, test.size, train.num_classes) == (27, 3, 3)
    batch = train.read(np.array([0, 9, 26]))
    assert batch["image"].shape == (3, 4, 4, 3)
    np.testing.assert_array_equal(batch["label"], [0, 1, 2])
    np.testing.assert_allclose(batch["image"][:, 0, 0, 0], [0, 80, 168], atol=3)


def test_folder_uses_its_own_splits_where_it_has_them(tmp_path):
    make_folder(tmp_path / "train")
    make_folder(tmp_path / "test", per_class=2)
    sizes = [open_source(f"folder:{tmp_path}", s, (4, 4, 1)).size for s in ("train", "test")]
    assert sizes == [30, 6]


def test_folder_numbers_test_labels_by_training_classes(tmp_path):
    make_folder(tmp_path / "train")
    make_folder(tmp_path / "test", per_class=1)
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "train" / "class0" / "gone.png").symlink_to("nowhere")
    for file in (tmp_path / "test" / "class1").iterdir():
        file.unlink()
    (tmp_path / "test" / "class1").rmdir()
    test = open_source(f"folder:{tmp_path}", "test", (4, 4, 1))
    assert test.read(np.arange(2))["label"].tolist() == [0, 2]
    assert test.num_classes == 3
    (tmp_path / "test" / "class9").mkdir()
    with pytest.raises(DataError, match="class9: no class of that name"):
        open_source(f"folder:{tmp_path}", "test", (4, 4, 1))


def test_folder_names_a_bad_file(tmp_path):
    make_folder(tmp_path)
    bad = tmp_path / "class1" / "03.jpeg"
    bad.write_bytes(bad.read_bytes()[:100])
    source = open_source(f"folder:{tmp_path}", "train", (4, 4, 3))
    with pytest.raises(DataError, match=r"class1/03.jpeg: not a usable image"):
        source.read(np.arange(source.size))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("minst", "unknown source; digits, mnist"),
        ("npz:", "unknown source"),
        ("folder:/nowhere", "folder:/nowhere: no such folder"),
        ("synthetic:8x8x2", "HxWxC with 1 or 3 channels"),
        ("tfds:no_such_dataset", "cannot be opened"),
    ],
)
def test_unknown_sources_are_refused(spec, message):
    with pytest.raises(DataError, match=message):
        open_source(spec, "train", (8, 8, 1))


def test_an_empty_folder_says_what_was_found_and_what_is_taken(tmp_path):
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden").write_text("nor this")
    with pytest.raises(DataError, match="no examples: found .*1 .txt.*; a subfolder of"):
        open_source(f"folder:{tmp_path}", "train", (8, 8, 1))


def test_pictures_are_found_at_any_depth_and_the_rest_is_named(tmp_path):
    make_folder(tmp_path, per_class=2)
    deep = tmp_path / "class0" / "a" / "b"
    deep.mkdir(parents=True)
    array = np.zeros((6, 8, 3), np.uint8)
    for kind in ("bmp", "tif", "jfif", "jpe", "gif", "PNG"):
        form = {"tif": "TIFF", "jfif": "JPEG", "jpe": "JPEG"}.get(kind, kind.upper())
        (deep / f"x.{kind}").write_bytes(encode(array, form))
    (tmp_path / "class0" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "class0" / "again").symlink_to(tmp_path / "class0")
    (tmp_path / "stray.png").write_bytes(encode(array, "PNG"))
    train, test = (open_source(f"folder:{tmp_path}", s, (4, 4, 3)) for s in ("train", "test"))
    assert train.size + test.size == 3 * 2 + 6
    assert train.class_names == ("class0", "class1", "class2")
    for what in ("3 .txt", "1 dangling links", "1 pictures outside of any class"):
        assert what in train.notes
    train.read(np.arange(train.size))


def test_pictures_without_classes(tmp_path):
    for index in range(20):
        (tmp_path / f"{index:02d}.png").write_bytes(encode(np.zeros((6, 8, 3), np.uint8), "PNG"))
    train = open_source(f"folder:{tmp_path}", "train", (4, 4, 3))
    assert (train.size, train.num_classes) == (18, None)
    assert "label" not in train.read(np.array([0]))


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_what_is_held_out_goes_by_many_names(name, tmp_path):
    make_folder(tmp_path / "train")
    make_folder(tmp_path / name, per_class=1)
    assert open_source(f"folder:{tmp_path}", "test", (4, 4, 1)).size == 3
    assert open_source(f"folder:{tmp_path}", "train", (4, 4, 1)).size == 30


def test_a_class_without_pictures_is_named(tmp_path):
    make_folder(tmp_path)
    (tmp_path / "class00").mkdir()
    with pytest.raises(DataError, match=r"class00: no pictures in 1 of 4 classes \(class00\)"):
        open_source(f"folder:{tmp_path}", "train", (4, 4, 1))


def test_numbers_that_do_not_fit_are_named(tmp_path):
    labels = np.array([0, 2**31 + 5, 1])
    spec = write_npz(tmp_path / "a.npz", x_train=IMAGES, y_train=labels)
    with pytest.raises(DataError, match="y_train: index 1: label 2147483653 > 2147483647"):
        open_source(spec, "train", (4, 4, 1))
    context = np.zeros((3, 2, 2))
    context[2, 1, 0] = 1e300
    spec = write_npz(tmp_path / "b.npz", x_train=IMAGES, context_train=context)
    with pytest.raises(DataError, match=r"context: index 2: 1e\+300 is beyond what float32"):
        open_source(spec, "train", (4, 4, 1))


def test_colors_are_brought_to_srgb():
    """A picture whose profile swaps nothing stays; one with another white or primaries moves."""
    from PIL import ImageCms

    image = Image.new("RGB", (4, 4), (200, 30, 30))
    plain, tagged = io.BytesIO(), io.BytesIO()
    image.save(plain, "PNG")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image.save(tagged, "PNG", icc_profile=profile)
    same = [np.asarray(decode_image(x.getvalue(), "x"), int) for x in (plain, tagged)]
    np.testing.assert_allclose(*same, atol=1)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    broken = io.BytesIO()
    image.save(broken, "PNG", icc_profile=lab)
    decode_image(broken.getvalue(), "x")  # of another space: as if there were none


def test_the_largest_picture_is_a_field(tmp_path):
    make_folder(tmp_path)
    source = open_source(f"folder:{tmp_path}", "train", (4, 4, 1), max_pixels=10)
    with pytest.raises(DataError, match="8 x 6 pixels; at most 10 are taken .data.max_pixels"):
        source.read(np.array([0]))


@pytest.mark.slow
def test_tfds_reads_array_record_without_tensorflow(tmp_path):
    """Prepared on the spot, by a builder of our own and without TensorFlow."""
    import sys

    import tensorflow_datasets as tfds

    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (12, 9, 7, 3), np.uint8)

    class TinyDiscs(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(9, 7, 3), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=4),
                    "caption": tfds.features.Text(),
                }
            )
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {
                "train": self._generate_examples(range(8)),
                "validation": self._generate_examples(range(8, 12)),
            }

        def _generate_examples(self, indices):
            for i in indices:
                told = {"label": i % 4, "caption": f"disc {i}"}
                yield i, {"image": Image.fromarray(images[i]), **told}

    TinyDiscs(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    assert "tensorflow" not in sys.modules

    train = open_source("tfds:tiny_discs", "train", (9, 7, 3), str(tmp_path))
    assert (train.size, train.num_classes) == (8, 4)
    batch = train.read(np.arange(8))
    truth = {images[i].tobytes(): i % 4 for i in range(8)}
    assert [truth[image.tobytes()] for image in batch["image"]] == batch["label"].tolist()
    number = {images[i].tobytes(): i for i in range(8)}
    wanted = [f"disc {number[image.tobytes()]}" for image in batch["image"]]
    assert train.captions(np.arange(8)) == wanted
    gray = open_source("tfds:tiny_discs", "test", (5, 5, 1), str(tmp_path))
    assert gray.read(np.arange(4))["image"].shape == (4, 5, 5, 1)


def test_synthetic_discs_lie_in_the_quadrant_of_their_label():
    source = open_source("synthetic:16x16x3", "train", (16, 16, 3))
    batch = source.read(np.arange(64))
    assert batch["image"].dtype == np.uint8
    for image, label in zip(batch["image"].astype(float), batch["label"], strict=True):
        halves = image.sum(-1).reshape(2, 8, 2, 8).sum((1, 3))
        assert halves.argmax() == label


GRAY = RNG.integers(0, 256, (5, 6), np.uint8)


def bomb():
    return encode(np.zeros((10_000, 5_001), np.uint8))


def animated():
    frames = [Image.fromarray(np.full((4, 4), v, np.uint8)) for v in (0, 255)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def gif():
    frames = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (0, 200)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "none of PNG"),
        (b"plain text", "none of PNG"),
        (gif(), "more than one frame; a still image is required"),
        (encode(GRAY)[:60], "not a usable image"),
        (encode(RNG.integers(0, 60_000, (5, 5)).astype(np.uint16)), "eight bits a channel"),
        (animated(), "more than one frame; a still image is required"),
        (bomb(), "10000 pixels; at most|pixels"),
    ],
    ids=["empty", "text", "gif", "truncated", "16bit", "animated", "bomb"],
)
def test_what_is_not_one_plain_picture_is_refused(data, message):
    with pytest.raises(DataError, match=message) as error:
        decode_image(data, "here")
    assert str(error.value).startswith("here: not a usable image")


def test_damaged_bytes_give_nothing_but_our_error():
    """Two thousand mutations of real files."""
    rng = np.random.default_rng(0)
    originals = [encode(np.stack([GRAY] * 3, -1), kind) for kind in ("PNG", "JPEG", "WEBP")]
    refused = 0
    for _ in range(700):
        for original in originals:
            data = bytearray(original)
            for _ in range(rng.integers(1, 6)):
                data[rng.integers(len(data))] = rng.integers(256)
            try:
                fit_image(decode_image(bytes(data), "x"), (4, 4, 3), "x")
            except DataError:
                refused += 1
    assert refused > 100


def test_sixteen_bits_are_brought_to_eight_where_asked():
    levels = np.array([[0, 128, 129, 32_896, 65_535, 65_400]], np.uint16)
    picture = decode_image(encode(levels), "x.png", sixteen_bit=True)
    # To the nearest of 0, 257, ... 65535.
    np.testing.assert_array_equal(np.asarray(picture), [[0, 0, 1, 128, 255, 254]])
    floats = io.BytesIO()
    Image.fromarray(np.array([[0.5]], np.float32)).save(floats, "TIFF")
    with pytest.raises(DataError, match="mode F; eight bits a channel are required$"):
        decode_image(floats.getvalue(), "x.tif", sixteen_bit=True)
    deep = io.BytesIO()
    Image.fromarray(np.array([[70_000]], np.int32)).save(deep, "TIFF")
    with pytest.raises(DataError, match="gray levels of 70000 to 70000; 0 to 65535"):
        decode_image(deep.getvalue(), "x.tif", sixteen_bit=True)
    with pytest.raises(DataError, match=r"data.sixteen_bit takes gray ones of 16"):
        decode_image(encode(levels), "x.png")


def test_opacity_is_a_fourth_channel_where_asked(tmp_path):
    colors = np.zeros((8, 8, 4), np.uint8)
    colors[:, :4] = (200, 100, 50, 255)
    (tmp_path / "a").mkdir()
    for number in range(10):
        (tmp_path / "a" / f"{number}.png").write_bytes(encode(colors))
    whole = open_source(f"folder:{tmp_path}", "train", (8, 8, 4)).read(np.arange(1))["image"]
    np.testing.assert_array_equal(whole[0], colors)
    flat = open_source(f"folder:{tmp_path}", "train", (8, 8, 3)).read(np.arange(1))["image"]
    np.testing.assert_array_equal(flat[0, :, 4:], 255)
    # What is transparent lends no color to what is not when a picture is made smaller.
    small = open_source(f"folder:{tmp_path}", "train", (4, 4, 4)).read(np.arange(1))["image"][0]
    np.testing.assert_allclose(small[:, 0, :3], np.tile([200, 100, 50], (4, 1)), atol=4)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(GRAY), np.stack([GRAY] * 3, -1)),
        (Image.fromarray(np.stack([GRAY] * 3 + [np.full_like(GRAY, 255)], -1), "RGBA"), None),
        (Image.new("RGBA", (6, 5), (10, 20, 30, 0)), np.full((5, 6, 3), 255)),
        (Image.new("1", (6, 5), 1), np.full((5, 6, 3), 255)),
        (Image.new("P", (6, 5), 0), np.zeros((5, 6, 3))),
    ],
    ids=["gray", "opaque", "transparent", "bilevel", "palette"],
)
def test_modes_become_rgb(image, expected):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    array = fit_image(decode_image(buffer.getvalue(), "x"), (5, 6, 3), "x")
    np.testing.assert_array_equal(array, np.stack([GRAY] * 3, -1) if expected is None else expected)


def test_orientation_is_applied():
    array = np.zeros((4, 8, 3), np.uint8)
    array[:, 4:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to view
    image = decode_image(encode(array, "JPEG", exif=exif, quality=95), "x")
    assert image.size == (4, 8)
    assert np.asarray(image)[-1].min() > 200


def test_fitting_crops_the_center():
    array = np.zeros((4, 12), np.uint8)
    array[:, 4:8] = 200
    np.testing.assert_array_equal(fit_image(Image.fromarray(array), (4, 4, 1), "x"), 200)


def test_glyphs_are_the_characters_of_each_font(tmp_path):
    data = ImageFont.load_default(12).path.getvalue()  # a font that comes with Pillow
    for name in ("a.ttf", "b.ttf"):
        (tmp_path / name).write_bytes(data)
    source = open_source(f"glyphs:{tmp_path}", "train", (16, 12, 1))
    assert (source.size, source.num_classes, source.class_names[10]) == (62, 62, "A")
    examples = source.read(np.arange(62))
    assert (examples["label"] == np.arange(62)).all()
    images = examples["image"][..., 0].astype(int)
    assert len(np.unique(images.reshape(62, -1), axis=0)) == 62
    assert ((images > 128).sum((1, 2)) > 5).all()
    # An l is higher than an a, which is broader; both stand on the same line.
    (tall, broad), rows = (images[10 + 26 + i] > 128 for i in (11, 0)), np.arange(16)
    heights, widths = ([x.any(axis).sum() for x in (tall, broad)] for axis in (1, 0))
    assert heights[0] > heights[1]
    assert widths[0] < widths[1]
    assert len({rows[x.any(1)].max() for x in (tall, broad)}) == 1
    assert open_source(f"glyphs:{tmp_path}", "test", (16, 12, 3)).image_shape == (16, 12, 3)
    with pytest.raises(DataError, match="one font"):
        open_source(f"glyphs:{tmp_path / 'a.ttf'}", "test", (16, 12, 1))
    (tmp_path / "b.ttf").write_bytes(b"no font")
    with pytest.raises(DataError, match=r"b\.ttf: cannot be read as a font"):
        open_source(f"glyphs:{tmp_path}", "test", (16, 12, 1))


def test_what_is_held_out_is_spread_and_left_out_of_the_rest():
    source = open_source("digits", "train", (8, 8, 1))
    rest, held = hold_out(source, 100)
    assert (rest.size, held.size) == (1400, 100)
    every = np.sort([x.tobytes() for x in source.read(np.arange(1500))["image"]])
    parts = [part.read(np.arange(part.size))["image"] for part in (rest, held)]
    again = np.sort([x.tobytes() for part in parts for x in part])
    np.testing.assert_array_equal(again, every)
    labels = held.read(np.arange(100))["label"]
    assert len(np.unique(labels)) == 10
    assert len({source.fingerprint, rest.fingerprint, held.fingerprint}) == 3
    with pytest.raises(DataError, match="data.holdout 1500 leaves none of 1500 examples"):
        hold_out(source, 1500)


def test_large_jpegs_are_read_small_and_look_the_same():
    rows, columns = np.mgrid[0:600, 0:900]
    waves = [127 + 100 * np.sin(rows / 90 + i) * np.cos(columns / 70) for i in range(3)]
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned
    picture = Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8))
    picture.save(buffer, "JPEG", quality=95, exif=exif)
    data, shape = buffer.getvalue(), (32, 32, 3)
    whole, small = (
        fit_image(decode_image(data, "a", at_least=side), shape, "a") for side in (None, 32)
    )
    assert decode_image(data, "a", at_least=32).size == (75, 113)
    assert np.abs(whole.astype(int) - small).max() <= 4
