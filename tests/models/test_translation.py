"""pix2pix and CycleGAN: what they minimize, the pool, folders in and out."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from gen_jax.data import beside, examples_of, open_source, train_batches
from gen_jax.errors import DataError
from gen_jax.launch.cli.main import main
from gen_jax.models.translation import _kept, _Pool, _show, cyclegan_model, pix2pix_model
from gen_jax.nn.gan import PatchDiscriminator
from gen_jax.nn.translation import Translator
from gen_jax.ops import keys as rng
from gen_jax.protocols import LOCAL, Context, Weights
from gen_jax.train.engines import make_engine
from gen_jax.train.sharding import make_mesh

SHAPE = (8, 8, 1)
KEYS = rng.per_example(jax.random.key(0), 0, 8)
BATCH = {"x": jnp.tanh(rng.normal(KEYS, SHAPE)), "other": jnp.tanh(rng.normal(KEYS, SHAPE) + 1)}
DISC = PatchDiscriminator((4,), groups=0)


class Scale(nn.Module):
    """x times a number: 1 is the identity."""

    @nn.compact
    def __call__(self, x):
        return x * self.param("scale", nn.initializers.ones, ())


def context(step=0):
    return Context(jnp.int32(step), LOCAL, train=True)


def cyclegan(**options):
    return cyclegan_model(Scale(), DISC, SHAPE, batch_size=8, slots=4, **options)


def test_identities_cost_nothing_but_the_adversary():
    model = cyclegan()
    weights = Weights(*model.init(jax.random.key(0), BATCH, {}))
    loss, aux = model.losses["gen"].fn(weights, BATCH, KEYS, context())
    assert float(aux.metrics["cycle"]) == 0.0
    assert float(aux.metrics["identity"]) == 0.0
    assert float(loss) == pytest.approx(float(aux.metrics["adversarial"]))


def test_a_negative_is_forbidden_by_identity_and_free_without():
    """Both ways x -> -x cycle perfectly: only the identity loss tells them from x -> x."""
    weights = Weights(*cyclegan().init(jax.random.key(0), BATCH, {}))
    gen = jax.tree.map(lambda x: -x, weights.params["gen"])
    turned = weights._replace(params={**weights.params, "gen": gen})
    found = {
        weight: cyclegan(identity_weight=weight).losses["gen"].fn(turned, BATCH, KEYS, context())
        for weight in (0.0, 5.0)
    }
    metrics = found[5.0][1].metrics
    assert float(metrics["cycle"]) == 0.0
    assert float(metrics["identity"]) > 0.5
    difference = float(found[5.0][0] - found[0.0][0])
    assert difference == pytest.approx(5 * float(metrics["identity"]), rel=1e-5)


class TestPool:
    def play(self, steps, slots=6):
        pool = _Pool(jnp.zeros((slots, 1, 1, 1)), jnp.zeros(slots, bool))
        run = jax.jit(_show)
        for step in range(steps):
            fresh = jnp.arange(4.0).reshape(4, 1, 1, 1) + 4 * step + 1
            keys = rng.per_example(jax.random.key(step), 0, 4)
            shown, seen = run(pool, fresh, keys)
            yield pool, fresh.ravel(), shown.ravel()
            pool = _kept(pool, seen, 4)

    def test_it_fills_with_what_was_made_and_shows_half_of_it_again(self):
        again, total = 0, 0
        for pool, fresh, shown in self.play(300):
            if not pool.filled.all():
                np.testing.assert_array_equal(shown, fresh)
                continue
            old = ~jnp.isin(shown, fresh)
            assert jnp.isin(shown[old], pool.images.ravel()).all()
            again, total = again + int(old.sum()), total + 4
        assert total > 1000
        assert again / total == pytest.approx(0.5, abs=0.05)
        assert set(np.asarray(pool.images).ravel()) <= set(range(1, 1201))

    def test_a_slot_that_two_images_fall_into_stays_as_it_was(self):
        pool = _Pool(jnp.full((2, 1, 1, 1), 7.0), jnp.ones(2, bool))
        seen = {
            "counts": jnp.array([0.5, 0.25]),
            "images": jnp.array([3.0, 0.5]).reshape(2, 1, 1, 1),
        }
        kept = _kept(pool, seen, 4)
        np.testing.assert_array_equal(kept.images.ravel(), [7.0, 2.0])

    def test_engines_and_microbatches_write_the_same_slots(self):
        model, results = cyclegan(), []
        sgd = {"gen": optax.sgd(1e-2), "disc": optax.sgd(1e-2)}
        host = jax.tree.map(np.asarray, BATCH)
        for name, devices, options in (
            ("jit", 1, {}), ("shard_map", 2, {}), ("jit", 1, {"microbatches": 2}),
        ):  # fmt: skip
            mesh = make_mesh(devices=jax.devices()[:devices])
            engine = make_engine(name, model, sgd, mesh, **options)
            key, batch = engine.key(0), engine.put(host)
            state = engine.init(key, batch, {})
            step = engine.compile(state, {}, batch, key)
            for _ in range(4):
                state, _ = step(state, {}, batch, key)
            results.append(jax.device_get((state.stats, state.params)))
        for other in results[1:]:
            for a, b in zip(jax.tree.leaves(other), jax.tree.leaves(results[0]), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        assert results[0][0]["disc"]["a"].filled.any()


def test_pix2pix_sees_pairs_and_learns_the_negative():
    batch = {"x": -BATCH["x"], "source": BATCH["x"]}
    model = pix2pix_model(Scale(), DISC)
    weights = Weights(*model.init(jax.random.key(0), batch, {}))
    _, aux = model.losses["gen"].fn(weights, batch, KEYS, context())
    expected = float(jnp.mean(jnp.abs(2 * batch["x"])))
    assert float(aux.metrics["l1"]) == pytest.approx(expected, rel=1e-5)
    disc = lambda batch: model.losses["disc"].fn(weights, batch, KEYS, context())[0]  # noqa: E731
    assert float(disc(batch)) != float(disc({**batch, "source": batch["source"][::-1]}))
    with pytest.raises(ValueError, match="game"):
        pix2pix_model(Scale(), DISC, game="paired")


def test_no_example_sees_another():
    network = Translator(1, 4, halvings=1, num_blocks=1, skips=True)
    x, variables = jax.jit(network.init_with_output)(jax.random.key(0), BATCH["x"])
    assert x.shape == BATCH["x"].shape
    alone = network.apply(variables, BATCH["x"][3:4])
    np.testing.assert_allclose(alone, x[3:4], atol=1e-5)


class TestData:
    def test_the_other_kind_has_an_order_and_epochs_of_its_own(self):
        first = open_source("synthetic:8x8x1", "train", SHAPE)
        second = open_source("synthetic:8x8x1", "test", SHAPE)
        both = beside(first, second)
        stream = train_batches(both, seed=3, batch_size=64)
        batches = [next(stream) for _ in range(4)]
        whole = second.read(np.arange(second.size))["image"]
        seen = np.concatenate([batch["other"] for batch in batches[:2]])
        # 128 images in two batches: each once in an epoch, while the first kind is at a quarter.
        assert len(np.unique(seen.reshape(128, -1), axis=0)) == len(
            np.unique(whole.reshape(128, -1), axis=0)
        )
        np.testing.assert_array_equal(
            batches[0]["image"],
            first.read(examples_of(0, size=first.size, seed=3, batch_size=64))["image"],
        )
        # A run that goes on sees what it would have seen.
        later = next(train_batches(both, seed=3, batch_size=64, first_step=3))
        np.testing.assert_array_equal(later["other"], batches[3]["other"])
        assert both.fingerprint != first.fingerprint
        with pytest.raises(DataError, match="8x8x1 is required"):
            beside(first, open_source("synthetic:8x8x3", "train", (8, 8, 3)))

    def test_what_lies_on_an_image_moves_with_it(self):
        source = open_source("synthetic:8x8x1", "train", SHAPE)
        both = beside(source, open_source("synthetic:8x8x1", "test", SHAPE))
        batch = next(train_batches(both, seed=0, batch_size=64, flip=True, crop=2))
        plain = next(train_batches(both, seed=0, batch_size=64))
        np.testing.assert_array_equal(batch["source"], 255 - batch["image"])
        assert (batch["image"] != plain["image"]).any()
        assert (batch["other"] != plain["other"]).any()


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_a_folder_is_translated_picture_by_picture(tmp_path, capsys):
    work, photos, out = (tmp_path / name for name in ("w", "photos", "out"))
    assert (
        main(["train", "--config", "configs/cyclegan_emoji.py:tiny", "--workdir", str(work)]) == 0
    )
    photos.mkdir()
    for number in range(3):
        Image.new("RGB", (20, 30), (80 * number, 10, 200)).save(photos / f"p{number}.jpg")
    line = ["translate", "--workdir", str(work), "--from", str(photos), "--out", str(out)]
    assert main([*line, "--direction", "ab", "--batch_size", "2"]) == 0
    made = sorted(path.name for path in out.iterdir())
    assert made == ["p0.png", "p1.png", "p2.png"]
    with Image.open(out / "p0.png") as picture:
        assert picture.size == (8, 8)
    before = (out / "p1.png").stat().st_mtime_ns
    (out / "p2.png").unlink()
    assert main([*line, "--direction", "ab"]) == 0  # goes on
    assert (out / "p1.png").stat().st_mtime_ns == before
    assert "1 of 3 pictures" in capsys.readouterr().out
    for flags, code, words in (
        (["--direction", "up"], 2, "direction"),
        (["--out", str(photos)], 2, "another folder"),
        (["--from", str(work)], 3, "no pictures"),
    ):
        assert main([*line, *flags]) == code
        assert words in capsys.readouterr().err
    Image.new("RGB", (8, 8)).save(photos / "p0.png")
    assert main(line) == 3
    assert "same name" in capsys.readouterr().err
