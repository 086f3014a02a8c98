"""Solvers of the probability flow, grids and editing, against closed forms."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import diffusion as process
from gen_jax.diffusion import editing, recipes
from gen_jax.ops import keys as rng
from tests.diffusion.oracles import SCHEDULES, Mixture, gaussian_denoiser, gaussian_flow, keys_of

pytestmark = pytest.mark.slow

ORDERS = {"euler": 1, "heun": 2, "dpmpp_2m": 2}
MAKE = {
    "euler": process.euler,
    "heun": process.heun,
    "dpmpp_2m": process.dpmpp_2m,
    "ancestral": process.euler_ancestral,
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("solver", ORDERS)
def test_every_solver_converges_with_its_order(solver, name):
    """On Gaussian data, where the flow is known; in both directions of time."""
    schedule = SCHEDULES[name]
    denoise = gaussian_denoiser(schedule)
    start, end = 0.9, 0.3
    at_start = np.linspace(-1, 1, 5)[:, None].astype(np.float32) + 2 * float(schedule.alpha(start))
    for ends, x in (((start, end), at_start), ((end, start), at_start / 2 + 1)):
        truth = gaussian_flow(schedule, x, *ends)
        errors = []
        for steps in (12, 24, 48):
            times = np.linspace(*ends, steps + 1)
            last = process.integrate(
                denoise, schedule, MAKE[solver](), times, jnp.asarray(x), keys_of(5)
            )
            errors.append(np.abs(last - truth).max())
        rate = np.log2(np.array(errors[:-1]) / errors[1:])
        # Or there is nothing left but rounding.
        assert rate[-1] > ORDERS[solver] - 0.35 or errors[0] < 1e-4, (ends, errors)
        # Where an error happens to be small by itself, more than its order is seen.
        assert errors[-1] < 0.1


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("solver", MAKE)
def test_samples_have_the_distribution_of_the_data(solver, name):
    schedule = SCHEDULES[name]
    steps = 400 if solver == "ancestral" else 80  # of first order, and twice the error
    times = process.uniform_times(steps)
    if name == "edm":
        times = process.karras_times(schedule, steps)
    run = jax.jit(
        lambda keys: process.sample(
            gaussian_denoiser(schedule), schedule, MAKE[solver](), times, (), keys
        )
    )
    x = np.asarray(run(keys_of(20_000)))
    # Samplers begin at N(0, s^2): of the mean, alpha(1) / s is left, which is 1/20 for "edm".
    assert x.mean() == pytest.approx(2.0, abs=0.07 if name == "edm" else 0.03)
    assert x.std() == pytest.approx(0.5, rel=0.06)


def test_fresh_noise_and_churn_keep_the_marginal_at_every_time():
    """Ancestral steps and churn move points about within q(x_t), which they must leave as it is.

    With churn a step of Heun follows; at many steps what is left of its error is small.
    """
    for name in ("flow", "edm", "cosine"):
        schedule = SCHEDULES[name]
        times = np.linspace(0.9, 0.2, 200)
        solver = process.churned(process.heun(), 40.0, 200)
        alpha, sigma = float(schedule.alpha(0.9)), float(schedule.sigma(0.9))
        z = rng.normal(keys_of(20_000, 1), ())
        x = alpha * 2.0 + np.hypot(alpha * 0.5, sigma) * z
        run = functools.partial(process.integrate, gaussian_denoiser(schedule), schedule)
        end = np.asarray(
            jax.jit(lambda x, run=run, s=solver, t=times: run(s, t, x, keys_of(20_000)))(x)
        )
        alpha, sigma = float(schedule.alpha(0.2)), float(schedule.sigma(0.2))
        assert end.std() == pytest.approx(np.hypot(alpha * 0.5, sigma), rel=0.03), name
        # And they do move: what comes out is not where the flow alone leads.
        assert np.corrcoef(end, z)[0, 1] < 0.9


def test_heun_with_churn_is_algorithm_2_of_edm():
    """Karras et al. 2022, Algorithm 2, written out in NumPy with the same noise."""
    num, churn, low, high, noise = 18, 30.0, 0.05, 10.0, 1.007
    schedule = process.variance_exploding(80.0)
    times = process.karras_times(schedule, num)
    i = np.arange(num)
    sigmas = (80 ** (1 / 7) + i / (num - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(80.0 * times, np.append(sigmas, 0), rtol=2e-6)

    def d(x, sigma):  # of data N(0.3, 0.5^2)
        return 0.3 + 0.25 / (0.25 + sigma**2) * (x - 0.3)

    denoise = gaussian_denoiser(schedule, 0.3, 0.5)
    keys = keys_of(4)
    solver = process.churned(process.heun(), churn, num, low, high, noise)
    start = jnp.linspace(-90.0, 90.0, 4)
    ours = process.integrate(denoise, schedule, solver, times, start, keys)
    x = np.asarray(start, np.float64)
    sigmas = np.append(sigmas, 0)
    for step in range(num):
        t = sigmas[step]
        gamma = min(churn / num, np.sqrt(2) - 1) if low <= t <= high else 0.0
        up = t * (1 + gamma)
        _, noise_keys = rng.split(rng.fold_in(keys, step), 2)
        z = np.asarray(rng.normal(noise_keys, ()))
        x = x + np.sqrt(up**2 - t**2) * noise * z
        slope = (x - d(x, up)) / up
        after = x + (sigmas[step + 1] - up) * slope
        if sigmas[step + 1] > 0:
            second = (after - d(after, sigmas[step + 1])) / sigmas[step + 1]
            after = x + (sigmas[step + 1] - up) * (slope + second) / 2
        x = after
    np.testing.assert_allclose(ours, x, rtol=2e-4, atol=2e-4)


def test_no_churn_changes_nothing():
    schedule = SCHEDULES["cosine"]
    times = process.uniform_times(7, 1000)
    run = functools.partial(process.integrate, gaussian_denoiser(schedule), schedule)
    x = rng.normal(keys_of(4), (3,))
    plain = run(process.heun(), times, x, keys_of(4))
    still = run(process.churned(process.heun(), 0.0, 7), times, x, keys_of(4))
    np.testing.assert_array_equal(plain, still)


def test_dpm_solver_pp_2m_is_algorithm_2_of_its_paper():
    """Lu et al. 2022b, Algorithm 2, written out in NumPy and double precision."""
    schedule = process.linear_beta()
    times = np.linspace(1, 0.05, 12).astype(np.float32)
    levels = [(float(schedule.alpha(t)), float(schedule.sigma(t))) for t in times]
    x = x_start = np.linspace(-2, 2, 5)
    d_before = h_before = None
    for (a_t, s_t), (a_s, s_s) in itertools.pairwise(levels):
        d = 2 + a_t * 0.25 * (x - a_t * 2) / (a_t**2 * 0.25 + s_t**2)
        h = np.log(a_s / s_s) - np.log(a_t / s_t)
        mixed = d
        if d_before is not None:
            r = h_before / h
            mixed = (1 + 1 / (2 * r)) * d - 1 / (2 * r) * d_before
        x = s_s / s_t * x - a_s * np.expm1(-h) * mixed
        d_before, h_before = d, h
    ours = process.integrate(
        gaussian_denoiser(schedule),
        schedule,
        process.dpmpp_2m(),
        times,
        jnp.asarray(x_start, jnp.float32),
        keys_of(5),
    )
    np.testing.assert_allclose(ours, x, rtol=1e-4, atol=1e-4)


def test_one_step_of_a_straight_flow_is_exact():
    """Between two points a rectified flow is a straight line, and so is a step of Euler's."""
    schedule = process.rectified_flow()
    data = jnp.array([[1.0, -2.0]])

    def denoise(x, t):  # data that is one point: all paths lead there
        return process.Prediction(jnp.broadcast_to(data, x.shape), (x - (1 - t) * data) / t)

    for solver in (process.euler(), process.heun(), process.dpmpp_2m()):
        x = process.sample(denoise, schedule, solver, np.array([1.0, 0.0]), (2,), keys_of(3))
        np.testing.assert_allclose(x, jnp.tile(data, (3, 1)), atol=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_time_of_noise_inverts_the_noise_level(name):
    schedule = SCHEDULES[name]
    t = jnp.array([0.001, 0.02, 0.4, 0.999, 0.9])
    ratio = schedule.sigma(t) / schedule.alpha(t)
    np.testing.assert_allclose(process.time_of_noise(schedule, ratio), t, rtol=1e-4, atol=2e-6)
    assert float(process.time_of_noise(schedule, 0.0)) < 2e-6
    assert float(process.time_of_noise(schedule, 1e9)) == 1.0


def test_grids_have_their_formulas():
    np.testing.assert_allclose(process.quadratic_times(4), [1, 9 / 16, 1 / 4, 1 / 16, 0])
    linear = SCHEDULES["linear"]
    grid = process.karras_times(linear, 10, high=1e6, rho=7)
    assert grid[0] == 1.0
    assert grid[-1] == 0.0
    ratio = np.asarray(linear.sigma(grid[:-1]) / linear.alpha(grid[:-1])) ** (1 / 7)
    np.testing.assert_allclose(np.diff(ratio), np.diff(ratio)[0], rtol=1e-3)
    for grid in (process.karras_times(linear, 30), process.quadratic_times(30)):
        on_table = process.on_table(grid, 1000)
        assert (np.diff(on_table) < 0).all()
        assert len(on_table) == 31
        np.testing.assert_allclose(on_table * 1000, np.round(on_table * 1000), atol=1e-3)
        assert np.abs(on_table - grid).max() < 0.02
    np.testing.assert_allclose(
        process.on_table(process.quadratic_times(20), 20) * 20, np.arange(20, -1, -1), atol=1e-5
    )


def test_grids_inside_a_compiled_function_are_constants():
    def grid_of(x):
        return x + process.karras_times(SCHEDULES["cosine"], 5)[0]

    assert float(jax.jit(grid_of)(1.0)) == pytest.approx(
        1 + process.karras_times(SCHEDULES["cosine"], 5)[0]
    )


@pytest.mark.parametrize("name", ["linear", "flow", "edm"])
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_inversion_finds_the_noise_and_comes_back(name, solver):
    schedule = SCHEDULES[name]
    denoise = Mixture(schedule).denoiser
    x = Mixture.means[jnp.arange(6) % 3] + 0.3 * rng.normal(keys_of(6), (2,))
    times = process.karras_times(schedule, 100, low=0.01)
    make = MAKE[solver]
    noise = process.invert(denoise, schedule, make(), times, x, keys_of(6))
    again = process.integrate(denoise, schedule, make(), times, noise, keys_of(6))
    np.testing.assert_allclose(again, x, atol={"euler": 0.08, "heun": 0.02}[solver])
    # And the noise is that of a normal: what is nearest in data is not the same point in noise.
    z = np.asarray(noise) / float(jnp.hypot(schedule.alpha(times[0]), schedule.sigma(times[0])))
    assert np.abs(z).max() < 4


def test_a_part_of_a_grid_is_a_share_of_its_steps():
    grid = process.quadratic_times(4)
    np.testing.assert_allclose(editing.last_part(grid, 1.0), grid, atol=1e-6)
    half = editing.last_part(grid, 0.5)
    np.testing.assert_allclose(half[::2], grid[2:], atol=1e-6)
    assert (np.diff(half) < 0).all()


def test_solvers_by_name_have_their_own_eta():
    schedule, times = SCHEDULES["linear"], process.uniform_times(4, 1000)
    denoise = gaussian_denoiser(schedule)

    def spread(name):  # of what different keys make of one beginning
        keys = keys_of(8)
        solver = recipes.make_solver(name, 4)
        return float(
            process.integrate(denoise, schedule, solver, times, jnp.ones((8, 1)), keys).std()
        )

    assert spread("euler_ancestral") > 0.05
    assert spread("ddim") == pytest.approx(0, abs=1e-6)


def test_a_partial_noise_level_changes_as_much_as_it_says():
    schedule = SCHEDULES["flow"]
    denoise = gaussian_denoiser(schedule, 0.0, 1.0)
    x = jnp.linspace(-2, 2, 4000)
    correlation = []
    for strength in (1e-4, 0.5, 1.0):
        times = strength * process.uniform_times(40)
        out = process.from_partial(denoise, schedule, process.heun(), times, x, keys_of(4000))
        correlation.append(np.corrcoef(out, x)[0, 1])
    assert correlation[0] > 0.999
    assert correlation[0] > correlation[1] > correlation[2]
    assert abs(correlation[2]) < 0.1


class TestInpainting:
    """Two correlated normals: the missing one's distribution given the known one is known."""

    rho = 0.9

    def denoise(self, x, t):
        covariance = jnp.array([[1.0, self.rho], [self.rho, 1.0]])
        schedule = SCHEDULES["linear"]
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        gain = alpha * covariance @ jnp.linalg.inv(alpha**2 * covariance + sigma**2 * jnp.eye(2))
        x_0 = x @ gain.T
        return process.Prediction(x_0, (x - alpha * x_0) / sigma)

    def fill(self, times, num=4000):
        known = jnp.tile(jnp.array([[1.5, 99.0]]), (num, 1))
        mask = jnp.tile(jnp.array([[1.0, 0.0]]), (num, 1))
        solver = process.inpainting(process.ddim(1.0), known, mask)
        run = jax.jit(
            lambda keys: process.sample(
                self.denoise, SCHEDULES["linear"], solver, times, (2,), keys
            )
        )
        return np.asarray(run(keys_of(num)))

    def test_the_known_is_kept_and_the_missing_fits_it(self):
        plain = self.fill(process.uniform_times(50, 1000))
        grid = process.repaint_times(process.uniform_times(50, 1000), jump=5, resamples=5)
        resampled = self.fill(grid)
        for x in (plain, resampled):
            np.testing.assert_allclose(x[:, 0], 1.5, atol=1e-5)
        truth = self.rho * 1.5
        errors = [abs(x[:, 1].mean() - truth) for x in (plain, resampled)]
        # Replacement alone is biased toward the mean of the data; resampling mends most of it.
        assert errors[0] > 0.1
        assert errors[1] < 0.35 * errors[0]
        assert resampled[:, 1].std() == pytest.approx(np.sqrt(1 - self.rho**2), rel=0.25)

    def test_the_grid_goes_back_and_forth_and_ends_at_0(self):
        grid = process.repaint_times(np.array([1, 0.75, 0.5, 0.25, 0]), jump=2, resamples=2)
        np.testing.assert_allclose(grid, [1, 0.75, 0.5, 0.25, 0.5, 0.75, 0.5, 0.25, 0])
        # That of the authors' code, get_schedule_jump(t_T=6, n_sample=1, jump_length=2,
        # jump_n_sample=3), whose -1 is data.
        theirs = [5, 4, 3, 2, 3, 4, 3, 2, 3, 4, 3, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1, 0, -1]
        found = process.repaint_times(np.arange(6, -1, -1), jump=2, resamples=3)
        np.testing.assert_array_equal(found, np.array(theirs) + 1)
        once = process.repaint_times(np.array([1, 0.5, 0]), jump=1, resamples=1)
        np.testing.assert_array_equal(once, [1, 0.5, 0])
        with pytest.raises(ValueError, match="jump, resamples: got 0 and 10; at least 1"):
            process.repaint_times(np.array([1, 0]), jump=0)


def test_pairing_is_the_cheapest_of_all():
    from scipy.optimize import linear_sum_assignment

    x_0, eps = (rng.normal(keys_of(16, seed), (3, 2)) for seed in (0, 1))
    paired = process.optimal_pairing(x_0, eps)
    flat = [np.asarray(x).reshape(16, -1) for x in (x_0, eps, paired)]
    cost = ((flat[0][:, None] - flat[1][None]) ** 2).sum(-1)
    rows, columns = linear_sum_assignment(cost)
    np.testing.assert_array_equal(flat[2][rows], flat[1][columns])
    # With classes within each: a class keeps its noises, and so a normal distribution of them.
    label = np.arange(16) % 3
    within = process.optimal_pairing(x_0, eps, jnp.asarray(label))
    within = np.asarray(within).reshape(16, -1)
    for number in range(3):
        own = np.flatnonzero(label == number)
        rows, columns = linear_sum_assignment(cost[np.ix_(own, own)])
        np.testing.assert_array_equal(within[own][rows], flat[1][own][columns])


def test_a_grid_that_begins_a_rounding_above_1_is_one_that_begins_at_1():
    schedule = process.cosine()
    x = rng.normal(keys_of(8), (1,))
    grids = np.linspace(1, 0, 11), np.linspace(1 + 1e-7, 0, 11)
    found = [
        process.integrate(
            gaussian_denoiser(schedule), schedule, process.dpmpp_2m(), times, x, keys_of(8)
        )
        for times in grids
    ]
    np.testing.assert_allclose(*found, atol=1e-5)


def test_without_terminal_signal_samples_have_the_brightness_of_the_data():
    """Where a table leaves some, samples cannot leave the mean of the data (Lin et al. 2024)."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    rescaled = process.zero_terminal_snr(betas)
    assert rescaled[-1] == 1
    assert rescaled[0] == pytest.approx(betas[0])
    schedule = process.from_betas(rescaled)
    assert (float(schedule.alpha(1.0)), float(schedule.sigma(1.0))) == (0.0, 1.0)
    fine = np.linspace(0, 1, 5001)
    alpha, sigma = (np.asarray(level(fine), np.float64) for level in schedule[:2])
    assert (np.diff(alpha) < 1e-7).all()
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, atol=1e-6)
    for solver in (process.ddim(), process.ddpm(), process.dpmpp_2m(), process.heun()):
        x = process.integrate(
            gaussian_denoiser(schedule), schedule, solver, process.uniform_times(100, 1000),
            rng.normal(keys_of(4000), (1,)), keys_of(4000, 1),
        )  # fmt: skip
        assert float(x.mean()) == pytest.approx(2.0, abs=0.03)
        assert float(x.std()) == pytest.approx(0.5, rel=0.06)
    with pytest.raises(ValueError, match="at t = 1 of this schedule eps does not say what x_0 is"):
        process.make_process(schedule, process.epsilon, 1000)
    process.make_process(schedule, process.v, 1000)


def test_a_classifier_guides_what_has_been_clipped():
    """Dhariwal & Nichol 2021, Algorithms 1 and 2; a clip behind it would undo the guidance."""
    made = process.make_process(process.linear_beta(), process.epsilon, 1000)
    seen = []

    def guide(denoiser):
        def guided(x, t):
            prediction = denoiser(x, t)
            seen.append(prediction.x_0)
            return prediction._replace(x_0=prediction.x_0 + 5.0)

        return guided

    wild = process.denoiser(lambda x, t: 100 * x, made.schedule, process.epsilon)
    with jax.disable_jit():
        x = process.generate(made, wild, keys_of(2), (3,), steps=2, guide=guide)
    assert max(float(jnp.abs(x_0).max()) for x_0 in seen) <= 1.0
    assert float(x.max()) > 3.0
