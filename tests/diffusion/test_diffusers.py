"""Against an independent implementation: diffusers' DDPMScheduler and DDIMScheduler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import diffusion as process
from gen_jax.diffusion import solvers
from tests.diffusion.diffusers_reference import CASES, FILE, draw, kept, network, run_diffusers

SCHEDULES = {"linear": process.linear_beta(), "cosine": process.cosine()}
PREDICTIONS = {"eps": process.epsilon, "x_0": process.x_0, "v": process.v}
GRIDS = {"leading": process.leading_times, "trailing": process.uniform_times}


def carry_step(keys, step):
    data = jnp.stack([jnp.zeros((), jnp.uint32), step.astype(jnp.uint32)])
    return jax.random.wrap_key_data(jnp.tile(data[None], (len(keys), 1)))


def run_ours(case, start, noise, monkeypatch):
    """Run our sampler on the same noise, given in place of what the keys would draw."""
    schedule = SCHEDULES[case.schedule]
    # Their index counts from zero: T t - 1.
    denoise = process.denoiser(
        lambda x, t: network(x, 1000 * t[:, None, None, None] - 1, jnp),
        schedule,
        PREDICTIONS[case.prediction],
    )
    if case.clip:
        denoise = process.clip_x_0(denoise, schedule)
    solver = process.ddpm(case.variance) if case.sampler == "ddpm" else process.ddim(case.eta)
    # integrate() folds the step's number into the keys; here the keys carry that number as it is.
    monkeypatch.setattr(solvers.rng, "fold_in", carry_step)
    monkeypatch.setattr(
        solvers.rng, "normal", lambda keys, *_: jnp.asarray(noise)[jax.random.key_data(keys)[0, 1]]
    )
    keys = jax.random.split(jax.random.key(0), len(start))  # not drawn from
    trace = process.integrate(
        denoise,
        schedule,
        solver,
        GRIDS[case.spacing](case.steps, 1000),
        jnp.asarray(start),
        keys,
        trace=True,
    )
    return np.asarray(trace)[1:]


def assert_equal_runs(ours, theirs):
    # They compute beta as 1 - alpha_bar_t / alpha_bar_s in single precision, which loses digits;
    # without clipping the stand-in network lets points grow to 200.
    scale = np.abs(theirs[0]).max()
    for a, b in zip(kept(ours), theirs, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * scale, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_stored_outputs_of_diffusers(name, monkeypatch):
    case = CASES[name]
    with np.load(FILE) as stored:
        theirs = stored[f"{name}/points"], stored[f"{name}/last"]
    assert_equal_runs(run_ours(case, *draw(case, name), monkeypatch), theirs)


@pytest.mark.parity
@pytest.mark.parametrize("name", CASES)
def test_live_diffusers(name, monkeypatch):
    case = CASES[name]
    start, noise = draw(case, name)
    theirs = kept(run_diffusers(case, start, noise))
    assert_equal_runs(run_ours(case, start, noise, monkeypatch), theirs)
    with np.load(FILE) as stored:  # what make test compares with is still what they do
        # On another processor a thousand steps round otherwise.
        np.testing.assert_allclose(theirs[1], stored[f"{name}/last"], rtol=1e-4, atol=1e-4)
