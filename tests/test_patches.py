"""Patches of images and videos: there and back, the nearest by brute force, and what is made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import patches as p

KEY = jax.random.key(0)
SMALL = p.Settings(patch=3, coarsest=6, rounds=2, chunk=16)


def image(height=12, width=16, channels=2):
    """Give smooth noise from 0 to 1."""
    rough = jax.random.uniform(KEY, (height // 2, width // 2, channels))
    return jax.image.resize(rough, (height, width, channels), "linear")


SOURCE = image()


@pytest.mark.parametrize(("shape", "size"), [((5, 7, 2), (3, 2)), ((4, 5, 6, 1), (2, 3, 3))])
def test_patches_fold_back(shape, size):
    x = jax.random.normal(KEY, shape)
    made = p.patches(x, size)
    assert made.shape == (
        np.prod([s - n + 1 for s, n in zip(shape, size, strict=False)]),
        np.prod(size) * shape[-1],
    )
    np.testing.assert_array_equal(
        made[1], x[(*tuple(slice(n) for n in size[:-1]), slice(1, 1 + size[-1]))].ravel()
    )
    np.testing.assert_allclose(p.fold(made, size, shape), x, atol=1e-6)
    with pytest.raises(ValueError, match="at least"):
        p.patches(x, tuple(n + 9 for n in size))


def test_nearest_is_brute_force_and_chunks_change_nothing():
    query, key = jax.random.normal(KEY, (37, 6)), jax.random.normal(jax.random.key(1), (23, 6))
    apart = np.square(np.asarray(query)[:, None] - np.asarray(key)[None]).mean(-1)
    for alpha in (1e6, 0.01):
        expected = (apart / (alpha + apart.min(0))).argmin(1)
        for chunk in (5, 37, 512):
            np.testing.assert_array_equal(p.nearest(query, key, alpha, chunk), expected)
    np.testing.assert_array_equal(p.nearest(query, key, 1e6), apart.argmin(1))
    allowed = jnp.arange(23) > 10
    found = p.nearest(query, key, 1e6, allowed=allowed)
    np.testing.assert_array_equal(found, 11 + apart[:, 11:].argmin(1))


def test_completeness_uses_what_nobody_is_near_to():
    """Of ten equal queries and two keys, the farther one is taken too when it is nobody's."""
    key = jnp.array([[0.0, 0.0], [1.0, 1.0]])
    query = jnp.concatenate([jnp.full((9, 2), 0.1), jnp.full((1, 2), 0.4)])
    assert int(p.nearest(query, key, 1e6).sum()) == 0
    assert int(p.nearest(query, key, 1e-3).sum()) > 0


def test_without_noise_the_source_comes_back_and_with_it_others():
    quiet = SMALL._replace(sigma=0.0)
    np.testing.assert_allclose(p.generate(KEY, SOURCE, quiet), SOURCE, atol=1e-5)
    done = []
    made = [
        p.generate(jax.random.key(i), SOURCE, SMALL, progress=lambda *at: done.append(at))
        for i in range(3)
    ]
    assert done[-1] == (len(p.levels((12, 16), SMALL)),) * 2
    assert float(np.std(made, axis=0).mean()) > 0.05
    for x in made:  # averages of patches of the source
        assert (
            float(SOURCE.min()) - 1e-5
            <= float(x.min())
            <= float(x.max())
            <= float(SOURCE.max()) + 1e-5
        )


def test_a_video_of_one_frame_is_an_image():
    still = p.Settings(patch=3, frames=1, coarsest=6, rounds=2, sigma=0.0)
    start = p.retarget(SOURCE, (12, 20), still)
    film = p.retarget(SOURCE[None], (1, 12, 20), still)
    np.testing.assert_allclose(film[0], start, atol=1e-5)


def test_a_film_is_made_of_a_film():
    place = np.indices((6, 8, 8))
    film = jnp.asarray((place[1] + place[2] + place[0]) % 4 < 2, jnp.float32)[..., None]
    made = p.generate(KEY, film, p.Settings(patch=3, frames=2, coarsest=6, rounds=2))
    assert made.shape == film.shape
    assert float(jnp.abs(made - jnp.round(made)).mean()) < 0.25  # stripes still, not gray


def test_retargeting_repeats_and_does_not_stretch():
    """Stripes of four pixels stay four pixels wide."""
    stripes = jnp.tile(jnp.asarray(np.arange(16) // 2 % 2, jnp.float32)[None, :, None], (12, 1, 1))
    wide = p.retarget(stripes, (12, 32), SMALL)
    turns = np.abs(np.diff(np.round(np.asarray(wide[6, :, 0])))).sum()
    assert 12 <= turns <= 16  # 7 in the source; a stretched one would have 7 too


def test_what_is_known_stays_and_the_rest_is_filled_with_the_same():
    stripes = jnp.tile(jnp.asarray(np.arange(16) // 2 % 2, jnp.float32)[:, None, None], (1, 16, 1))
    known = np.ones((16, 16), bool)
    known[6:10, 6:10] = False
    settings = SMALL._replace(coarsest=16, rounds=6)
    filled = p.inpaint(jnp.where(known[..., None], stripes, 0.3), jnp.asarray(known), settings)
    np.testing.assert_array_equal(filled[known], stripes[known])
    assert float(jnp.abs(filled - stripes).max()) < 0.35
    with pytest.raises(ValueError, match="nothing is"):
        p.inpaint(stripes, jnp.zeros((16, 16), bool), settings)
    few = np.zeros((16, 16), bool)
    few[0, 0] = True
    with pytest.raises(ValueError, match="smaller hole"):
        p.inpaint(stripes, jnp.asarray(few), settings)


def test_analogies_and_collages_take_their_patches_from_elsewhere():
    style, structure = 0.5 + 0.5 * SOURCE, image(10, 14)
    made = p.analogy(structure, style, SMALL)
    assert made.shape == structure.shape
    assert float(made.min()) >= float(style.min()) - 1e-5
    dark, light = jnp.zeros_like(SOURCE), jnp.ones_like(SOURCE)
    both = p.collage(jnp.concatenate([dark, light], axis=1), [dark, light], SMALL)
    np.testing.assert_allclose(both[:, [0, -1]], jnp.stack([dark[:, 0], light[:, 0]], 1), atol=1e-5)
    with pytest.raises(ValueError, match="one shape"):
        p.collage(SOURCE, [], SMALL)
