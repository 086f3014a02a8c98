import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import diffusion as process
from gen_jax.codecs import rgb, with_codec
from gen_jax.models.diffusion import diffusion_model
from gen_jax.ops import keys as rng
from gen_jax.protocols import LOCAL, Context, Density, LogProb, Weights
from tests.diffusion.oracles import SCHEDULES
from tests.models.small import Small

pytestmark = pytest.mark.slow

SHAPE = (8, 8, 1)
KEYS = rng.per_example(jax.random.key(0), 0, 4)
FROZEN = {"codec": {}}
IMAGE = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, *SHAPE)), jnp.uint8)


def context(train=True):
    return Context(jnp.int32(0), LOCAL, train)


def make(num_classes=None, **options):
    return diffusion_model(
        Small(num_classes=num_classes),
        process.linear_beta(20),
        process.epsilon,
        shape=SHAPE,
        num_steps=20,
        num_classes=num_classes,
        **options,
    )


def loss_of(model, params, stats, batch, keys=KEYS, train=False):
    """Give a loss and what it observed, as one program."""
    fn = model.losses["diffusion"].fn
    run = jax.jit(lambda *rest: fn(*rest, context(train)))
    return run(Weights(params, stats), batch, keys)


def draw(model, params, stats, frozen=None, cond=None, noise=None, **options):
    """Draw samples, as one program; options are no arguments of it."""

    def sample(weights, cond, noise):
        given = {} if noise is None else {"noise": noise}
        return model.sampler.draw(weights, KEYS, cond, **given, **options)

    weights = Weights(params, stats, {} if frozen is None else frozen)
    return jax.jit(sample)(weights, {} if cond is None else cond, noise)


@pytest.fixture(scope="module")
def trained():
    """A model on images, with parameters moved off zero."""
    model = with_codec(make(), rgb())
    params, stats = jax.jit(model.init)(jax.random.key(0), {"image": IMAGE}, {})
    params = jax.tree.map(lambda x: x + 0.02, params)
    return model, params, stats


def test_the_loss_starts_at_the_variance_of_the_noise():
    """A network that gives zero has E|eps|^2 = 1 a dimension."""
    model = make()
    params, stats = jax.jit(model.init)(jax.random.key(0), {"x": jnp.zeros((4, *SHAPE))}, {})
    keys = rng.per_example(jax.random.key(1), 0, 64)
    batch = {"x": jnp.zeros((64, *SHAPE))}
    value, _ = loss_of(model, params, stats, batch, keys, train=True)
    assert float(value) == pytest.approx(1.0, abs=4 * np.sqrt(2 / 64**2))


def test_given_noise_is_used_and_padding_counts_nothing(trained):
    model, params, stats = trained
    fn = jax.jit(
        lambda b: model.losses["diffusion"].fn(Weights(params, stats), b, KEYS, context(False))[0]
    )
    eps = jnp.ones((4, *SHAPE))
    assert float(fn({"image": IMAGE, "eps": eps})) != float(fn({"image": IMAGE, "eps": -eps}))
    weight = jnp.array([1.0, 1.0, 0.0, 0.0])
    other = IMAGE.at[2:].set(0)
    a, b = (fn({"image": image, "weight": weight}) for image in (IMAGE, other))
    assert float(a) == float(b)


def test_images_and_their_codes_are_the_same_batch(trained):
    model, params, stats = trained
    fn = model.losses["diffusion"].fn
    x = rgb().encode({}, IMAGE, KEYS)
    # Not as one program each, which could be rounded in two ways.
    a, _ = fn(Weights(params, stats), {"image": IMAGE}, KEYS, context(False))
    b, _ = fn(Weights(params, stats), {"x": x}, KEYS, context(False))
    assert float(a) == float(b)


def test_samples_are_images_and_belong_to_their_keys(trained):
    model, params, stats = trained
    sample = jax.jit(
        lambda keys: model.sampler.draw(Weights(params, stats, FROZEN), keys, {}, steps=5)
    )
    images = sample(KEYS)
    assert images.dtype == jnp.uint8
    assert images.shape == (4, *SHAPE)
    np.testing.assert_allclose(sample(KEYS[2:]).astype(int), images[2:].astype(int), atol=1)


