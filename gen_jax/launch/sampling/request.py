"""What ``gen-jax sample`` is asked for, and whether it makes sense."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gen_jax.errors import ConfigError
from gen_jax.launch.runs.restore import Trained
from gen_jax.protocols import Latents, Sampler

__all__ = ["Request", "as_flags", "check_request"]


class Request(NamedTuple):
    """What is asked for, as the flags of ``gen-jax sample`` say it."""

    num: int
    seed: int
    out: Path
    batch_size: int
    options: Mapping[str, Any]  # of the model's sampler
    inputs: Mapping[str, str] = {}  # of the model: a class, or a file
    trace: Path | None = None
    with_noise: bool = False
    interpolate: int | None = None
    arr_0: bool = False  # call the images so, in an npz


def as_flags(words: str) -> str:
    """Write the names in backquotes, of options and inputs, as flags."""
    return re.sub(r"`(\w+)`", r"--\1", words)


def check_request(trained: Trained, request: Request) -> None:
    """Check that a model can do what it is asked for.

    Raises:
        ConfigError: naming the flag that cannot be, or means nothing.
    """
    for fault in _faults(trained, request):
        raise ConfigError(as_flags(fault))


def _faults(trained: Trained, request: Request) -> Iterator[str]:
    model = trained.experiment.model
    sampler = model.sampler
    assert sampler is not None
    yield from _ability_faults(trained, request)
    for name, given in model.inputs.items():
        # Of labels all come in turn, unless one is chosen.
        if given.needed and given.kind != "label" and name not in request.inputs:
            yield f"--{name}: is required by this model: {given.help or given.kind}"
    between = request.interpolate is not None and "image" in request.inputs
    if between and trained.experiment.num_classes and "label" not in request.inputs:
        yield "--label: is required; both ends of a row are of one class"
    yield from _option_faults(sampler, request)
    if request.with_noise or request.interpolate:
        assert model.latents is not None
        yield from _latent_faults(model.latents, request)
    if request.with_noise and ("image" in request.inputs or request.interpolate):
        yield "--with_noise: goes neither with --image nor with --interpolate"
    if request.with_noise and request.out.suffix != ".npz":
        yield "--with_noise: --out FILE.npz is required"


def _ability_faults(trained: Trained, request: Request) -> Iterator[str]:
    """Find what a model cannot do at all."""
    latents, family = trained.experiment.model.latents, trained.config["family"]
    able = {
        "with_noise": latents is not None and latents.prior is not None,
        "interpolate": latents is not None and latents.prior is not None,
        "trace": trained.experiment.model.sampler is not None
        and trained.experiment.model.sampler.traces,
    }
    asked = {
        "with_noise": request.with_noise,
        "interpolate": request.interpolate is not None,
        "trace": request.trace is not None,
    }
    for flag, wanted in asked.items():
        if wanted and not able[flag]:
            yield f"--{flag}: family {family!r} does not take it"
    if request.with_noise and trained.config.get("stage1"):
        yield (
            "--with_noise: images of a first stage's codes are no pairs with their noise; encoding "
            "them does not give back the codes"
        )


def _option_faults(sampler: Sampler, request: Request) -> Iterator[str]:
    """Find what does not go together."""
    told = set(request.inputs)
    if request.interpolate is not None:
        edits = [n for n in ("strength", "invert") if request.options.get(n)]
        if edits or "mask" in told:
            yield "--interpolate: goes neither with --strength, --invert nor with --mask"
        told -= {"image"}  # its images are the ends of ways, and no image to begin from
    for name, what in sampler.faults(request.options, told).items():
        yield f"--{name}: {what}"


def _latent_faults(latents: Latents, request: Request) -> Iterator[str]:
    """Find what makes a way between latents and images lead elsewhere."""
    flag = "with_noise" if request.with_noise else "interpolate"
    for name in request.options:
        if name not in latents.options:
            yield f"--{name}: does not go with --{flag}, where the codes of samples are chosen"
    told = {"image"} & set(request.inputs) if request.interpolate else set()
    for name, what in latents.faults(request.options, told).items():
        yield f"--{name if name in request.options and name != 'solver' else flag}: {what}"
