"""Every family keeps the protocols. One row a family."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax.launch.build.experiment import Stage, build
from gen_jax.launch.config.files import load_config
from gen_jax.launch.config.schema import families
from gen_jax.launch.runs.restore import Saved, load_codec
from gen_jax.launch.runs.workdir import stage_places
from gen_jax.ops import keys as rng, quantization
from gen_jax.protocols import Weights
from gen_jax.train.engines import make_engine
from gen_jax.train.sharding import Rules, make_mesh
from gen_jax.train.state import init_state
from gen_jax.typing import PyTree
from tests.tiers import NIGHTLY

FAMILIES = {
    "adversarial_autoencoder": "configs/aae_mnist.py:tiny",
    "autoencoder": "configs/ae_mnist.py:tiny",
    "autoregressive": "configs/transformer_digits.py:tiny",
    "boltzmann": "configs/rbm_mnist.py:tiny",
    "classifier": "configs/classifier_mnist.py:tiny",
    "clip": "configs/clip_scenes.py:tiny",
    "diffusion": "configs/ddpm_digits.py:tiny",
    "dvae": "configs/dvae_cifar10.py:tiny",
    "embedding_prior": "configs/unclip_prior_scenes.py:tiny",
    "gan": "configs/gan_mnist.py:tiny",
    "gaussian_mixture": "configs/mixture_digits.py:tiny",
    "translation": "configs/pix2pix_emoji.py:tiny",
    "next_scale": "configs/var_mnist.py:tiny",
    "normalizing_flow": "configs/tarflow_mnist.py:tiny",
    "vae": "configs/vae_mnist.py:tiny",
    "video": "configs/video_scenes.py:tiny",
    "vqvae": "configs/vqvae2_cifar10.py:tiny",
}
BATCH_SIZE = 16
# Beside one device: engine, axes of the mesh. Each family is tried on one of them, and on all in
# the nightly tier; the toys of tests/train have every difficulty, and are tried on all.
LAYOUTS = {
    "jit on 8": ("jit", {}),
    "shard_map on 8": ("shard_map", {}),
    "pmap on 8": ("pmap", {}),
    "4x2 fsdp": ("jit", {"fsdp": 2}),
    "2x2x2 fsdp and tensor": ("jit", {"fsdp": 2, "tensor": 2}),
}


def sgd_that_remembers(rate):
    """Descend, and keep the sum of all gradients, over turns and steps, as the state."""
    return optax.GradientTransformation(
        init=lambda params: jax.tree.map(jnp.zeros_like, params),
        update=lambda grads, sums, _: (
            jax.tree.map(lambda g: -rate * g, grads),
            jax.tree.map(jnp.add, sums, grads),
        ),
    )


def test_every_family_has_a_row():
    assert set(FAMILIES) == set(families())


ONE_DEVICE = ("jit", {"devices": jax.devices()[:1]})


class Run(NamedTuple):
    grads: PyTree
    first_metrics: PyTree
    state: PyTree
    metrics: PyTree
    specs: set


def off_zero(x):
    wave = 0.05 * np.cos(np.arange(x.size, dtype=np.float32)).reshape(x.shape)
    return x + jax.device_put(wave, x.sharding)


def untrained(place, overrides=()):
    """Make the run that a config names, with the weights of its beginning."""
    own = load_config(f"configs/{place.removeprefix('runs/')}.py:tiny", overrides)
    experiment = build(own)
    image = np.random.default_rng(1).integers(0, 256, (BATCH_SIZE, *own["data"]["shape"]), np.uint8)
    batch = {"image": jnp.asarray(image), **prompts(experiment.model)}
    params, stats = jax.jit(experiment.model.init)(jax.random.key(1), batch, {})
    return Saved(own, experiment, 0, Weights(params, stats), "")


def prompts(model):
    """Make texts for a model that is told some; a few are equal."""
    if (given := model.inputs.get("prompt")) is None:
        return {}
    row = np.array([1, 3, 2, *[0] * (given.shape[0] - 3)], np.int32)
    rows = np.repeat(row[None], BATCH_SIZE, axis=0)
    rows[:, 1] += np.arange(BATCH_SIZE, dtype=np.int32) % 9
    return {"prompt": rows}


def build_over(config, overrides=()):
    """Build an experiment over untrained stages, the last of which says what texts are."""
    first, stages = None, {}
    for name, place in stage_places(config).items():
        if name == "stage1":
            first = load_codec(Path(), untrained(place))
            continue
        saved = untrained(place, overrides)
        if name == "image":  # whose last layer begins at zero, and lets no gradient through
            saved = saved._replace(weights=jax.tree.map(off_zero, saved.weights))
        stages[name] = Stage(saved.config, saved.experiment.model, saved.weights, "")
        config = {**config, "text": saved.config["text"]}
    return build(config, first, stages), config


class Built:
    def __init__(self, family):
        self.family = family
        config = load_config(FAMILIES[family], [])
        made, config = build_over(config)
        self.experiment = made._replace(frozen=jax.tree.map(jnp.asarray, made.frozen))
        image = np.random.default_rng(0).integers(
            0, 256, (BATCH_SIZE, *config["data"]["shape"]), np.uint8
        )
        self.host_batch = {"image": image, "label": np.arange(BATCH_SIZE, dtype=np.int32) % 10}
        if "source" in self.experiment.model.inputs:
            self.host_batch["source"] = 255 - image
        self.host_batch |= prompts(self.experiment.model)
        self.batch = jax.tree.map(jnp.asarray, self.host_batch)
        self.sgd = {player: sgd_that_remembers(1e-3) for player in self.experiment.optimizers}
        frozen = self.experiment.frozen
        first = jax.jit(
            lambda key, batch: init_state(self.experiment.model, self.sgd, key, batch, frozen)
        )
        self.first = jax.device_get(first(jax.random.key(0), self.batch))

    def train(self, layout, steps, **options):
        """Give the gradients of the first step, and state and metrics after the last."""
        name, axes = layout
        rules = Rules(self.experiment.tensor_dims, min_size=1)
        traces = []

        def counted(update):
            return lambda *arguments: (traces.append(1), update(*arguments))[1]

        optimizers = {
            player: sgd._replace(update=counted(sgd.update)) for player, sgd in self.sgd.items()
        }
        engine = make_engine(
            name, self.experiment.model, optimizers, make_mesh(**axes), rules, **options
        )
        frozen = engine.place(self.experiment.frozen)
        batch, key = engine.put(self.host_batch), engine.key(0)
        if NIGHTLY:
            state = engine.init(key, batch, frozen)
        else:  # one program less; that engines begin alike is seen with the toys
            shardings = jax.tree.map(lambda x: x.sharding, engine.abstract(batch, frozen))
            state = jax.device_put(self.first, shardings)
        # Off zero: behind a layer that starts at zero there would be no gradient to compare.
        state = state.replace(params=jax.tree.map(off_zero, state.params))
        step = engine.compile(state, frozen, batch, key)
        num_traces = len(traces)
        specs = {x.sharding.spec for x in jax.tree.leaves(state.params)}
        for number in range(steps):
            state, metrics = step(state, frozen, batch, key)
            if number == 0:
                grads, first_metrics = jax.device_get((state.opt_state, metrics))
        assert len(traces) == num_traces, "the step is traced and compiled once"
        assert {x.sharding.spec for x in jax.tree.leaves(state.params)} == specs
        return Run(grads, first_metrics, *jax.device_get((state, metrics)), specs)


def code_by_place(z, codebook, chunk=4096):
    """Choose codes by where a vector stands: where two are equally near, rounding would choose."""
    del chunk
    grid = z.shape[1:-1] if z.ndim > 2 else z.shape[:1]  # vectors in a row, to begin a codebook
    used = len(codebook) - 2  # two are left to revival
    codes = jnp.arange(np.prod(grid), dtype=jnp.int32).reshape(grid) % used
    return jnp.broadcast_to(codes, z.shape[:-1])


pytestmark = [pytest.mark.slow, pytest.mark.tiered]


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def built(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantization, "nearest_code", code_by_place)
        yield Built(request.param)


@pytest.fixture(scope="module")
def reference(built):
    return built.train(ONE_DEVICE, 10)


def assert_close(a, b, rtol, atol=0.0):
    """Compare the norm of each leaf's difference with the norm of the leaf."""
    others = dict(jax.tree_util.tree_flatten_with_path(b)[0])
    for path, x in jax.tree_util.tree_flatten_with_path(a)[0]:
        y = np.asarray(others[path], np.float64)
        error, norm = np.linalg.norm(np.asarray(x) - y), np.linalg.norm(y)
        assert error <= rtol * norm + atol, (jax.tree_util.keystr(path), error, norm)