def test_default_steps_and_solvers(trained):
    model, params, stats = trained
    options = model.sampler.options
    assert options["steps"].ok(20)
    assert not options["steps"].ok(21)
    results = [
        draw(model, params, stats, FROZEN, **chosen)
        for chosen in ({}, {"solver": "ddpm"}, {"solver": "ddpm", "variance": "beta_tilde"})
    ]
    for a, b in ((0, 1), (1, 2)):
        assert (results[a] != results[b]).any()


def test_clipping_bounds_x_0():
    sharp = make(clip=True)
    params, stats = jax.jit(sharp.init)(jax.random.key(0), {"x": jnp.zeros((4, *SHAPE))}, {})
    params = jax.tree.map(lambda x: x + 0.3, params)
    bounded = draw(sharp, params, stats, steps=5)
    free = draw(make(clip=False), params, stats, steps=5)
    assert float(jnp.abs(bounded).max()) <= 1.0
    assert float(jnp.abs(free).max()) > 1.0


def test_conditions_reach_the_network():
    model = make(num_classes=3)
    batch = {"x": jnp.zeros((4, *SHAPE)), "label": jnp.array([0, 1, 2, 0])}
    params, stats = jax.jit(model.init)(jax.random.key(0), batch, {})
    params = jax.tree.map(lambda x: x + 0.05 * jnp.cos(jnp.arange(x.size).reshape(x.shape)), params)
    sample = jax.jit(
        lambda cond: model.sampler.draw(Weights(params, stats), KEYS, {"label": cond}, steps=3)
    )
    a, b = sample(jnp.array([0, 0, 0, 0])), sample(jnp.array([0, 0, 2, 2]))
    np.testing.assert_allclose(a[:2], b[:2], atol=1e-5)
    assert float(jnp.abs(a[2:] - b[2:]).max()) > 1e-4


def test_rgb_is_exact_on_every_gray_level_and_clips():
    codec = rgb()
    image = jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1)
    x = codec.encode({}, image, KEYS[:1])
    assert (float(x.min()), float(x.max())) == (-1.0, 1.0)
    np.testing.assert_array_equal(codec.decode({}, x), image)
    np.testing.assert_array_equal(codec.decode({}, jnp.array([[-9.0, 9.0]])), [[0, 255]])


def with_density(nats):
    """Give a model whose density is known."""
    fixed = lambda *_: LogProb(nats, jnp.zeros_like(nats))  # noqa: E731
    return make()._replace(density=Density(fixed, "exact"))


def test_densities_change_by_the_codec_s_scale():
    """A uniform density over [-1, 1] is one over 256 gray levels, 255 units wide."""
    model = with_codec(with_density(jnp.full(4, 64 * np.log(0.5))), rgb())
    nats = model.density.log_prob(Weights({}), {"image": IMAGE}, KEYS).nats
    np.testing.assert_allclose(nats, -64 * np.log(255), rtol=1e-6)


def test_a_codec_without_density_leaves_one_over_x():
    model = with_density(jnp.array([1.5]))
    batch = {"x": jnp.zeros((1, 8, 8, 1))}
    keys = rng.per_example(jax.random.key(0), 0, 1)
    for codec, nats in ((rgb()._replace(log_scale=None), 1.5), (rgb(), 1.5 - 64 * np.log(127.5))):
        wrapped = with_codec(model, codec)
        estimate = wrapped.density.log_prob(Weights({}), batch, keys)
        assert float(estimate.nats[0]) == pytest.approx(nats, rel=1e-6)
        assert wrapped.density.over_pixels == (codec.log_scale is not None)


class Half(nn.Module):
    """A network with variances, without them."""

    network: nn.Module

    @nn.compact
    def __call__(self, *arguments):
        return self.network(*arguments)[..., :1]


class Seeing(nn.Module):
    """A convolution of all that is beside x, and of a vector if there is one."""

    pooled: bool = False

    @nn.compact
    def __call__(self, x, t, label, keys, context, pooled=None, sizes=None):
        h = nn.Conv(1, (3, 3), name="conv")(x)
        if self.pooled:
            both = jnp.concatenate([pooled, sizes / 8], axis=-1)
            h = h * (1 + nn.Dense(1, name="vector")(both)[:, None, None])
        return h * t[:, None, None, None]


