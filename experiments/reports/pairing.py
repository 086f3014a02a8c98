"""Two classes, with noise paired over the batch, within classes, or not at all.

``python experiments/reports/pairing.py`` prints mean and standard deviation of the first coordinate
of 4,000 samples a class, and the share of them beyond four deviations; the truth is -1 and 1, 0.15,
0.03 %.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import gen_jax
import gen_jax.models.diffusion as module
from gen_jax import diffusion
from gen_jax.ops import keys as rng
from gen_jax.protocols import Weights

CENTERS, STD = jnp.array([[-1.0, 0.0], [1.0, 0.0]]), 0.15


class Velocity(nn.Module):
    """A perceptron of x, t and the class."""

    @nn.compact
    def __call__(self, x, t, label=None, keys=None, context=None):
        told = [
            x.reshape(len(x), -1),
            t[:, None],
            jnp.sin(4 * t[:, None]),
            jax.nn.one_hot(label, 2),
        ]
        h = jnp.concatenate(told, axis=-1)
        for _ in range(3):
            h = nn.silu(nn.Dense(128)(h))
        return nn.Dense(2)(h).reshape(x.shape)


def data(key):
    a, b = jax.random.split(key)
    label = jax.random.bernoulli(a, 0.5, (256,)).astype(jnp.int32)
    x = CENTERS[label] + STD * jax.random.normal(b, (256, 2))
    return {"x": x.reshape(256, 1, 1, 2), "label": label}


def train(pairing):
    model = gen_jax.diffusion_model(
        Velocity(), diffusion.rectified_flow(), diffusion.velocity, shape=(1, 1, 2), num_classes=2,
        clip=False, pairing=pairing,
    )  # fmt: skip
    optimizer = {"net": optax.adam(2e-3)}
    state = gen_jax.init_state(model, optimizer, jax.random.key(0), data(jax.random.key(9)))
    step = jax.jit(gen_jax.make_train_step(model, optimizer, ema_decay=0.99))
    for number in range(800):
        batch = data(jax.random.fold_in(jax.random.key(1), number))
        state, metrics = step(state, {}, batch, jax.random.key(2))
    return model, Weights(state.ema_params, state.stats), float(metrics["diffusion/loss"])


def measure(name, model, weights, loss):
    draw = jax.jit(
        lambda keys, cond: model.sampler.draw(weights, keys, cond, solver="heun", steps=40)
    )
    print(f"{name:12} loss {loss:.3f}", end="")
    for number in range(2):
        cond = {"label": jnp.full(4000, number)}
        x = draw(rng.per_example(jax.random.key(5), 0, 4000), cond).reshape(-1, 2)
        far = jnp.mean(jnp.linalg.norm((x - CENTERS[number]) / STD, axis=1) > 4)
        print(f"   class {number}: {x[:, 0].mean():.2f} {x[:, 0].std():.2f} {far:.1%}", end="")
    print(flush=True)


def main():
    measure("no pairing", *train(False))
    within = module.optimal_pairing
    module.optimal_pairing = lambda x_0, eps, label=None: within(x_0, eps)  # as it was
    measure("whole batch", *train(True))
    module.optimal_pairing = within
    measure("within class", *train(True))


if __name__ == "__main__":
    main()
