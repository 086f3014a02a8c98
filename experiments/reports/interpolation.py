"""Network calls of the adaptive flow likelihood, on tables of both interpolations.

``python experiments/reports/interpolation.py`` prints, for data N(0.7, 0.3^2) whose denoiser is
known, calls and error of log p(x) in nats, with a table of log-SNR piecewise linear as it was, and
as it is.
"""

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import diffusion
from gen_jax.ops import keys as rng

MEAN, STD = 0.7, 0.3


def piecewise_linear(betas):
    """Make the schedule as it was before: linear between entries."""
    bars = np.cumprod(1 - betas)
    logsnr = jnp.asarray(np.log(bars) - np.log1p(-bars), jnp.float32)
    num_steps = len(betas)

    def at(t):
        u = jnp.asarray(t, jnp.float32) * num_steps
        left = jnp.clip(jnp.floor(u), 1, num_steps - 1).astype(jnp.int32)
        rise = logsnr[left] - logsnr[left - 1]
        return logsnr[left - 1] + (u - left) * rise

    return diffusion.Schedule(
        lambda t: jnp.sqrt(jax.nn.sigmoid(at(t))), lambda t: jnp.sqrt(jax.nn.sigmoid(-at(t)))
    )


def measure(name, schedule):
    calls = []

    def denoise(x, t):
        jax.debug.callback(lambda: calls.append(1))
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        residual = (x - alpha * MEAN) / (alpha**2 * STD**2 + sigma**2)
        return diffusion.Prediction(MEAN + alpha * STD**2 * residual, sigma * residual)

    x = jnp.array([[0.9]])
    nats, _ = diffusion.flow_log_prob(
        denoise, schedule, x, rng.per_example(jax.random.key(0), 0, 1), t_min=1e-3, exact=True,
        tolerance=1e-5,
    )  # fmt: skip
    jax.effects_barrier()
    truth = -0.5 * ((0.9 - MEAN) / STD) ** 2 - np.log(STD * np.sqrt(2 * np.pi))
    print(f"{name:18} {len(calls):5} calls   error {float(nats[0]) - truth:+.1e} nats", flush=True)


def main():
    betas = np.linspace(1e-4, 0.02, 1000)
    measure("piecewise linear", piecewise_linear(betas))
    measure("monotone cubic", diffusion.from_betas(betas))


if __name__ == "__main__":
    main()