class TestOptions:
    """What the toolbox adds: each piece by what it must do, on tiny networks."""

    def begin(self, model, **batch):
        batch = {"x": rgb().encode({}, IMAGE, KEYS), **batch}
        params, stats = jax.jit(model.init)(jax.random.key(0), batch, {})
        wave = lambda x: x + 0.03 * jnp.cos(jnp.arange(x.size, dtype=jnp.float32)).reshape(x.shape)  # noqa: E731
        return jax.tree.map(wave, params), stats, batch

    def flow(self, network=None, **options):
        network = Small() if network is None else network
        schedule = process.rectified_flow()
        return diffusion_model(network, schedule, process.velocity, shape=SHAPE, **options)

    def test_a_flow_trains_and_samples_with_every_solver_and_grid(self):
        model = self.flow()
        params, stats, batch = self.begin(model)
        fn = model.losses["diffusion"].fn
        value, grads = jax.jit(
            jax.value_and_grad(lambda p: fn(Weights(p, stats), batch, KEYS, context())[0])
        )(params)
        assert np.isfinite(value)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))
        for solver in ("ddim", "ddpm", "euler", "euler_ancestral", "heun", "dpmpp_2m"):
            x = draw(model, params, stats, solver=solver, steps=3)
            assert np.isfinite(x).all(), solver
        for grid in ("uniform", "quadratic", "karras"):
            x = draw(model, params, stats, solver="heun", grid=grid, steps=3, churn=1.0)
            assert np.isfinite(x).all(), grid

    def test_the_hybrid_loss_is_l_simple_and_a_little_of_the_bound(self):
        schedule = process.cosine(20)
        options = {"shape": SHAPE, "num_steps": 20, "bin_width": 2 / 255}
        network = Small(out_channels=2)
        hybrid, vlb = (
            diffusion_model(
                network,
                schedule,
                process.epsilon,
                learned_variance=True,
                objective=objective,
                **options,
            )
            for objective in ("hybrid", "vlb")
        )
        params, stats, batch = self.begin(hybrid)
        values = {}
        for name, model in (("hybrid", hybrid), ("vlb", vlb)):
            value, aux = loss_of(model, params, stats, batch)
            values[name] = float(value)
        assert values["vlb"] == pytest.approx(float(aux.metrics["vlb"]), rel=1e-5)
        error = float(aux.metrics["eps_error"])
        assert values["hybrid"] == pytest.approx(error + 1e-3 * values["vlb"], rel=1e-5)
        images = draw(hybrid, params, stats, solver="ddpm", steps=5)
        assert np.isfinite(images).all()
        assert hybrid.sampler.options["variance"].default == "learned"

    def test_times_beside_the_first_step_by_rounding_are_the_first_step(self):
        """Not a step to nearly 0, whose variance is nearly 0 and its bound nearly infinite."""
        network, values = Small(out_channels=2), []
        for t in (np.float32(1 / 20), np.nextafter(np.float32(1 / 20), np.float32(1))):
            model = diffusion_model(
                network,
                process.cosine(20),
                process.epsilon,
                shape=SHAPE,
                num_steps=20,
                learned_variance=True,
                objective="vlb",
                bin_width=2 / 255,
                time_sampler=lambda keys: jnp.full(len(keys), t),
            )
            params, stats, batch = self.begin(model)
            values.append(float(loss_of(model, params, stats, batch)[0]))
        assert values[1] == pytest.approx(values[0], rel=1e-3)

    def test_the_hybrid_loss_has_the_error_of_its_target(self):
        """L_simple of the target, whatever that is; the bound has its small share."""
        network, errors = Small(out_channels=2), {}
        options = {"shape": SHAPE, "num_steps": 20}
        for kind in (process.epsilon, process.x_0, process.v):
            hybrid = diffusion_model(
                network,
                process.cosine(20),
                kind,
                learned_variance=True,
                objective="hybrid",
                bin_width=2 / 255,
                **options,
            )
            params, stats, batch = self.begin(hybrid)
            value, aux = loss_of(hybrid, params, stats, batch)
            simple = diffusion_model(Half(network), process.cosine(20), kind, **options)
            inner = {"net": {"network": params["net"]}}
            truth, _ = loss_of(simple, inner, {}, batch)
            errors[kind] = float(value) - 1e-3 * float(aux.metrics["vlb"]) - float(truth)
        np.testing.assert_allclose(list(errors.values()), 0, atol=1e-4)

    @pytest.mark.parametrize("name", ["linear", "flow", "edm"])
    def test_the_bound_of_gray_levels_is_near_their_entropy(self, name):
        """Of N(0, 0.25^2) in gray levels the entropy is known, and the denoiser too."""
        schedule, std, width = SCHEDULES[name], 0.25, 2 / 255

        class Truth(nn.Module):
            @nn.compact
            def __call__(self, x, t, label=None, keys=None, context=None):
                self.param("unused", nn.initializers.zeros, ())
                alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
                return alpha * std**2 * x / (alpha**2 * std**2 + sigma**2)

        model = diffusion_model(
            Truth(),
            schedule,
            process.x_0,
            shape=(8,),
            num_steps=1000 if name == "linear" else None,
            clip=False,
            bin_width=width,
        )
        keys = rng.per_example(jax.random.key(1), 0, 128)
        x_0 = jnp.round(std * rng.normal(rng.fold_in(keys, 7), (8,)) / width) * width
        params = {"net": {"unused": jnp.zeros(())}}
        found = jax.jit(lambda x: model.density.log_prob(Weights(params), {"x": x}, keys).nats)(x_0)
        bits = -np.asarray(found) / (8 * np.log(2)) - np.log2(width)
        entropy = np.log2(std / width * np.sqrt(2 * np.pi * np.e))
        noise = 4 * bits.std() / np.sqrt(len(bits))
        assert entropy - noise < bits.mean() < entropy + 0.1 + noise

    def test_importance_keeps_a_history_in_the_statistics(self):
        model = diffusion_model(
            Small(out_channels=2),
            process.cosine(4),
            process.epsilon,
            shape=SHAPE,
            num_steps=4,
            learned_variance=True,
            objective="vlb",
            importance_batch=4,
        )
        params, stats, batch = self.begin(model)

        @jax.jit
        def step(stats, keys):
            _, aux = model.losses["diffusion"].fn(Weights(params, stats), batch, keys, context())
            return model.update_stats(
                Weights({}, stats), {"net": aux.observed}, jax.random.key(0), jnp.int32(0)
            )[0]

        for number in range(40):
            stats = step(stats, rng.fold_in(KEYS, number))
        assert float(stats["net"].seen.sum()) == 160
        assert (np.asarray(stats["net"].second_moment) > 0).all()
        # Now by importance: the estimate of the same mean, with other times.
        many = rng.per_example(jax.random.key(3), 0, 512)
        wide = {"x": jnp.tile(batch["x"], (128, 1, 1, 1))}
        fn = jax.jit(
            lambda stats: model.losses["diffusion"].fn(
                Weights(params, stats), wide, many, context()
            )[0]
        )
        by_importance = float(fn(stats))
        uniform = {"net": stats["net"]._replace(seen=jnp.zeros(4))}
        assert by_importance == pytest.approx(float(fn(uniform)), rel=0.2)

    def test_paired_noise_is_a_permutation_of_the_batch_s(self):
        seen = {}

        class Spy(nn.Module):
            @nn.compact
            def __call__(self, x, t, label=None, keys=None, context=None):
                seen["x"], seen["t"] = x, t
                return x * self.param("scale", nn.initializers.zeros, ())

        noises = []
        for pairing in (False, True):
            model = self.flow(Spy(), pairing=pairing)
            params, stats, batch = self.begin(model)
            model.losses["diffusion"].fn(Weights(params, stats), batch, KEYS, context())
            t = seen["t"][:, None, None, None]
            noises.append(np.asarray((seen["x"] - (1 - t) * batch["x"]) / t))
        cost = [np.sum((np.asarray(batch["x"]) - noise) ** 2) for noise in noises]
        assert cost[1] <= cost[0]
        order = [int(np.argmin(np.abs(noises[0] - noise).sum((1, 2, 3)))) for noise in noises[1]]
        assert sorted(order) == [0, 1, 2, 3]
        np.testing.assert_allclose(noises[0][order], noises[1], atol=2e-3)

    def test_paired_noise_leaves_the_probability_flow_alone(self):
        """-eps / sigma is no score, where eps depends on the data."""
        model = self.flow(Small(), pairing=True)
        for chosen, name in (
            ({"solver": "ddpm"}, "solver"),
            ({"solver": "euler_ancestral"}, "solver"),
            ({"eta": 0.5}, "eta"),
            ({"solver": "heun", "churn": 1.0}, "churn"),
            ({"classifier_scale": 1.0}, "classifier"),
        ):
            assert "paired with its data" in model.sampler.faults(chosen, ())[name]
            with pytest.raises(ValueError, match="paired with its data"):
                model.sampler.draw(Weights({}), KEYS, {}, **chosen)
        assert not model.sampler.faults({"solver": "heun", "eta": 0.0} | {"solver": "ddim"}, ())
        assert model.density.options["likelihood"].default == "flow"
        assert "paired" in model.density.faults({"likelihood": "bound"}, ())["likelihood"]
        assert self.flow(Small()).density.options["likelihood"].default == "bound"
        assert model.density.kind == "estimate"

    def test_guidance_of_1_is_the_condition_and_0_is_none(self):
        model = self.flow(Small(num_classes=4), num_classes=3, class_dropout=0.5)
        label = jnp.array([0, 1, 2, 0])
        params, stats, _ = self.begin(model, label=label)
        run = jax.jit(
            lambda cond, w: model.sampler.draw(
                Weights(params, stats), KEYS, {"label": cond}, guidance=w, steps=3
            )
        )
        plain = jax.jit(
            lambda cond: model.sampler.draw(Weights(params, stats), KEYS, {"label": cond}, steps=3)
        )
        np.testing.assert_allclose(run(label, 1.0), plain(label), atol=1e-5)
        np.testing.assert_allclose(run(label, 0.0), plain(jnp.full(4, 3)), atol=1e-5)
        np.testing.assert_allclose(run(label, 0.0), run(label[::-1], 0.0), atol=1e-5)
        assert float(jnp.abs(run(label, 3.0) - plain(label)).max()) > 1e-3

    def test_one_program_for_every_strength(self):
        model = self.flow(Small(num_classes=4), num_classes=3, class_dropout=0.5)
        label = jnp.array([0, 1, 2, 0])
        params, stats, _ = self.begin(model, label=label)
        traces = []

        def sample(keys, **options):
            traces.append(1)
            return model.sampler.draw(
                Weights(params, stats), keys, {"label": label}, solver="ddim", steps=2, **options
            )

        run = jax.jit(sample)
        for number in (0.1, 0.5, 0.9):
            run(
                rng.fold_in(KEYS, int(10 * number)),
                eta=number,
                guidance=4 * number,
                guidance_from=number / 2,
                guidance_to=0.95,
                quantile=number,
            )
        assert len(traces) == 1

    def test_dropped_conditions_are_those_of_no_label(self):
        seen = []

        class Spy(nn.Module):
            @nn.compact
            def __call__(self, x, t, label=None, keys=None, context=None):
                seen.append((label, context))
                return x * self.param("scale", nn.initializers.zeros, ())

        keys = rng.per_example(jax.random.key(0), 0, 400)
        batch = {
            "x": jnp.zeros((400, *SHAPE)),
            "label": jnp.arange(400) % 3,
            "context": jnp.ones((400, 2, 5)),
        }
        model = self.flow(Spy(), num_classes=3, class_dropout=0.3, context_dim=5)
        params, stats = model.init(jax.random.key(0), batch, {})
        for train in (True, False):
            model.losses["diffusion"].fn(Weights(params, stats), batch, keys, context(train))
        label, sequence = seen[-2]
        dropped = np.asarray(label) == 3
        assert dropped.mean() == pytest.approx(0.3, abs=0.08)
        np.testing.assert_array_equal(np.asarray(sequence).max((1, 2)) == 0, dropped)
        np.testing.assert_array_equal(np.asarray(label)[~dropped], (np.arange(400) % 3)[~dropped])
        np.testing.assert_array_equal(seen[-1][0], batch["label"])

    def test_a_smaller_image_is_seen_beside_x(self):
        model = self.flow(low_res_factor=2)
        params, stats, batch = self.begin(model)
        assert params["net"]["conv_in"]["kernel"].shape[2] == 2
        value, _ = loss_of(model, params, stats, batch)
        small = batch["x"].reshape(4, 4, 2, 4, 2, 1).mean((2, 4))
        given, _ = loss_of(model, params, stats, {**batch, "low_res": small})
        assert float(value) == pytest.approx(float(given), rel=1e-6)
        a, b = (
            draw(model, params, stats, cond={"low_res": x}, steps=2)
            for x in (small, small.at[0].add(1.0))
        )
        assert float(jnp.abs(a[0] - b[0]).max()) > 1e-4
        np.testing.assert_allclose(a[1:], b[1:], atol=1e-5)

    def test_a_picture_with_a_hole_is_seen_beside_x_and_kept(self):
        model = with_codec(
            diffusion_model(
                Seeing(),
                process.linear_beta(20),
                process.epsilon,
                shape=SHAPE,
                num_steps=20,
                inpaints=True,
            ),
            rgb(),
        )
        assert {name for name, given in model.inputs.items() if given.needed} == {"masked", "mask"}
        mask = jnp.ones((4, 8, 8, 1)).at[:, 2:5].set(0.0)
        told = {"masked": IMAGE, "mask": mask}
        params, stats = model.init(jax.random.key(0), {"image": IMAGE, **told}, FROZEN)
        # x, one channel of where the hole is, and the picture.
        assert params["net"]["conv"]["kernel"].shape[2] == 3
        params = jax.tree.map(lambda x: x + 0.1, params)
        run = jax.jit(lambda told: draw(model, params, stats, FROZEN, told, steps=2))
        made = run(told)
        np.testing.assert_array_equal(made[:, 5:], IMAGE[:, 5:])
        hidden = {**told, "masked": jnp.where(mask > 0, IMAGE, 255 - IMAGE)}
        np.testing.assert_array_equal(run(hidden), made)  # what is in the hole shows nowhere
        nearby = {**told, "masked": jnp.where(mask > 0, 255 - IMAGE, IMAGE)}
        assert (run(nearby)[:, 2:5] != made[:, 2:5]).any()
        value, _ = loss_of(model, params, FROZEN, {"image": IMAGE, **told})
        assert np.isfinite(value)

    def test_a_source_and_a_text_s_vector_are_seen_and_left_out(self):
        model = diffusion_model(
            Seeing(pooled=True),
            process.linear_beta(20),
            process.epsilon,
            shape=SHAPE,
            num_steps=20,
            pooled_dim=3,
            sizes=(8, 8, 0, 0, 8, 8),
            source_scale=2.0,
            class_dropout=0.5,
        )
        x, vector = jnp.zeros((4, *SHAPE)), jnp.ones((4, 3))
        told = {"source": jnp.full((4, *SHAPE), 0.3), "pooled": vector}
        params, stats = model.init(jax.random.key(0), {"x": x, **told}, {})
        params = jax.tree.map(lambda x: x + 0.1, params)
        run = jax.jit(lambda told, scale: draw(model, params, stats, None, told, guidance=scale))
        made = run(told, 1.0)
        whole = {**told, "sizes": jnp.tile(jnp.array([8.0, 8, 0, 0, 8, 8]), (4, 1))}
        np.testing.assert_allclose(run(whole, 1.0), made, atol=1e-6)
        for change in ({"sizes": whole["sizes"] / 2}, {"source": -told["source"]}):
            assert float(jnp.abs(run({**whole, **change}, 1.0) - made).max()) > 1e-4, change
        # Without guidance's condition the vector is zero, and the source stays.
        without = run({**told, "pooled": 0 * vector}, 1.0)
        np.testing.assert_allclose(run(told, 0.0), without, atol=1e-5)
        assert float(jnp.abs(without - made).max()) > 1e-4

    def test_a_trace_holds_every_time_of_every_sample(self, trained):
        model, params, stats = trained
        film = draw(model, params, stats, FROZEN, steps=4, trace=True)
        assert film.shape == (4, 5, *SHAPE)
        assert film.dtype == jnp.uint8
        last = draw(model, params, stats, FROZEN, steps=4)
        np.testing.assert_allclose(film[:, -1].astype(int), last.astype(int), atol=1)

    def test_given_noise_begins_and_inversion_finds_it(self):
        schedule = process.linear_beta(100)
        model = diffusion_model(
            Small(), schedule, process.epsilon, shape=SHAPE, num_steps=100, clip=False
        )
        params, stats, _ = self.begin(model)
        noise = model.latents.prior(KEYS)
        plain = draw(model, params, stats, steps=50)
        given = draw(model, params, stats, steps=50, noise=noise)
        np.testing.assert_allclose(plain, given, atol=1e-5)
        invert = jax.jit(
            lambda x: model.latents.encode(Weights(params, stats), x, {}, steps=100, solver="heun")
        )
        found = invert(plain)
        assert np.corrcoef(np.ravel(found), np.ravel(noise))[0, 1] > 0.98
        options = {"steps": 100, "solver": "heun", "invert": True}
        back = draw(model, params, stats, cond={"image": plain}, **options)
        np.testing.assert_allclose(back, plain, atol=0.02 * float(jnp.abs(plain).max()) + 0.02)

    def test_known_pixels_are_kept(self, trained):
        model, params, stats = trained
        mask = jnp.zeros((4, 8, 8, 1)).at[:, :, :5].set(1.0)
        given = {"image": IMAGE, "mask": mask}
        for options in ({}, {"resamples": 2, "jump": 2}, {"strength": 0.5}):
            images = draw(model, params, stats, FROZEN, steps=4, cond=given, **options)
            np.testing.assert_array_equal(images[:, :, :5], IMAGE[:, :, :5])

    def test_strength_is_traced_and_little_of_it_changes_little(self, trained):
        model, params, stats = trained
        traces = []

        def sample(strength):
            traces.append(1)
            given = {"image": IMAGE}
            return model.sampler.draw(
                Weights(params, stats, FROZEN), KEYS, given, steps=3, strength=strength
            )

        run = jax.jit(sample)
        change = [np.abs(run(s).astype(int) - IMAGE.astype(int)).mean() for s in (0.01, 0.5, 1.0)]
        assert change[0] < change[1] < change[2]
        assert len(traces) == 1

    def test_a_classifier_s_gradient_guides(self):
        model = self.flow()
        params, stats, _ = self.begin(model)

        def brightness(weights, x, t, label):  # "bright" is label 1
            return weights * jnp.mean(x, axis=(1, 2, 3)) * (2 * label - 1)

        frozen = {"classifier": jnp.float32(30.0)}
        results = [
            draw(
                model,
                params,
                stats,
                frozen,
                steps=5,
                classifier=brightness,
                classifier_scale=2.0,
                cond={"label": jnp.full(4, label)},
            ).mean()
            for label in (0, 1)
        ]
        assert results[1] > results[0] + 0.1

    def test_the_bound_is_over_pixels_and_has_terms(self, trained):
        model, params, stats = trained
        keys = KEYS
        made = jax.jit(
            lambda images: model.density.log_prob(
                Weights(params, stats, FROZEN), {"image": images}, keys
            )
        )(IMAGE)
        # This model knows its data's gray levels, through the codec, as a bin of 1.
        bare = make(bin_width=2 / 255)
        x = rgb().encode({}, IMAGE, keys)
        direct = jax.jit(lambda x: bare.density.log_prob(Weights(params, stats), {"x": x}, keys))(x)
        total = direct.terms["prior"] + direct.terms["steps"].sum(1)
        wrapped = with_codec(bare, rgb())
        nats = jax.jit(
            lambda images: (
                wrapped.density.log_prob(
                    Weights(params, stats, FROZEN), {"image": images}, keys
                ).nats
            )
        )(IMAGE)
        np.testing.assert_allclose(-nats, total, rtol=1e-4)
        assert direct.terms["steps"].shape == (4, 20)
        assert np.isnan(made.stderr).all()

    def test_the_flow_s_likelihood_is_near_the_bound_for_a_gaussian(self):
        """A network that knows that data is N(0, 1): both say so, in their own way."""

        class Known(nn.Module):
            @nn.compact
            def __call__(self, x, t, label=None, keys=None, context=None):
                self.param("unused", nn.initializers.zeros, ())
                return jnp.zeros_like(x)  # v of unit data is zero in the mean

        model = diffusion_model(
            Known(),
            process.cosine(200),
            process.v,
            shape=(4, 4, 1),
            num_steps=200,
            clip=False,
            bin_width=2 / 255,
        )
        x = rng.normal(rng.per_example(jax.random.key(9), 0, 256), (4, 4, 1))
        keys = rng.per_example(jax.random.key(1), 0, 256)
        params = {"net": {"unused": jnp.zeros(())}}
        truth = 16 * 0.5 * np.log(2 * np.pi * np.e)
        options = {"likelihood": "flow", "probes": 2}
        flow = jax.jit(
            lambda x: model.density.log_prob(Weights(params), {"x": x}, keys, **options)
        )(x)
        error = 4 * float(flow.nats.std()) / 16
        assert -float(flow.nats.mean()) == pytest.approx(truth, abs=error + 0.1)
        assert np.isfinite(flow.stderr).all()

    def test_the_flow_s_likelihood_of_an_example_is_its_own(self):
        """Whatever else is in the batch: its label, its sequence and its smaller image too."""
        network = Small(num_classes=3, context_dim=4)
        model = self.flow(network, num_classes=3, context_dim=4, low_res_factor=2)
        extra = {"label": jnp.array([0, 1, 2, 0]), "context": rng.normal(KEYS, (2, 4))}
        params, stats, batch = self.begin(model, **extra)

        @jax.jit
        def nats(batch, keys):
            options = {"likelihood": "flow", "tolerance": 1e-4}
            return model.density.log_prob(Weights(params, stats), batch, keys, **options).nats

        together = nats(batch, KEYS)
        alone = nats(jax.tree.map(lambda x: x[1:2], batch), KEYS[1:2])
        # Steps of the solver may be accepted here and not there, by rounding.
        np.testing.assert_allclose(together[1:2], alone, atol=0.5)

    def test_one_step_is_enough_for_a_bound(self, trained):
        _, params, stats = trained
        model = make(bin_width=2 / 255)
        batch = {"x": rgb().encode({}, IMAGE, KEYS)}
        made = jax.jit(
            lambda batch: model.density.log_prob(
                Weights(params, stats), batch, KEYS, likelihood_steps=1
            )
        )(batch)
        assert np.isfinite(made.nats).all()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"objective": "hybrid"}, "learned_variance is required"),
            ({"learned_variance": True}, "never trains it"),
            ({"objective": "mse"}, "simple, hybrid, vlb"),
            ({"class_dropout": 0.1}, "class_dropout: got 0.1; 0 is required"),
            ({"objective": "vlb", "weighting": process.p2()}, "weighs by itself"),
            (
                {"importance_batch": 4, "time_sampler": process.discrete(20)},
                "the losses choose the times",
            ),
        ],
    )
    def test_what_does_not_go_together_is_refused(self, options, message):
        from jaxtyping import TypeCheckError

        with pytest.raises((ValueError, TypeCheckError)) as error:
            make(**options)
        if error.type is ValueError:
            assert error.match(message)

    @pytest.mark.parametrize(
        ("given", "options", "message"),
        [
            ({}, {"strength": 0.5}, "strength: has a meaning only with `image`"),
            ({}, {"invert": True}, "invert: has a meaning only"),
            ({"mask": jnp.ones((4, 8, 8, 1))}, {}, "mask: has a meaning only"),
            ({"image": jnp.zeros((4, 8, 8, 1))}, {"invert": True, "strength": 0.5}, "goes neither"),
            (
                {"image": jnp.zeros((4, 8, 8, 1))},
                {"invert": True, "eta": 0.5},
                "adds noise of its own",
            ),
            (
                {"image": jnp.zeros((4, 8, 8, 1))},
                {"invert": True, "quantile": 0.9},
                "quantile: does not go with a way",
            ),
            ({}, {"guidance": 2.0}, "guidance: a model trained with class_dropout"),
        ],
    )
    def test_givens_that_mean_nothing_are_refused(self, given, options, message):
        model = make()
        with pytest.raises(ValueError, match=message):
            model.sampler.draw(Weights({}), KEYS, given, **options)

    def test_a_way_to_noise_must_be_deterministic(self):
        with pytest.raises(ValueError, match="a deterministic solver is required"):
            make().latents.encode(Weights({}), jnp.zeros((4, 8, 8, 1)), {}, solver="ddpm")

    def test_a_model_without_classes_ignores_labels(self):
        model = self.flow()
        params, stats, _ = self.begin(model)
        plain = draw(model, params, stats, steps=2)
        np.testing.assert_array_equal(
            draw(model, params, stats, cond={"label": jnp.arange(4)}, steps=2), plain
        )

    def test_where_the_variance_explodes_most_times_are_of_little_noise(self):
        """Uniform ones would be: one in a hundred below the deviation of the data."""
        schedule, seen = process.variance_exploding(), []

        class Spy(nn.Module):
            @nn.compact
            def __call__(self, x, t, label=None, keys=None, context=None):
                seen.append(np.exp(4 * np.asarray(t)))  # the noise level
                return x

        model = diffusion_model(Spy(), schedule, process.edm(), shape=SHAPE)
        keys = rng.per_example(jax.random.key(0), 0, 256)
        batch = {"x": jnp.zeros((256, *SHAPE))}
        model.losses["diffusion"].fn(Weights({"net": {}}), batch, keys, context())
        assert (seen[0] < 1).mean() > 0.7
