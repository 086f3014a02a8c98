"""Films: made on the spot and judged, read from folders, and moved alike."""

import numpy as np
import pytest

from gen_jax.data.scenes import MOTIONS, caption_of_film, draw_scene, make_film
from gen_jax.data.sources import open_source
from gen_jax.data.transforms import augment
from gen_jax.errors import DataError
from gen_jax.evals.scenes import rate_films
from gen_jax.files import film_bytes, png_bytes


def drawn(held_out=False, side=24, num=40, frames=6):
    films, captions = [], []
    for index in range(num):
        film = make_film(np.random.default_rng(index), frames, held_out=held_out)
        films.append(np.stack([draw_scene([thing], side) for thing in film.frames]))
        captions.append(film.caption)
        luck = np.random.default_rng(index)
        assert caption_of_film(luck, held_out=held_out) == film.caption
    return np.stack(films), captions


def test_the_judge_reads_drawn_films_and_says_no_to_changed_ones():
    films, captions = drawn()
    rated = rate_films(films, captions)
    assert set(rated.values()) == {1.0}
    assert rate_films(films[:, ::-1], captions)["direction"] == 0
    assert rate_films(films[:, :1].repeat(6, axis=1), captions)["direction"] == 0
    swapped = films.copy()
    swapped[:, 3] = np.roll(films[:, 3], 1, axis=0)  # another's frame in the middle
    assert rate_films(swapped, captions)["identity"] < 0.2
    assert rate_films(films, captions[1:] + captions[:1])["all"] < 0.1
    assert {caption.rpartition(" ")[2] for caption in captions} == set(MOTIONS)


def test_moving_scenes_are_the_same_whoever_reads_them():
    source = open_source("moving_scenes:4x16x16x3", "train", (4, 16, 16, 3))
    some = source.read(np.array([5, 0]))["image"]
    assert some.shape == (2, 4, 16, 16, 3)
    np.testing.assert_array_equal(some[0], source.read(np.array([5]))["image"][0])
    stills = open_source("moving_scenes:16x16x3", "train", (16, 16, 3))
    assert stills.captions(np.arange(3)) == source.captions(np.arange(3))
    assert stills.read(np.arange(2))["image"].shape == (2, 16, 16, 3)
    test = open_source("moving_scenes:4x16x16x3", "test", (4, 16, 16, 3))
    assert test.captions(np.arange(9)) != source.captions(np.arange(9))
    with pytest.raises(DataError, match="FxHxWx3"):
        open_source("moving_scenes:4x8x8x3", "train", (4, 8, 8, 3))


def test_folders_of_films_are_read_exactly(tmp_path):
    rng = np.random.default_rng(0)
    palette = rng.integers(0, 256, (8, 3), np.uint8)  # GIF has few colors
    films = palette[rng.integers(0, 8, (10, 5, 6, 6))]
    for index, film in enumerate(films):
        name = tmp_path / f"{index}"
        if index % 2:
            name.with_suffix(".gif").write_bytes(film_bytes(list(film), 50))
        else:
            name.mkdir()
            for number, frame in enumerate(film):
                (name / f"{number}.png").write_bytes(png_bytes(frame))
        name.with_suffix(".txt").write_text(f"film {index}\n")
    source = open_source(f"films:{tmp_path}", "train", (5, 6, 6, 3))
    np.testing.assert_array_equal(source.read(np.arange(9))["image"], films[:9])
    assert source.captions(np.array([3])) == ["film 3"]
    held_out = open_source(f"films:{tmp_path}", "test", (3, 6, 6, 3))
    np.testing.assert_array_equal(held_out.read(np.array([0]))["image"][0], films[9, ::2])
    with pytest.raises(DataError, match="5 frames; 7 or more are required"):
        open_source(f"films:{tmp_path}", "train", (7, 6, 6, 3)).read(np.array([0]))
    with pytest.raises(DataError, match="FxHxWxC is required for films"):
        open_source(f"films:{tmp_path}", "train", (6, 6, 3))
    with pytest.raises(DataError, match="gives pictures"):
        open_source(f"folder:{tmp_path}", "train", (5, 6, 6, 3))


def test_all_frames_of_a_film_are_moved_alike():
    films = np.random.default_rng(0).integers(0, 256, (16, 1, 8, 8, 3), np.uint8)
    whole = np.repeat(films, 3, axis=1)
    moved = augment(whole, seed=1, step=2, rows=np.arange(16), flip=True, crop=2)
    np.testing.assert_array_equal(moved[:, 0], moved[:, 2])
    alone = augment(films[:, 0], seed=1, step=2, rows=np.arange(16), flip=True, crop=2)
    np.testing.assert_array_equal(moved[:, 1], alone)
    assert (moved != whole).any()
