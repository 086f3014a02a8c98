"""Which games find all of 25 Gaussians, and how long they keep them.

python experiments/gan/gaussians.py --out gaussians.png

A 5x5 grid of deviation 0.05 (Metz et al. 2017), networks of three hidden layers of 128, Adam with
1e-3 and betas 0.5 and 0.9, 2,500 steps of 256, three seeds. A mode is found if one of 2,500 samples
is within three deviations of its middle; "near" is the share of samples that are near any.
"""

import argparse
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gen_jax.files import png_bytes, write_file
from gen_jax.ops.adversarial import GAMES, interpolation_penalty, squared_gradient
from gen_jax.pictures import scatter

SIGMA, STEPS, BATCH = 0.05, 2500, 256
MIDDLES = np.stack(np.meshgrid(np.linspace(-2, 2, 5), np.linspace(-2, 2, 5)), -1).reshape(-1, 2)


class MLP(nn.Module):
    outputs: int

    @nn.compact
    def __call__(self, x):
        for _ in range(3):
            x = nn.leaky_relu(nn.Dense(128)(x), 0.2)
        return nn.Dense(self.outputs)(x)


def real(key):
    which, noise = jax.random.split(key)
    middle = jnp.asarray(MIDDLES, jnp.float32)[jax.random.randint(which, (BATCH,), 0, 25)]
    return middle + SIGMA * jax.random.normal(noise, (BATCH, 2))


def train(game, penalty, seed):
    gen, disc, adam = MLP(2), MLP(1), optax.adam(1e-3, b1=0.5, b2=0.9)
    keys = jax.random.split(jax.random.key(seed), 3)
    params = (gen.init(keys[0], jnp.zeros((1, 2))), disc.init(keys[1], jnp.zeros((1, 2))))
    state = (params, (adam.init(params[0]), adam.init(params[1])))
    played = GAMES[game]

    def judge(d, x):
        return disc.apply(d, x)[:, 0]

    def of_disc(d, g, x, z, key):
        fake = gen.apply(g, z)
        loss = jnp.mean(played.disc(judge(d, x), judge(d, fake)))
        critic = lambda points: judge(d, points)  # noqa: E731
        if penalty == "r1_r2":
            loss += 0.05 * jnp.mean(squared_gradient(critic, x) + squared_gradient(critic, fake))
        if penalty == "interpolation":
            loss += 10 * jnp.mean(
                interpolation_penalty(critic, x, fake, jax.random.split(key, BATCH))
            )
        return loss

    def of_gen(g, d, x, z):
        return jnp.mean(played.gen(judge(d, x), judge(d, gen.apply(g, z))))

    def step(state, key):
        (g, d), (og, od) = state
        a, b, c = jax.random.split(key, 3)
        x, z = real(a), jax.random.normal(b, (BATCH, 2))
        change, od = adam.update(jax.grad(of_disc)(d, g, x, z, c), od)
        d = optax.apply_updates(d, change)
        change, og = adam.update(jax.grad(of_gen)(g, d, x, z), og)
        return ((optax.apply_updates(g, change), d), (og, od)), None

    @jax.jit
    def run(state):
        steps = jax.random.split(keys[2], STEPS)
        return jax.lax.scan(step, state, steps)[0]

    z = jax.random.normal(jax.random.key(99), (2500, 2))
    return np.asarray(jax.jit(gen.apply)(run(state)[0][0], z))


def measure(x):
    far = np.linalg.norm(x[:, None] - MIDDLES[None], axis=-1)
    near = far.min(axis=1) < 3 * SIGMA
    return len(np.unique(far.argmin(axis=1)[near])), near.mean()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    print("| game | penalty | modes of 25 | near |\n| --- | --- | --- | --- |")
    rows = [
        *(("paired", penalty) for penalty in ("none", "r1_r2")),
        *(("non_saturating", penalty) for penalty in ("none", "r1_r2")),
        ("hinge", "r1_r2"), ("least_squares", "r1_r2"), ("wasserstein", "interpolation"),
    ]  # fmt: skip
    pictures = []
    for game, penalty in rows:
        made = [train(game, penalty, seed) for seed in range(given.seeds)]
        found = [measure(x) for x in made]
        modes = ", ".join(str(modes) for modes, _ in found)
        near = ", ".join(f"{share:.2f}" for _, share in found)
        print(f"| {game} | {penalty} | {modes} | {near} |", flush=True)
        pictures.append(scatter(np.clip(made[0], -3, 3), None, 240))
    if given.out:
        write_file(given.out, png_bytes(np.concatenate(pictures, axis=1)))


if __name__ == "__main__":
    main()