def test_eight_devices_in_microbatches_train_as_one_device(built, reference):
    """Under shard_map, where a model that does not ask ``context.across`` sees its part alone."""
    # Of all pairs of a batch there is no sum over parts.
    parts = {} if built.family == "clip" else {"microbatches": 2, "unroll": False}
    run = built.train(LAYOUTS["shard_map on 8"], 10, **parts)
    assert_equal_training(run, reference)
    if built.family == "autoregressive":  # the cheapest with heads and channels to split
        run = built.train(LAYOUTS["2x2x2 fsdp and tensor"], 10)
        assert_equal_training(run, reference)
        assert {axis for spec in run.specs for axis in spec} >= {"fsdp", "tensor"}


@pytest.mark.nightly
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_engine_on_any_mesh_trains_as_one_device(built, reference, layout):
    if layout == "4x2 fsdp" and built.family != "diffusion":
        pytest.skip("fsdp by itself is tried with diffusion, and beside tensor with all families")
    run = built.train(LAYOUTS[layout], 10)
    assert_equal_training(run, reference)
    for axis in ("fsdp", "tensor"):
        if (axis, built.family) == ("tensor", "gaussian_mixture"):
            continue  # it has neither heads nor channels
        assert any(axis in spec for spec in run.specs) == (axis in LAYOUTS[layout][1])


