import errno
import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from gen_jax.data import feed, open_source, ordered_batches, train_batches
from gen_jax.data.pipeline import shuffled_indices
from gen_jax.data.transforms import augment
from gen_jax.errors import DataError, StorageError

DIGITS = open_source("digits", "train", (8, 8, 1))


def take(num, source=DIGITS, **options):
    options = {"seed": 0, "batch_size": 24, **options}
    return list(itertools.islice(train_batches(source, **options), num))


def assert_same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for name in x:
            np.testing.assert_array_equal(x[name], y[name])


@given(size=st.integers(1, 200), seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 10**6))
@settings(max_examples=50)
def test_every_epoch_is_a_permutation(size, seed, epoch):
    positions = epoch * size + np.arange(size)
    indices = shuffled_indices(positions, size, seed)
    np.testing.assert_array_equal(np.sort(indices), np.arange(size))


def test_epochs_and_seeds_differ_and_look_uniform():
    size = 500
    orders = [shuffled_indices(e * size + np.arange(size), size, s) for e in (0, 1) for s in (0, 1)]
    for a, b in itertools.combinations(orders, 2):
        assert (a == b).mean() < 0.05
    first = [shuffled_indices(np.array([e * 10]), 10, 0)[0] for e in range(3000)]
    np.testing.assert_allclose(np.bincount(first, minlength=10), 300, atol=5 * np.sqrt(300))


def test_any_rows_can_be_asked_for():
    """A mesh may give a host rows that do not lie together."""
    rows = np.array([0, 1, 2, 12, 13, 14])
    for some, whole in zip(take(3, rows=rows, flip=True), take(3, flip=True), strict=True):
        np.testing.assert_array_equal(some["image"], whole["image"][rows])


@pytest.mark.parametrize("num_hosts", [1, 2, 4])
@pytest.mark.parametrize("first_step", [0, 17, 62])
def test_hosts_share_the_same_global_batches_from_any_step(num_hosts, first_step):
    """62 steps of 24 are 1488 of 1500 images: the third case crosses into the second epoch."""
    augmented = {"flip": True, "crop": 1}
    whole = take(66, **augmented)[first_step : first_step + 4]
    parts = [
        take(4, rows=rows, first_step=first_step, **augmented)
        for rows in np.split(np.arange(24), num_hosts)
    ]
    joined = [
        {name: np.concatenate([part[i][name] for part in parts]) for name in whole[i]}
        for i in range(4)
    ]
    assert_same(joined, whole)


def test_an_epoch_shows_every_image_once():
    batches = take(50, batch_size=30)
    images = np.concatenate([batch["image"] for batch in batches])
    truth = DIGITS.read(np.arange(1500))["image"]
    assert sorted(image.tobytes() for image in images) == sorted(t.tobytes() for t in truth)


def test_labels_stay_with_their_images():
    truth = DIGITS.read(np.arange(1500))
    label = {image.tobytes(): int(y) for image, y in zip(*truth.values(), strict=True)}
    for batch in take(5):
        assert [label[image.tobytes()] for image in batch["image"]] == batch["label"].tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name in "ab":
        (root / name).mkdir()
        for index in range(20):
            array = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(array).save(root / name / f"{index}.png")
    return open_source(f"folder:{root}", "train", (8, 8, 3))


@pytest.mark.slow
def test_workers_change_nothing(folder):
    options = {"source": folder, "batch_size": 8, "flip": True, "crop": 1, "first_step": 3}
    assert_same(take(9, **options), take(9, num_workers=2, **options))


def test_sources_by_example_have_the_order_of_sources_in_memory(folder):
    indices = shuffled_indices(np.arange(36 * 2), 36, 7)
    truth = folder.read(indices[:16])
    batches = take(2, source=folder, batch_size=8, seed=7)
    np.testing.assert_array_equal(np.concatenate([b["image"] for b in batches]), truth["image"])


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("Worker process was terminated unexpectedly with exit code -7. Search the"),
    ],
    ids=["ENOSPC", "SIGBUS"],
)
def test_a_full_shared_memory_is_not_blamed_on_the_data(error):
    def fails():
        raise error
        yield

    with pytest.raises(StorageError, match=r"/dev/shm: full.*--shm-size=8g.*data.num_workers"):
        next(feed(fails(), name="folder:x", timeout_s=10))


def test_who_stops_listening_closes_what_gives_batches():
    closed = []

    def gives():
        try:
            while True:
                yield {"image": np.zeros(1)}
        finally:
            closed.append(True)

    batches = feed(gives(), name="x", timeout_s=10)
    next(batches)
    batches.close()
    assert closed == [True]


def test_what_cannot_be_shared_is_refused():
    with pytest.raises(DataError, match="data.batch_size: 2000 is more than its 1500 examples"):
        take(1, batch_size=2000)
    with pytest.raises(DataError, match="rows: got .*some from 0 to 23 are required"):
        take(1, rows=np.array([24]))


@pytest.mark.parametrize(("limit", "total"), [(None, 297), (100, 100), (1000, 297)])
def test_ordered_batches_show_each_example_once_and_mark_padding(limit, total):
    source = open_source("digits", "test", (8, 8, 1))
    batches = list(ordered_batches(source, 64, limit))
    assert {batch["image"].shape for batch in batches} == {(64, 8, 8, 1)}
    real = np.concatenate([b["image"][b["weight"] > 0] for b in batches])
    spread = np.linspace(0, 296, total).round().astype(int)
    assert len(set(spread)) == total
    np.testing.assert_array_equal(real, source.read(spread)["image"])


IMAGES = np.random.default_rng(0).integers(0, 256, (400, 6, 6, 1), np.uint8)


def augmented(**options):
    settings = {"seed": 0, "step": 0, "rows": np.arange(400), "flip": False, "crop": 0}
    return augment(IMAGES, **{**settings, **options})


def test_nothing_asked_for_is_nothing_done():
    assert augmented() is IMAGES


def test_half_the_images_are_flipped():
    result = augmented(flip=True)
    flipped = np.array([(r == i[:, ::-1]).all() for r, i in zip(result, IMAGES, strict=True)])
    same = np.array([(r == i).all() for r, i in zip(result, IMAGES, strict=True)])
    assert (flipped ^ same).all()
    assert 150 < flipped.sum() < 250


def test_crops_shift_by_up_to_the_given_pixels_in_all_directions():
    result = augmented(crop=2)
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    shifts = set()
    for image, source in zip(result, padded, strict=True):
        found = [
            (r, c)
            for r in range(5)
            for c in range(5)
            if (source[r : r + 6, c : c + 6] == image).all()
        ]
        assert found
        shifts.update(found)
    assert len(shifts) == 25


def test_augmentation_depends_on_seed_and_step():
    base = augmented(flip=True, crop=2)
    np.testing.assert_array_equal(base, augmented(flip=True, crop=2))
    for other in ({"seed": 1}, {"step": 1}):
        assert (base != augmented(flip=True, crop=2, **other)).any()
