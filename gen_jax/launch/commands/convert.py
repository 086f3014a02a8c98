"""``gen-jax import`` and ``gen-jax export``: work directories from and to diffusers' folders."""

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gen_jax.errors import CheckpointError, ConfigError, StorageError
from gen_jax.files import write_file
from gen_jax.interop.diffusers import Foreign, read_architecture, read_scheduler, scheduler_config
from gen_jax.interop.keys import export_weights, import_weights
from gen_jax.interop.safetensors import read_folder, read_json, write_folder, write_json
from gen_jax.launch.commands.convert_text import (
    Text,
    below,
    import_clip,
    leaves,
    read_text_encoder,
)
from gen_jax.launch.config.fields import flatten
from gen_jax.launch.config.schema import defaults_of, fields_of, find_faults, renamed
from gen_jax.launch.runs.restore import load_codec
from gen_jax.launch.runs.stages import take_over
from gen_jax.launch.runs.tokens import digest_of, write_tokenizer
from gen_jax.launch.runs.workdir import STAGE1
from gen_jax.typing import PyTree

__all__ = ["run_export", "run_import"]

T = TypeVar("T")

# Beside the work directory's config: what the model's own was, so that nothing of it is lost.
ORIGINAL = "foreign.json"
# Of autoencoders that do not say: what diffusers took for granted before it was written down.
_SCALING = 0.18215
# Sections of our config that say what a model is.
_CONVERTED = ("model.", "diffusion.")
# What a pipeline calls the network.
_NETWORKS = ("unet", "transformer")
# Beside what is exported: fields of our config that an import takes over again.
OURS = "gen_jax.json"


def run_import(
    source: Path, workdir: Path, *, stage1: Path | None, overrides: Mapping[str, Any]
) -> None:
    """Make a work directory, at step 0, of a folder that diffusers wrote.

    Args:
        source: of one model, or of a pipeline with ``unet`` or ``transformer``, ``scheduler``, and
            ``vae`` where it is of latents.
        workdir: to be made.
        stage1: work directory of the first stage of a model of latents, where the folder has none.
        overrides: fields of the config that the folder does not determine, by dotted name.

    Raises:
        CheckpointError: naming what cannot be understood, is missing or not used.
        StorageError: if there is something in the way, or it cannot be written.
    """
    if (workdir / "config.json").exists():
        raise StorageError(f"{workdir}: holds a run already; choose another --workdir")
    if not source.is_dir():
        raise CheckpointError(f"{source}: no such folder")
    model, scheduler = _find_model(source, stage1)
    if read_json(model / "config.json").get("model_type") == "clip":
        if stage1 is not None:
            raise ConfigError("--stage1: has no meaning for family 'clip'")
        import_clip(model, workdir, overrides)
        return
    config, tensors = read_folder(model)
    foreign = _named(model / "config.json", lambda: read_architecture(config))
    values = _as_fields(foreign.family, {**foreign.values, **scheduler})
    values["data.shape"] = foreign.shape
    values["data.source"] = _synthetic(foreign.shape)  # until somebody trains it
    if (source / OURS).exists():  # written by an export: what diffusers has no words for
        values |= renamed(read_json(source / OURS))
    if stage1 is not None and foreign.family != "diffusion":
        raise ConfigError(f"--stage1: has no meaning for family {foreign.family!r}")
    if foreign.family == "diffusion" and not scheduler and not (source / OURS).exists():
        print(
            "no scheduler beside it: a linear schedule of 1000 steps and eps are taken; "
            "--config.diffusion.schedule and --config.diffusion.prediction say otherwise",
            flush=True,
        )
    text = None
    if model != source and foreign.values.get("context_dim") and (source / "text_encoder").is_dir():
        text = read_text_encoder(source, foreign, values)
    own = workdir / STAGE1
    brings = model != source and (source / "vae").is_dir() and stage1 is None
    try:
        if brings:
            run_import(source / "vae", own, stage1=None, overrides={})
            stage1 = own
        _write(model, workdir, config, foreign, values, tensors, stage1, overrides, text)
    except BaseException:
        if brings:  # so that the next try finds nothing in its way
            shutil.rmtree(own, ignore_errors=True)
        raise


