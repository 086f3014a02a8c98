"""gen-jax with a fault inside: ``python -m tests.reliability.faulty '{"nan": [3]}' train ...``.

``nan``: steps whose loss is not a number. ``nan_from``: the first of all such steps. ``hang``: the
example whose reading never ends; ``raise``: whose reading fails as no reader should; ``die``: which
kills its reader. ``pace``: seconds that a step takes at least. ``cannot_read``: a step that one
``process`` cannot restore.
"""

import json
import os
import sys
import time

import gen_jax.data.sources.folder
import gen_jax.launch.build.experiment


def spoil_losses(steps, first):
    import jax.numpy as jnp

    build = gen_jax.launch.build.experiment.build

    def spoilt(loss):
        def fn(weights, batch, keys, context):
            value, aux = loss.fn(weights, batch, keys, context)
            bad = jnp.isin(context.step + 1, jnp.asarray(steps or [-1]))
            bad |= context.step + 1 >= (first or 2**30)
            return value * jnp.where(bad, jnp.nan, 1), aux

        return loss._replace(fn=fn)

    def build_spoilt(*arguments):
        experiment = build(*arguments)
        losses = {name: spoilt(loss) for name, loss in experiment.model.losses.items()}
        return experiment._replace(model=experiment.model._replace(losses=losses))

    gen_jax.launch.build.experiment.build = build_spoilt


def fail_to_read(step, process):
    """Let one process find a good step damaged, as orbax would."""
    import jax

    from gen_jax.train import checkpoint

    read = checkpoint._restore_items

    def read_or_fail(path, **items):
        if path.name == str(step) and jax.process_index() == process:
            raise checkpoint.DamagedError(f"{path}: damaged: as it seems from here")
        return read(path, **items)

    checkpoint._restore_items = read_or_fail


def slow_down(pace):
    from gen_jax.train import loop

    read, last = loop._Meter.read, [time.monotonic()]

    def read_at_leisure(*arguments):
        last[0] = max(last[0] + pace, time.monotonic() - 1)  # a pause is not made up for
        time.sleep(max(last[0] - time.monotonic(), 0))
        return read(*arguments)

    loop._Meter.read = read_at_leisure


def spoil_reading(fault):
    decode = gen_jax.data.sources.folder.decode_image

    def spoilt(data, where, *more, **options):
        for kind in ("hang", "raise", "die"):
            if where.endswith(fault.get(kind, "?")):
                if kind == "hang":
                    time.sleep(10_000)
                if kind == "die":
                    os.kill(os.getpid(), 9)
                raise RuntimeError("as no reader should")
        return decode(data, where, *more, **options)

    gen_jax.data.sources.folder.decode_image = spoilt


fault = json.loads(os.environ.get("GEN_JAX_FAULT", "{}"))
if fault.keys() & {"hang", "raise", "die"}:
    spoil_reading(fault)  # also in workers, which import this module anew

if __name__ == "__main__":
    fault = json.loads(sys.argv[1])
    os.environ["GEN_JAX_FAULT"] = sys.argv[1]
    if fault.keys() & {"nan", "nan_from"}:
        spoil_losses(fault.get("nan"), fault.get("nan_from"))
    if fault.keys() & {"hang", "raise", "die"}:
        spoil_reading(fault)
    if "cannot_read" in fault:
        fail_to_read(fault["cannot_read"], fault["process"])
    if "pace" in fault:
        slow_down(fault["pace"])
    from gen_jax.launch.cli import main as cli

    sys.argv = ["gen-jax", *sys.argv[2:]]
    cli.run()