def assert_equal_training(run, reference):
    """Compare gradients leaf by leaf: Adam, or parameters alone, would hide one 8 times too big."""
    assert_close(run.grads, reference.grads, rtol=1e-5, atol=1e-6)
    assert_close(run.state.params, reference.state.params, rtol=1e-5, atol=1e-6)
    assert_close(run.state.stats, reference.state.stats, rtol=1e-5)
    for name, value in run.first_metrics.items():
        assert value == pytest.approx(reference.first_metrics[name], rel=1e-5, abs=1e-6), name
    for name, value in run.metrics.items():
        assert value == pytest.approx(reference.metrics[name], rel=1e-4, abs=1e-6), name


def test_nearly_every_leaf_has_a_gradient_to_compare(reference):
    norms = [np.linalg.norm(x) for x in jax.tree.leaves(reference.grads)]
    # Some have none: a bias of attention's keys changes no softmax.
    assert np.mean(np.array(norms) > 1e-5) > 0.9


@pytest.mark.nightly
def test_microbatches_train_as_the_big_batch(built, reference):
    if built.family == "clip":
        pytest.skip("its loss is of all pairs of a batch")
    run = built.train(ONE_DEVICE, 10, microbatches=4)
    assert_close(run.grads, reference.grads, rtol=1e-5, atol=1e-6)
    assert_close(run.state.params, reference.state.params, rtol=1e-5, atol=1e-6)


def test_each_turn_moves_its_own_player(built):
    model = built.experiment.model
    frozen = built.experiment.frozen
    params, _ = jax.eval_shape(model.init, jax.random.key(0), built.batch, frozen)
    assert set(params) == set(built.experiment.optimizers)
    assert {loss.player for loss in model.losses.values()} == set(params)


def test_samples_belong_to_their_keys(built):
    model = built.experiment.model
    if model.sampler is None:
        assert model.predict or model.matching, "what does not generate classifies, or matches"
        return
    told = {
        name: jnp.asarray(built.batch[name])[:4]
        for name, given in model.inputs.items()
        if given.needed
    }
    params, stats = jax.tree.map(jnp.asarray, (built.first.params, built.first.stats))
    keys = rng.per_example(jax.random.key(1), 0, 4)
    weights = Weights(params, stats, built.experiment.frozen)

    @jax.jit
    def sample(keys, told):
        return model.sampler.draw(weights, keys, told).astype(int)

    def rows(chosen):
        return keys[chosen], {name: array[chosen] for name, array in told.items()}

    whole, turned = sample(keys, told), slice(None, None, -1)
    np.testing.assert_allclose(sample(*rows(turned)), whole[turned], atol=1)
    if NIGHTLY:  # another shape is another program
        np.testing.assert_allclose(sample(*rows(slice(2, None))), whole[2:], atol=1)


def test_sample_options_have_defaults_that_are_accepted(built):
    sampler = built.experiment.model.sampler
    if sampler is None:
        return
    for name, option in sampler.options.items():
        assert option.default is None or option.ok(option.default), name
        assert option.help
        assert option.accepts or option.kind is bool
