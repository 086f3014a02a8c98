"""Data distributions whose denoiser, flow and density are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax import diffusion as process
from gen_jax.ops import keys as rng

SCHEDULES = {
    "linear": process.linear_beta(),
    "cosine": process.cosine(),
    "flow": process.rectified_flow(),
    "edm": process.variance_exploding(20.0),
}


def keys_of(num, seed=0):
    return rng.per_example(jax.random.key(seed), 0, num)


def gaussian_denoiser(schedule, mean=2.0, std=0.5):
    """Give E[x_0 | x_t] for data N(mean, std^2)."""

    def denoise(x, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        total = alpha**2 * std**2 + sigma**2
        residual = (x - alpha * mean) / total
        return process.Prediction(mean + alpha * std**2 * residual, sigma * residual)

    return denoise


def gaussian_flow(schedule, x, t, s, mean=2.0, std=0.5):
    """Carry x along the probability flow of that data from t to s, exactly."""
    scale = [np.hypot(float(schedule.alpha(u)) * std, float(schedule.sigma(u))) for u in (t, s)]
    z = (x - float(schedule.alpha(t)) * mean) / scale[0]
    return float(schedule.alpha(s)) * mean + scale[1] * z


class Mixture:
    """Normal blobs in the plane, one for each label."""

    means = jnp.array([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0]])
    std = 0.3

    def __init__(self, schedule):
        self.schedule = schedule

    def joint(self, x, t):
        """Give log p(x_t, label) [B, labels]."""
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        variance = alpha**2 * self.std**2 + sigma**2
        squares = jnp.sum((x[:, None] - alpha * self.means[None]) ** 2, axis=-1)
        return -0.5 * squares / variance - jnp.log(2 * jnp.pi * variance) - jnp.log(3.0)

    def log_prob(self, x, t=0.0):
        return jax.nn.logsumexp(self.joint(x, t), axis=1)

    def label_log_prob(self, label):
        def log_prob(x, t):
            return jax.nn.log_softmax(self.joint(x, t), axis=1)[jnp.arange(len(x)), label]

        return log_prob

    def _denoise(self, x, t, weights):
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        variance = alpha**2 * self.std**2 + sigma**2
        residual = (x[:, None] - alpha * self.means[None]) / variance
        x_0 = self.means[None] + alpha * self.std**2 * residual
        x_0, eps = (jnp.sum(weights[..., None] * y, axis=1) for y in (x_0, sigma * residual))
        return process.Prediction(x_0, eps)

    def denoiser(self, x, t):
        return self._denoise(x, t, jax.nn.softmax(self.joint(x, t), axis=1))

    def conditional(self, label):
        return lambda x, t: self._denoise(x, t, jax.nn.one_hot(label, 3))
