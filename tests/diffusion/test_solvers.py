"""Against closed forms: the paper's algorithm, and Gaussian data, whose denoiser is known."""

import functools
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import diffusion as process
from gen_jax.ops import keys as rng

LINEAR = process.linear_beta()
MEAN, STD = 2.0, 0.5


def gaussian_denoiser(schedule, mean=MEAN, std=STD):
    """Give E[x_0 | x_t] for data N(mean, std^2)."""

    def denoise(x, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
        x_0 = mean + gain * (x - alpha * mean)
        return process.Prediction(x_0, (x - alpha * x_0) / sigma)

    return denoise


def keys_of(num, seed=0):
    return rng.per_example(jax.random.key(seed), 0, num)


def toy_eps(x, index):
    return 0.5 * np.tanh(x) + 0.1 * np.cos(index / 100)


def test_ddpm_is_algorithm_2_step_by_step():
    """Ho et al. 2020, Algorithm 2, written out in NumPy and double precision."""
    for variance in ("beta", "beta_tilde"):
        betas = np.linspace(1e-4, 0.02, 1000)
        alphas = 1 - betas
        alpha_bar = np.cumprod(alphas)
        keys = keys_of(3)
        x = np.asarray(rng.normal(keys_of(3, 1), (2,)), np.float64)
        start = jnp.asarray(x, jnp.float32)

        @functools.partial(jax.jit, static_argnums=1)
        def run(start, variance, keys):
            denoise = process.denoiser(
                lambda x, t: 0.5 * jnp.tanh(x) + 0.1 * jnp.cos((1000 * t[:, None] - 1) / 100),
                LINEAR,
                process.epsilon,
            )
            noise = jax.lax.map(lambda i: rng.normal(rng.fold_in(keys, i), (2,)), jnp.arange(1000))
            times = process.uniform_times(1000, 1000)
            solver = process.ddpm(variance)
            return noise, process.integrate(denoise, LINEAR, solver, times, start, keys, trace=True)

        noise, ours = run(start, variance, keys)
        for step, t in enumerate(range(1000, 0, -1)):
            eps = toy_eps(x, t - 1)
            mean = (x - betas[t - 1] / np.sqrt(1 - alpha_bar[t - 1]) * eps) / np.sqrt(alphas[t - 1])
            previous = alpha_bar[t - 2] if t > 1 else 1.0
            beta_tilde = (1 - previous) / (1 - alpha_bar[t - 1]) * betas[t - 1]
            std = np.sqrt(betas[t - 1] if variance == "beta" else beta_tilde)
            z = np.asarray(noise[step], np.float64) if t > 1 else 0.0
            x = mean + std * z
            np.testing.assert_allclose(ours[step + 1], x, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("schedule", [LINEAR, process.cosine()], ids=["linear", "cosine"])
@pytest.mark.parametrize(
    ("solver", "steps"),
    [
        (process.ddpm("beta"), 1000),
        (process.ddpm("beta_tilde"), 1000),
        (process.ddim(0.0), 250),
        (process.ddim(0.5), 500),
    ],
    ids=["beta", "beta_tilde", "ddim", "eta"],
)
def test_samplers_draw_from_the_data(schedule, solver, steps):
    num = 4000
    x = jax.jit(
        lambda keys: process.sample(
            gaussian_denoiser(schedule),
            schedule,
            solver,
            process.uniform_times(steps, 1000),
            (2,),
            keys,
        )
    )(keys_of(num))
    assert float(x.mean()) == pytest.approx(MEAN, abs=4 * STD / np.sqrt(2 * num) + 0.01)
    assert float(x.std()) == pytest.approx(STD, rel=0.03)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_every_marginal_is_kept_exactly_where_x_0_is_known(eta):
    """q(x_s) = N(alpha_s x_0, sigma_s^2) for every eta and any grid (Song et al. 2021, Lemma 1)."""
    times = process.uniform_times(12, 1000)
    num = 20_000
    trace = jax.jit(
        lambda keys: process.sample(
            gaussian_denoiser(LINEAR, MEAN, 0.0),
            LINEAR,
            process.ddim(eta),
            times,
            (1,),
            keys,
            trace=True,
        )
    )(keys_of(num))
    # From t = 1 with mean 0 instead of alpha(1) x_0: what is missing there shrinks with sigma.
    alpha, sigma = np.asarray(LINEAR.alpha(times)), np.asarray(LINEAR.sigma(times))
    missing = MEAN * alpha[0]
    means = np.asarray(trace).mean(axis=(1, 2))
    np.testing.assert_allclose(means, MEAN * alpha, atol=missing + 4 / np.sqrt(num))
    np.testing.assert_allclose(np.asarray(trace).std(axis=(1, 2)), sigma, rtol=0.02, atol=1e-5)


@pytest.mark.parametrize("solver", [process.ddim(1.0), process.ddpm()], ids=["ddim", "ddpm"])
def test_unit_gaussian_data_stays_a_unit_gaussian_at_every_time(solver):
    """Stationarity; an alpha of t where that of s belongs is found here."""
    trace = jax.jit(
        lambda keys: process.sample(
            gaussian_denoiser(LINEAR, 0.0, 1.0),
            LINEAR,
            solver,
            process.uniform_times(1000, 1000),
            (8,),
            keys,
            trace=True,
        )
    )(keys_of(1000))
    np.testing.assert_allclose(np.asarray(trace).std(axis=(1, 2)), 1.0, atol=0.03)


def test_ddim_at_eta_1_is_ddpm_with_beta_tilde():
    times = process.uniform_times(25, 1000)
    run = functools.partial(process.sample, gaussian_denoiser(LINEAR), LINEAR)
    a = run(process.ddim(1.0), times, (3,), keys_of(5))
    b = run(process.ddpm("beta_tilde"), times, (3,), keys_of(5))
    np.testing.assert_allclose(a, b, atol=1e-5)


def exact_flow(x, schedule, t, s, mean=MEAN, std=STD):
    """Solve the probability-flow ODE of Gaussian data: quantiles keep their place."""
    deviation = [
        np.sqrt(float(schedule.alpha(u)) ** 2 * std**2 + float(schedule.sigma(u)) ** 2)
        for u in (t, s)
    ]
    center = [float(schedule.alpha(u)) * mean for u in (t, s)]
    return center[1] + deviation[1] / deviation[0] * (np.asarray(x) - center[0])


def test_ddim_converges_with_order_1():
    x = rng.normal(keys_of(16), (1,))
    truth = exact_flow(x, LINEAR, 1.0, 0.1)
    errors = []
    for steps in (16, 32, 64, 128):
        times = np.linspace(1, 0.1, steps + 1)
        end = process.integrate(
            gaussian_denoiser(LINEAR), LINEAR, process.ddim(), times, x, keys_of(16)
        )
        errors.append(np.abs(end - truth).max())
    rates = np.log2(np.array(errors[:-1]) / errors[1:])
    np.testing.assert_allclose(rates, 1.0, atol=0.25)


def test_ddim_walks_back_to_the_noise_it_came_from():
    x = rng.normal(keys_of(8), (2,))
    times = np.linspace(1, 0.02, 400)
    move = functools.partial(process.integrate, gaussian_denoiser(LINEAR), LINEAR, process.ddim())
    there = move(times, x, keys_of(8))
    back = move(times[::-1].copy(), there, keys_of(8))
    np.testing.assert_allclose(back, x, atol=0.05)


def test_a_sample_depends_on_its_own_key_alone():
    run = functools.partial(
        process.sample,
        gaussian_denoiser(LINEAR),
        LINEAR,
        process.ddpm(),
        process.uniform_times(10, 1000),
        (4,),
    )
    whole = run(keys_of(6))
    np.testing.assert_array_equal(whole[2:4], run(keys_of(6)[2:4]))


def test_the_trace_begins_and_ends_with_the_samples():
    run = functools.partial(
        process.sample,
        gaussian_denoiser(LINEAR),
        LINEAR,
        process.ddpm(),
        process.uniform_times(5, 1000),
        (4,),
    )
    trace = run(keys_of(3), trace=True)
    assert trace.shape == (6, 3, 4)
    np.testing.assert_array_equal(trace[-1], run(keys_of(3)))


def test_eta_is_traced_and_the_loop_is_a_scan():
    count = 0

    @jax.jit
    def run(eta, keys):
        nonlocal count
        count += 1
        times = process.uniform_times(30, 1000)
        solver = process.ddim(eta)
        return process.sample(gaussian_denoiser(LINEAR), LINEAR, solver, times, (1,), keys)

    for eta in (0.0, 0.3, 1.0):
        run(eta, keys_of(2))
    assert count == 1
    text = str(jax.make_jaxpr(run)(0.5, keys_of(2)))
    assert text.count("scan[") == 1


def test_grids():
    np.testing.assert_allclose(process.uniform_times(4), [1, 0.75, 0.5, 0.25, 0])
    full = process.uniform_times(1000, 1000)
    np.testing.assert_allclose(full * 1000, np.arange(1000, -1, -1), atol=1e-3)
    np.testing.assert_allclose(process.leading_times(4, 10) * 10, [7, 5, 3, 1, 0], atol=1e-6)
    for steps in (1, 3, 7, 30, 999):
        for grid in (process.uniform_times(steps, 1000), process.leading_times(steps, 1000)):
            assert len(grid) == steps + 1
            assert (np.diff(grid) < 0).all()
            np.testing.assert_allclose(grid * 1000, np.round(grid * 1000), atol=1e-3)


def test_what_describes_a_process_can_be_pickled():
    """For a pool of processes, or a cache beside somebody's own checkpoint."""
    schedules = (process.linear_beta(), process.cosine(10), process.rectified_flow(),
                 process.variance_exploding())  # fmt: skip
    targets = process.epsilon, process.x_0, process.v, process.velocity, process.edm()
    solvers = (process.ddim(0.5), process.ddpm(), process.heun(), process.dpmpp_2m(),
               process.churned(process.heun(), 1.0, 10))  # fmt: skip
    t, x = jnp.array([0.2, 0.9]), jnp.ones((2, 3))
    for schedule in schedules:
        again = pickle.loads(pickle.dumps(schedule))
        np.testing.assert_array_equal(again.alpha(t), schedule.alpha(t))
        np.testing.assert_array_equal(again.sigma(t), schedule.sigma(t))
    for target in targets:
        again = pickle.loads(pickle.dumps(target))
        levels = jnp.float32(0.6), jnp.float32(0.8)
        chex.assert_trees_all_equal(again.read(x, 2 * x, *levels), target.read(x, 2 * x, *levels))
    for solver in solvers:
        again = pickle.loads(pickle.dumps(solver))
        carry = [
            process.integrate(
                gaussian_denoiser(LINEAR), LINEAR, made, np.array([1, 0.5, 0]), x, keys_of(2)
            )
            for made in (solver, again)
        ]
        np.testing.assert_array_equal(*carry)


@pytest.mark.parametrize("make", [process.ddim, process.ddpm, process.heun, process.dpmpp_2m])
def test_points_keep_their_precision_whatever_a_network_answers(make):
    x = jnp.ones((2, 3), jnp.bfloat16)
    wide = lambda x, t: gaussian_denoiser(LINEAR)(x.astype(jnp.float32), t)  # noqa: E731
    made = process.integrate(wide, LINEAR, make(), np.array([1, 0.5, 0]), x, keys_of(2))
    assert made.dtype == jnp.bfloat16
    assert np.isfinite(np.asarray(made, np.float32)).all()


@pytest.mark.parametrize("name", ["ddpm", "heun"])
def test_one_program_walks_grids_of_any_length(name):
    denoise = gaussian_denoiser(LINEAR)
    keys, x = keys_of(4), rng.normal(keys_of(4, 1), (2,))

    @jax.jit
    def walk(times, num_steps):
        solver = process.make_solver(name, num_steps, churn=3.0 if name == "heun" else None)
        return process.integrate(denoise, LINEAR, solver, times, x, keys, num_steps=num_steps)

    for num in (1, 4, 7):
        times = process.uniform_times(num, 1000)
        solver = process.make_solver(name, num, churn=3.0 if name == "heun" else None)
        exact = process.integrate(denoise, LINEAR, solver, times, x, keys)
        made = walk(np.pad(times, (0, 8 - num)), num)
        np.testing.assert_allclose(made, exact, rtol=1e-5, atol=1e-6)
    assert walk._cache_size() == 1
    with pytest.raises(ValueError, match="trace"):
        process.integrate(denoise, LINEAR, solver, times, x, keys, trace=True, num_steps=num)
