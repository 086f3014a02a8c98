"""A toy model with every difficulty: two players, statistics, a loss nonlinear in the batch."""

import jax
import jax.numpy as jnp

from gen_jax.ops import keys as rng
from gen_jax.protocols import Aux, Loss, Model, Sampler


def toy(noise=0.1):
    def init(key, batch, frozen):
        dim = batch["x"].shape[-1]
        a, b = jax.random.split(key)
        params = {
            "gen": {"w": 0.1 * jax.random.normal(a, (dim, dim)), "b": jnp.zeros(dim)},
            "disc": {"w": 0.1 * jax.random.normal(b, (dim,))},
        }
        return params, {"gen": {"mean": jnp.zeros(dim)}}

    def generate(params, batch, keys):
        x = batch["x"]
        return (
            x @ params["gen"]["w"]
            + params["gen"]["b"][None]
            + noise * rng.normal(keys, x.shape[1:])
        )

    def score(params, y):
        return y @ params["disc"]["w"]

    def gen_loss(weights, batch, keys, context):
        params, stats = weights.params, weights.stats
        y = generate(params, batch, keys)
        mean = context.across.mean(jnp.mean(y, axis=0))
        spread = jnp.sum(jnp.square(mean - stats["gen"]["mean"]))  # nonlinear in the batch
        loss = jnp.mean(jnp.square(y - batch["x"])) - jnp.mean(score(params, y)) + 0.1 * spread
        return loss, Aux({"mean": jnp.mean(y, axis=0)}, {"spread": spread})

    def disc_loss(weights, batch, keys, context):
        params, stats = weights.params, weights.stats
        y = generate(params, batch, keys)
        real, fake = score(params, batch["x"]), score(params, y)
        loss = jnp.mean(jax.nn.softplus(-real) + jax.nn.softplus(fake))
        return loss, Aux({"mean": jnp.full_like(stats["gen"]["mean"], 1e6)}, {})

    def update_stats(weights, observed, key, step):
        stats = weights.stats
        if "gen" not in observed:
            return stats, {}
        mean = 0.9 * stats["gen"]["mean"] + 0.1 * observed["gen"]["mean"]
        return {"gen": {"mean": mean}}, {"norm": jnp.linalg.norm(mean)}

    return Model(
        init=init,
        losses={"gen": Loss("gen", gen_loss), "disc": Loss("disc", disc_loss)},
        update_stats=update_stats,
        sampler=Sampler(lambda weights, keys, cond: rng.normal(keys, (3,))),
    )
