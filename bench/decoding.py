"""Tokens a second of autoregressive sampling, with the cache and without it.

    python bench/decoding.py [--sides 8,16,28] [--batch 8]

Without the cache every token costs a forward pass over the whole grid, whose last logits alone are
used; such a run is stopped after some tokens, since all cost the same.
"""

import argparse
import time

import jax
import jax.numpy as jnp

from gen_jax.nn.pixelcnn import PixelCNN
from gen_jax.nn.transformer import CausalTransformer
from gen_jax.ops import keys as rng
from gen_jax.ops.decoding import decode

CATEGORIES = 512


def cached(network, variables, batch):
    context = network.apply(variables, batch, None, (), method="context")

    def step(cache, token, index):
        return network.apply(variables, cache, token, index, context, method="decode")

    return step, network.empty_cache(batch)


def uncached(network, variables, batch):
    def step(tokens, token, index):
        # Index 0 writes a token that means nothing to the last place, which no one sees.
        tokens = jax.lax.dynamic_update_slice_in_dim(tokens, token[:, None], index - 1, axis=1)
        logits = network.apply(variables, tokens)
        return jax.lax.dynamic_index_in_dim(logits, index, axis=1, keepdims=False), tokens

    return step, jnp.zeros((batch, network.length), jnp.int32)


def rate(make, network, batch, length, repeats=3):
    variables = network.init(jax.random.key(0), jnp.zeros((1, network.length), jnp.int32))

    @jax.jit
    def run(variables, keys):
        return decode(*make(network, variables, batch), length, keys)

    keys = rng.per_example(jax.random.key(1), 0, batch)
    run(variables, keys).block_until_ready()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        run(variables, keys).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return batch * length / best


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sides", default="8,16,28")
    parser.add_argument("--batch", type=int, default=8)
    arguments = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, batch {arguments.batch}; best of 3")
    print("network       grid   tokens/s with cache  without   ratio")
    for side in map(int, arguments.sides.split(",")):
        shape = (side, side)
        networks = {
            "transformer": CausalTransformer(
                CATEGORIES, shape, width=128, depth=6, num_heads=4, positions="rotary"
            ),
            "pixelcnn": PixelCNN(CATEGORIES, shape, width=64, depth=8, hidden=256),
        }
        for name, network in networks.items():
            fast = rate(cached, network, arguments.batch, network.length)
            slow = rate(uncached, network, arguments.batch, min(16, network.length), repeats=1)
            print(
                f"{name:<12} {side:>3}x{side:<3} {fast:>18,.0f} {slow:>9,.0f} {fast / slow:>7.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
