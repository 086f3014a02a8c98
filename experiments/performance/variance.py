"""What variances in two passes cost on this device, and what they save.

    python experiments/performance/variance.py

Forward and gradient of a group normalization of a U-Net's activations, the fastest of 20 rounds of
10, beside Linen's with one pass (E[x^2] - E[x]^2) and with two; and the error of each at a mean of
a hundred deviations.
"""

import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.nn import lowering

SHAPES = ((128, 32, 32, 128), (128, 16, 16, 256))


def best_ms(run, *arguments):
    jax.block_until_ready(run(*arguments))
    best = float("inf")
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(10):
            made = run(*arguments)
        jax.block_until_ready(made)
        best = min(best, time.perf_counter() - start)
    return 1e2 * best


def main():
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}")
    print(
        "shape                dtype     norm       forward ms  with gradient ms  error at mean 100"
    )
    for shape in SHAPES:
        for dtype in (jnp.float32, jnp.bfloat16):
            x = jax.random.normal(jax.random.key(0), shape, dtype)
            norms = {
                "ours": lowering.GroupNorm(32, dtype=dtype),
                "one pass": nn.GroupNorm(32, dtype=dtype),
                "two passes": nn.GroupNorm(32, use_fast_variance=False, dtype=dtype),
            }
            far = np.random.default_rng(0).normal(100, 1, (1, *shape[1:])).astype(np.float32)
            groups = far.reshape(1, -1, 32, shape[-1] // 32).astype(np.float64)
            mean, std = (f(groups, axis=(1, 3), keepdims=True) for f in (np.mean, np.std))
            truth = ((groups - mean) / std).reshape(far.shape)
            for name, norm in norms.items():
                variables = norm.init(jax.random.key(0), x)
                forward = jax.jit(norm.apply)
                gradient = jax.jit(
                    jax.grad(
                        lambda x, v, norm=norm: (norm.apply(v, x).astype(jnp.float32) ** 3).sum()
                    )
                )
                exact = norm.clone(dtype=jnp.float32).apply(variables, jnp.asarray(far))
                times = best_ms(forward, variables, x), best_ms(gradient, x, variables)
                print(
                    f"{'x'.join(map(str, shape)):<20} {np.dtype(dtype).name:<9} {name:<11}"
                    f"{times[0]:>10.3f} {times[1]:>15.3f}"
                    f" {np.abs(np.asarray(exact) - truth).max():>16.1e}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
