"""``gen-jax export --format stablehlo``: one file that samples wherever JAX is, without gen_jax."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from gen_jax.errors import ConfigError
from gen_jax.files import write_file
from gen_jax.launch.runs.restore import Trained
from gen_jax.launch.sampling.draw import conditions_from_data
from gen_jax.ops import keys as rng
from gen_jax.typing import Array

__all__ = ["export_program"]


def export_program(trained: Trained, out: Path, num: int, options: Mapping[str, Any]) -> None:
    """Write a sampler as serialized StableHLO, its weights inside.

    The program is ``(seed uint32, **told) -> uint8 [num, H, W, C]``; what it is told are arrays of
    ``num`` rows, by name. Sample i is that of ``gen-jax sample`` with the same seed and options. It
    runs on devices of the kind that is here:

        from jax import export
        program = export.deserialize(open("digits.stablehlo", "rb").read())
        images = program.call(np.uint32(0), {"label": labels})

    Args:
        trained: a work directory's model.
        out: the file.
        num: samples of a call.
        options: of the sampler.

    Raises:
        ConfigError: if the model does not generate.
    """
    model = trained.experiment.model
    sampler = model.sampler
    if sampler is None:
        raise ConfigError(f"--format: family {trained.config['family']!r} does not generate")
    shape = tuple(trained.config["data"]["shape"])
    told = _told(trained, shape, num)
    weights = jax.device_get(trained.weights)

    def sample(seed: Array, cond: Mapping[str, Array]) -> Array:
        keys = rng.per_example(jax.random.key(seed), 0, num)
        return sampler.draw(weights, keys, cond, **options)

    abstract = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in told.items()}
    made = export.export(jax.jit(sample))(jax.ShapeDtypeStruct((), jnp.uint32), abstract)
    try:
        data = made.serialize()
    except ImportError as error:
        raise ConfigError(
            "--format: stablehlo needs flatbuffers, of an extra: pip install 'gen-jax[export]'"
        ) from error
    write_file(out, bytes(data))
    names = ", ".join(f"{name} {x.dtype} {list(x.shape)}" for name, x in told.items()) or "nothing"
    print(
        f"{out}: {len(data) / 2**20:.1f} MiB, for {', '.join(made.platforms)}; told {names}; "
        f"gives uint8 {[num, *shape]}",
        flush=True,
    )


def _told(trained: Trained, shape: tuple[int, ...], num: int) -> dict[str, np.ndarray]:
    """Make an example of all that the model needs to be told."""
    model = trained.experiment.model
    kinds = {"tokens": np.int32, "vectors": np.float32, "mask": np.float32}
    examples: dict[str, Any] = {"image": np.zeros((num, *shape), np.uint8)}
    for name, given in model.inputs.items():
        if given.kind in kinds:
            own = tuple(1 if dim == -1 else dim for dim in given.shape)
            examples[name] = np.zeros((num, *own), kinds[given.kind])
        elif given.kind == "image" and given.derive is None:
            examples[name] = np.zeros((num, *(given.shape or shape)), np.uint8)
    return conditions_from_data(model, examples, every_class=True)
