"""Random weights of Inception, the same everywhere: what torch made of them is stored."""

import numpy as np

from gen_jax.nn.inception import inception_shapes


def random_weights(seed=0):
    """Make a state dict whose activations neither vanish nor explode."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in inception_shapes().items():
        own, deviation = name.removesuffix(".conv.weight"), np.sqrt(2 / np.prod(shape[1:]))
        tensors[name] = (deviation * rng.standard_normal(shape, np.float32)).astype(np.float32)
        for part, low, high in (
            ("weight", 0.7, 1.3), ("bias", -0.2, 0.2), ("running_mean", -0.2, 0.2),
            ("running_var", 0.7, 1.3),
        ):  # fmt: skip
            tensors[f"{own}.bn.{part}"] = rng.uniform(low, high, shape[0]).astype(np.float32)
    return tensors


def some_images():
    """Make two smooth images of another size than the network's."""
    rows, columns = np.mgrid[0:40, 0:52]
    waves = [np.sin(rows / 5 + i) * np.cos(columns / 7 + i) for i in range(6)]
    return np.round(127 + 120 * np.stack(waves).reshape(2, 3, 40, 52)).astype(np.uint8)
