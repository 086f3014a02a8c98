"""What training steps lowered for GPUs and TPUs hold, without one: each family's shipped config."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from gen_jax.launch.build.experiment import abstract_batch, abstract_state, build
from gen_jax.launch.config.fields import flatten
from gen_jax.launch.config.files import load_config
from gen_jax.launch.runs.workdir import stage_places
from gen_jax.nn.lowering import target
from gen_jax.train.step import make_train_step

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem != "__init__")

# Layers that compute in float32 also where the network computes in bfloat16: the first and the
# last of a network, and distances to a codebook.
_IN_FLOAT32 = re.compile(
    r"(^|/)(conv_in|conv_out|head|logits?|phases|project_\d+|dense_(\d+)"
    r"|mapping_\d+|style|to_colors_\d+)$"  # of styles, which are short, and of colors
    # The last layers of a flow's couplings, and its rotations, whose way back must be exact.
    r"|^((ConvNet/|(transpose\()?jvp\(_OneConv\)+/)out|ij,\.\.\.j->\.\.\.i)$"
    # First and last layers, which see x_t, pixels, and what becomes of them.
    r"|(^|\()(DiT|ViT)\)*/(patches|out)$"
    # Of no network: augmentations, a pool of images; and the last layer once more, for its weight.
    r"|^(transpose\()?jvp\(([a-z]+,[a-z]+->[a-z]+|_Phases)?\)+$"
)


def equations(jaxpr):
    """Iterate over the equations of a program and of all that it calls, each with its program."""
    for equation in jaxpr.eqns:
        yield jaxpr, equation
        for value in equation.params.values():
            for item in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(item, "jaxpr", item)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


def traced(name, platform, *overrides):
    """Trace a config's training step for a platform; also how many arrays its state has."""
    config = load_config(str(ROOT / f"configs/{name}.py"), list(overrides))
    shape, size = tuple(config["data"]["shape"]), config["data"]["batch_size"]
    with target(platform):
        experiment = build(config)
        step = make_train_step(experiment.model, experiment.optimizers)
        state = abstract_state(experiment, shape)
        batch = abstract_batch(experiment.model, shape, size)
        key = jax.eval_shape(lambda: jax.random.key(0))
        frozen = jax.eval_shape(lambda: experiment.frozen)
        made = jax.jit(step, donate_argnums=0).trace(state, frozen, batch, key)
        text = made.lower(lowering_platforms=({"gpu": "cuda"}.get(platform, platform),)).as_text()
    return made.jaxpr.jaxpr, text, len(jax.tree.leaves(state))


@pytest.mark.nightly
@pytest.mark.parametrize("platform", ["gpu", "tpu"])
@pytest.mark.parametrize("name", CONFIGS)
def test_steps_are_ready_for_an_accelerator(name, platform):
    config = load_config(str(ROOT / f"configs/{name}.py"), [])
    if stage_places(config):
        pytest.skip("its network stands alone in another config")
    half = "model.dtype" in flatten(config)
    overrides = ["model.dtype=bfloat16"] if half else []
    if config["model"].get("perceptual", "none") != "none":
        overrides.append("model.perceptual=none")  # whose weights are files of an extra
    jaxpr, text, num_arrays = traced(name, platform, *overrides)

    assert "callback" not in text
    donated = text.count("jax.buffer_donor") + text.count("tf.aliasing_output")
    assert donated == num_arrays

    wide, kinds = set(), set()
    for within, equation in equations(jaxpr):
        kind = equation.primitive.name
        kinds.add(kind)
        if kind == "conv_general_dilated":
            made_by = {v: e.primitive.name for e in within.eqns for v in e.outvars}
            assert "transpose" not in {
                made_by.get(v) for v in equation.invars if isinstance(v, jax.extend.core.Var)
            }
        if kind in ("dot_general", "conv_general_dilated") and any(
            x.aval.dtype == jnp.float32 for x in equation.invars
        ):
            place = str(equation.source_info.name_stack)
            # What a style scales outputs back by is a product of short vectors.
            if kind != "dot_general" or not re.search(r"/layers_\d+$", place):
                wide.add(place)
    if half:
        assert not {place for place in wide if place and not _IN_FLOAT32.search(place)}
    assert not {"product_of_heads", "product_of_images"} & kinds or half  # a CPU's forms