def _find_model(source: Path, stage1: Path | None) -> tuple[Path, dict[str, Any]]:
    """Find the model in a folder, and of a pipeline what its scheduler says."""
    parts = [source / name for name in _NETWORKS if (source / name).is_dir()]
    if not parts:
        if (source / "text_encoder").is_dir():
            raise CheckpointError(f"{source}: {' or '.join(_NETWORKS)} is required beside the text")
        return source, {}
    if stage1 is None:
        _check_no_other_first_stage(source)
    if (source / OURS).exists():
        return parts[0], {}
    path = source / "scheduler" / "scheduler_config.json"
    return parts[0], _named(path, lambda: read_scheduler(read_json(path)))


def _named(path: Path, read: Callable[[], T]) -> T:
    """Name the file in what is wrong with it."""
    try:
        return read()
    except CheckpointError as error:
        if str(path) in str(error):
            raise
        raise CheckpointError(f"{path}: {error}") from error


def _check_no_other_first_stage(pipeline: Path) -> None:
    for name in ("vqvae", "movq"):
        if (pipeline / name).is_dir():
            raise CheckpointError(
                f"{pipeline / name}: the model is of its codes; import this folder by itself, and "
                "name what that makes by --stage1"
            )


def _write(
    source: Path,
    workdir: Path,
    original: Mapping[str, Any],
    foreign: Foreign,
    values: dict[str, Any],
    tensors: Mapping[str, np.ndarray],
    stage1: Path | None,
    overrides: Mapping[str, Any],
    text: Text | None,
) -> None:
    import jax
    import jax.numpy as jnp

    from gen_jax.launch.build.experiment import abstract_batch, abstract_state, build
    from gen_jax.train import checkpoint
    from gen_jax.train.state import init_state

    if foreign.family == "diffusion":
        values = _over_codes(source, values, stage1)
    config = _config(foreign.family, {**values, **overrides}, source)
    experiment = build(config, None if stage1 is None else load_codec(stage1))
    abstract = abstract_state(experiment, tuple(config["data"]["shape"]))
    shapes = {"/".join(path): tuple(x.shape) for path, x in leaves(abstract.params["net"])}
    try:
        if text is None:
            net = import_weights(tensors, foreign.entries, shapes)
        else:
            net = {
                "network": import_weights(tensors, foreign.entries, below(shapes, "network")),
                "text": import_weights(text.tensors, text.entries, below(shapes, "text")),
            }
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error

    def begin(key: jax.Array, frozen: PyTree) -> Any:
        shapes = abstract_batch(experiment.model, tuple(config["data"]["shape"]), 2)
        batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        state = init_state(experiment.model, experiment.optimizers, key, batch, frozen)
        return state.replace(params={}, ema_params={})  # neither drawn nor compiled

    state = jax.jit(begin)(jax.random.key(0), experiment.frozen)
    types = abstract.params["net"]
    params = {"net": jax.tree.map(lambda x, y: np.asarray(x, y.dtype), net, types)}
    stats = _with_scale(state.stats, original) if foreign.family == "vae" else state.stats
    state = state.replace(params=params, ema_params=params, stats=stats)
    state = jax.device_put(state, jax.devices()[0])
    if stage1 is not None and stage1 != workdir / STAGE1:
        take_over(stage1, workdir)
    try:
        meta = {"config": config, "data": None, "stage1": experiment.stage1_digest}
        meta["tokenizer"] = digest_of(None if text is None else text.tokenizer)
        with checkpoint.open_checkpoints(workdir / "checkpoints") as manager:
            checkpoint.save(manager, state, meta, wait=True)
        if text is not None:
            write_tokenizer(text.tokenizer, workdir)
        write_json(workdir / ORIGINAL, original)
        write_file(workdir / "config.json", (json.dumps(config, indent=2) + "\n").encode())
    except BaseException:
        shutil.rmtree(workdir / "checkpoints", ignore_errors=True)
        raise
    num = sum(x.size for x in jax.tree.leaves(params))
    print(f"{original['_class_name']}: {num:,} parameters in {workdir}, step 0", flush=True)


def _synthetic(shape: Sequence[int]) -> str:
    return f"synthetic:{'x'.join(map(str, shape))}"


