"""A small state on disk, and ways to do it harm."""

import jax
import numpy as np
import optax

from gen_jax.launch.runs.newest import newest_good, set_aside
from gen_jax.launch.runs.workdir import checkpoint_steps
from gen_jax.train import checkpoint
from gen_jax.train.engines import jit_engine
from gen_jax.train.integrity import inspect_leaves
from gen_jax.train.sharding import make_mesh
from tests.train.toy import toy

# Arrays large enough not to lie in the nodes of orbax's index, which have checksums, and random
# enough not to be compressed: where a bit flips, a number changes.
BATCH = {"x": np.random.default_rng(0).normal(size=(8, 128)).astype(np.float32)}

OPTIMIZERS = {"gen": optax.adam(0.1), "disc": optax.adam(0.1)}


def files(path):
    return sorted(p for p in path.rglob("*") if p.is_file() and p.stat().st_size)


def array_data(item):
    """Give the largest file that holds numbers, which orbax reads and does not check."""
    data = [p for p in files(item) if "process_0/d/" in str(p)]
    return max(data, key=lambda p: p.stat().st_size)


def wreck(item):
    """Flip a bit of every byte of array data, whichever of them are read."""
    for path in files(item):
        if "process_0/d/" in str(path):
            path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))


def mutate(path, how, rng):
    data = bytearray(path.read_bytes())
    if how == "flip":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how == "truncate":
        del data[rng.randrange(len(data)) :]
    elif how == "zero":
        begin = rng.randrange(len(data))
        end = min(begin + 512, len(data))
        data[begin:end] = bytes(end - begin)
    if how == "delete":
        path.unlink()
    else:
        path.write_bytes(data)


def restored(workdir, target, **options):
    folder = workdir / "checkpoints"
    step, (state, _) = newest_good(
        folder,
        checkpoint_steps(workdir),
        lambda step: checkpoint.restore(folder, step, target),
        rename=set_aside,
        **options,
    )
    return step, {name: leaf.digest for name, leaf in inspect_leaves(state).items()}


def one_device_engine():
    """Make the engine of the toy model whose state is saved."""
    return jit_engine(toy(), OPTIMIZERS, make_mesh(devices=jax.devices()[:1]))
