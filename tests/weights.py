"""Weights with nothing at zero, so that every path matters, and with nothing compiled.

Initializing a network operation by operation compiles each of them for each shape, hundreds of
little programs, and as one program still seconds; most tests want any weights at all.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np


def filled(init, *arguments):
    """Draw weights of the shapes that ``init(key, *arguments)`` gives."""
    shapes = jax.eval_shape(init, jax.random.key(0), *arguments)
    rng = np.random.default_rng(0)

    def draw(path, x):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return jnp.zeros(x.shape, x.dtype)
        values = rng.standard_normal(x.shape)
        if getattr(path[-1], "key", None) == "scale":
            values = 1 + 0.2 * values
        else:
            values /= math.sqrt(math.prod(x.shape[:-1])) if len(x.shape) > 1 else 5
        return jnp.asarray(values, x.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def begun(network, layers, *arguments):
    """Give ``filled(network.init, *arguments)``, but some layers as they are initialized."""
    variables = filled(network.init, *arguments)

    def initialized(key):  # as one program, of these layers alone
        params = network.init(key, *arguments)["params"]
        return {name: params[name] for name in layers}

    return {"params": {**variables["params"], **jax.jit(initialized)(jax.random.key(0))}}