def _fields(family: str) -> dict[str, str]:
    """Return the fields, by dotted name, of the arguments of a family's network and process."""
    names = [name for name in fields_of(family) if name.startswith(_CONVERTED)]
    return {name.rpartition(".")[2]: name for name in names}


def _as_fields(family: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    fields = _fields(family)
    return {fields[name]: value for name, value in arguments.items()}


def _over_codes(source: Path, values: Mapping[str, Any], stage1: Path | None) -> dict[str, Any]:
    """Return a model of latents the shape of the images that its first stage makes of them."""
    side, _, channels = values["data.shape"]
    values = dict(values)
    if stage1 is None and channels not in (1, 3):
        raise CheckpointError(
            f"{source}: in_channels: {channels}; a model of latents needs --stage1, a work "
            "directory with the autoencoder"
        )
    if stage1 is None:
        return values
    first = load_codec(stage1)
    if first.code_shape != (side, side, channels):
        raise CheckpointError(
            f"{source}: models latents of {(side, side, channels)}, but those of {stage1} are "
            f"{first.code_shape}"
        )
    if values.get("model.beside") == "source":
        # Theirs sees the source's codes as they are, and x's scaled.
        values["model.source_scale"] = _deviation(first)
    return {
        **values,
        "stage1": str(stage1),
        "data.shape": first.image_shape,
        "data.source": _synthetic(first.image_shape),
        "diffusion.clip": False,
    }


def _deviation(stage1: Any) -> float:
    """Return what one unit of a first stage's codes is worth, before they were scaled."""
    import jax

    from gen_jax.ops.latents import scale_of

    moments = jax.tree.map(jax.numpy.asarray, stage1.weights.stats["net"]["moments"])
    mean, deviation = (np.ravel(x) for x in scale_of(moments))
    if not (np.allclose(mean, 0, atol=1e-6) and np.allclose(deviation, deviation[0])):
        raise CheckpointError(
            "scaling_factor: one for all channels, without a shift, is required with in_channels "
            "for a second image"
        )
    return float(deviation[0])


def _config(family: str, values: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """Complete the fields of a family's config, and see that it can be built."""
    config = defaults_of(family)
    known = flatten(config)
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"{name}: no field of family {family!r}")
        *sections, field = name.split(".")
        place = config
        for section in sections:
            place = place[section]
        place[field] = value
    if faults := find_faults(config):
        raise CheckpointError(f"{source}: {'; '.join(map(str, faults))}")
    return config


def _with_scale(stats: PyTree, original: Mapping[str, Any]) -> PyTree:
    """Let the moments of the codes be those that the foreign scale of latents stands for."""
    import jax.numpy as jnp

    scale = float(original.get("scaling_factor", _SCALING) or 0.0)
    if not scale > 0:
        raise CheckpointError(f"scaling_factor: {scale}; a number above 0 is required")
    moments = stats["net"]["moments"]
    num = moments["square"].shape[-1]
    shift = float(original.get("shift_factor") or 0.0)
    if not math.isfinite(shift):
        raise CheckpointError(f"shift_factor: {shift}; a finite number is required")
    mean = jnp.asarray(original.get("latents_mean") or [shift] * num, jnp.float32)
    deviation = jnp.asarray(original.get("latents_std") or [1.0] * num, jnp.float32) / scale
    found = {"mean": mean, "square": deviation**2 + mean**2}
    whole = {name: jnp.broadcast_to(x, moments[name].shape) for name, x in found.items()}
    return {"net": {**stats["net"], "moments": {**moments, **whole}}}


def run_export(workdir: Path, target: Path) -> None:
    """Write a work directory's averaged weights as diffusers would.

    A model of pixels becomes a pipeline, ``unet`` and ``scheduler``; others a model's folder.

    Args:
        workdir: of a diffusion model with a U-Net, a VAE or a VQ-VAE with a convolutional network.
        target: folder to write; must not be there, or be empty.

    Raises:
        CheckpointError: if diffusers has no such model.
        StorageError: if it cannot be written.
    """
    from gen_jax.diffusion.rules import TABLES, beta_range
    from gen_jax.launch.build.processes import make_betas
    from gen_jax.launch.runs.restore import load_weights

    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StorageError(f"{target}: is there already; an empty or new folder is required")
    saved = load_weights(workdir)
    values = flatten(saved.config)
    arguments = {name: values[field] for name, field in _fields(saved.config["family"]).items()}
    original_file = workdir / ORIGINAL
    if original_file.exists():
        original = read_json(original_file)
    else:
        from gen_jax.interop.diffusers import describe

        shape = _code_shape(workdir, saved) or values["data.shape"]
        original = describe(saved.config["family"], arguments, shape)
    foreign = read_architecture(original)
    _check_same(workdir, foreign, values)
    if foreign.family == "vae":
        original = {**original, **_scale_of(saved.weights.stats, original)}
    tensors = export_weights(saved.weights.params["net"], foreign.entries)
    kept = {n: x for n, x in values.items() if n.startswith(_CONVERTED)}
    if foreign.family != "diffusion":
        write_folder(target, original, tensors)
    else:
        table = values["diffusion.schedule"] in TABLES
        betas = make_betas(values).tolist() if table else []
        names = ("num_steps", "beta_start", "beta_end")
        low, high = beta_range(*(arguments[name] for name in names))
        arguments |= {"beta_start": low, "beta_end": high}
        scheduler = scheduler_config(arguments, betas)
        folder = "unet" if values["model.network"] == "unet" else "transformer"
        write_folder(target / folder, original, tensors)
        write_json(target / "scheduler" / "scheduler_config.json", scheduler)
        pipelines = {"DDIMScheduler": "DDIMPipeline", "DDPMScheduler": "DDPMPipeline"}
        kind, name = original["_class_name"], scheduler["_class_name"]
        plain = kind == "UNet2DModel" and not values["model.num_classes"]
        if plain and name in pipelines and not values.get("stage1"):
            index = {
                "_class_name": pipelines[name],
                "scheduler": ["diffusers", name],
                "unet": ["diffusers", kind],
            }
            write_json(target / "model_index.json", index)
    write_json(target / OURS, kept)
    num = sum(x.size for x in tensors.values())
    print(f"{original['_class_name']}: {num:,} parameters of step {saved.step} in {target}")


def _code_shape(workdir: Path, saved: Any) -> tuple[int, ...] | None:
    if not saved.config.get("stage1"):
        return None
    return load_codec(workdir / STAGE1).code_shape


# A network that counts from one is exported with a scheduler that does.
_FREE = ("model.dropout", "model.class_dropout", "model.time_offset", "model.source_scale")


def _check_same(workdir: Path, foreign: Foreign, values: Mapping[str, Any]) -> None:
    """Check that what is exported is what the foreign config says: it may have been changed."""
    for name, wanted in _as_fields(foreign.family, foreign.values).items():
        free = name.startswith("diffusion.") or name in _FREE
        ours = values[name]
        if name == "model.activation":
            ours = ours.replace("auto", "silu")
        if name == "model.num_classes" and ours and values["model.network"] == "unet":
            ours += bool(values["model.class_dropout"])  # one more, for no class
        ours, theirs = (tuple(x) if isinstance(x, list) else x for x in (ours, wanted))
        if not free and ours != theirs:
            raise CheckpointError(
                f"{workdir}: {name}: {ours!r}; {theirs!r} is required for "
                f"{foreign.family} in diffusers' terms"
            )


def _scale_of(stats: PyTree, original: Mapping[str, Any]) -> dict[str, Any]:
    """Return what brings codes to mean 0 and deviation 1, in the words of diffusers' pipelines.

    One factor, where the foreign model had one and it still holds; else each channel's own.
    """
    from gen_jax.ops.latents import scale_of

    mean, deviation = (np.asarray(x, np.float64) for x in scale_of(stats["net"]["moments"]))
    known = float(original.get("scaling_factor", _SCALING) or 0.0)
    shift = float(original.get("shift_factor") or 0.0)
    if (
        known
        and np.allclose(mean, shift, atol=1e-6)
        and np.allclose(deviation * known, 1, rtol=1e-5)
    ):
        return {"scaling_factor": known, **({"shift_factor": shift} if shift else {})}
    return {
        "scaling_factor": 1.0,
        **({"shift_factor": None} if "shift_factor" in original else {}),
        "latents_mean": mean.tolist(),
        "latents_std": deviation.tolist(),
    }
