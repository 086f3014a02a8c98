"""An RBM of scikit-learn's digits, judged exactly, beside scikit-learn's own.

    python experiments/boltzmann/digits.py --seeds 5

Bits are gray levels above 7; 1,500 digits are trained on in steps of 100, and 297 held out. Both
machines have 12 hidden units, learn at 0.05 by PCD with 100 chains, and take the same steps.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.neural_network import BernoulliRBM

from gen_jax.models.boltzmann import rbm_model
from gen_jax.ops import boltzmann
from gen_jax.train.state import init_state
from gen_jax.train.step import make_train_step

HIDDEN, SIZE, RATE = 12, 100, 0.05


def nats(machine, x):
    return float(jnp.mean(-boltzmann.free_energy(machine, x)) - boltzmann.exact_log_z(machine))


def ours(train, test, steps, seed, negative):
    model = rbm_model((64,), HIDDEN, negative=negative, chains=SIZE)
    sgd, key = {"net": optax.sgd(RATE)}, jax.random.key(seed)
    step = make_train_step(model, sgd)

    @jax.jit
    def run(state):
        def one(state, number):
            rows = jax.random.randint(jax.random.fold_in(key, number), (SIZE,), 0, len(train))
            return step(state, {}, {"x": train[rows]}, key)[0], None

        return jax.lax.scan(one, state, jnp.arange(steps))[0]

    state = jax.jit(lambda key: init_state(model, sgd, key, {"x": train}))(key)
    state = run(state)
    return nats(boltzmann.Restricted(**state.params["net"]), test)


def theirs(train, test, steps, seed):
    epochs = round(steps * SIZE / len(train))
    made = BernoulliRBM(
        HIDDEN, learning_rate=RATE, batch_size=SIZE, n_iter=epochs, random_state=seed
    )
    made.fit(np.asarray(train))
    parts = made.components_.T, made.intercept_visible_, made.intercept_hidden_
    return nats(boltzmann.Restricted(*(jnp.asarray(x, jnp.float32) for x in parts)), test)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    x = jnp.asarray(load_digits().images.reshape(-1, 64) > 7, jnp.float32)
    train, test = x[:1500], x[1500:]
    mean = np.clip(train.mean(0), 1e-3, 1 - 1e-3)
    alone = (test * np.log(mean) + (1 - test) * np.log(1 - mean)).sum(1).mean()
    print(f"independent pixels: {alone:.2f} nats")
    for steps in (2000, 6000):
        for name, run in (
            ("ours, PCD", lambda s, steps=steps: ours(train, test, steps, s, "pcd")),
            ("ours, CD-1", lambda s, steps=steps: ours(train, test, steps, s, "cd")),
            ("scikit-learn, PCD", lambda s, steps=steps: theirs(train, test, steps, s)),
        ):
            began = time.perf_counter()
            found = [run(seed) for seed in range(given.seeds)]
            seconds = (time.perf_counter() - began) / given.seeds
            spread = np.std(found, ddof=1) if len(found) > 1 else 0
            print(f"{steps} steps, {name}: {np.mean(found):.2f} +- {spread:.2f}, {seconds:.1f} s")


if __name__ == "__main__":
    main()
