"""F7: digests, and JSON that is what it was or nothing."""

import json
import random

import jax
import numpy as np

from gen_jax.train.integrity import inspect_leaves, seal, unseal

LEAVES = {
    "f32": np.random.default_rng(0).normal(size=(8, 6, 5)).astype(np.float32),
    "bf16": np.arange(48, dtype=np.float32).reshape(8, 6).astype(jax.numpy.bfloat16),
    "i8": np.arange(-8, 8, dtype=np.int8),
    "bool": np.arange(16) % 3 == 0,
    "u32": np.arange(16, dtype=np.uint32),
    "scalar": np.float32(3.5),
    "empty": np.zeros((0, 3), np.float32),
    "long": np.random.default_rng(1).normal(size=(16, 9999)).astype(np.float32),
}


class TestDigest:
    def test_host_and_device_agree_however_the_array_is_split(self):
        from gen_jax.train import integrity

        mesh = jax.make_mesh((8,), ("x",))
        for name, x in LEAVES.items():
            on_host = inspect_leaves({name: x})
            split = jax.sharding.PartitionSpec(*(("x",) if x.ndim and x.size else ()))
            spread = jax.device_put(x, jax.sharding.NamedSharding(mesh, split))
            assert inspect_leaves({name: spread}) == on_host
            compiled = integrity._on_devices()(spread)
            low, high, finite = jax.device_get(compiled)
            assert (f"{int(low):08x}{int(high):08x}", bool(finite)) == next(iter(on_host.values()))

    def test_every_bit_and_every_place_counts(self):
        x = LEAVES["f32"]
        digest = inspect_leaves(x)[""].digest
        rng = random.Random(0)
        for _ in range(300):
            data = bytearray(x.tobytes())
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            assert (
                inspect_leaves(np.frombuffer(data, x.dtype).reshape(x.shape))[""].digest != digest
            )
        for axis in range(3):
            assert inspect_leaves(np.flip(x, axis))[""].digest != digest

    def test_what_is_not_finite_is_seen(self):
        x = LEAVES["f32"].copy()
        x[3, 2, 1] = np.inf
        assert not inspect_leaves(x)[""].finite
        assert inspect_leaves(LEAVES["i8"])[""].finite


def test_sealed_json_is_that_or_nothing():
    content = {"step": 3, "config": {"a": [1, 2.5, None]}, "spec": {"x": [[2], "float32", "00"]}}
    data = json.dumps(seal(content)).encode()
    assert unseal(data) == content
    for place in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            try:
                assert unseal(bytes(flipped)) == content
            except ValueError:
                continue
