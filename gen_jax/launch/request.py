"""What ``gen-jax sample`` is asked for, and whether it makes sense."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gen_jax.errors import ConfigError
from gen_jax.launch.sampling import check_label
from gen_jax.launch.workdir import Trained

__all__ = ["Request", "check_request"]


class Request(NamedTuple):
    """What is asked for, as the flags of ``gen-jax sample`` say it."""

    num: int
    seed: int
    out: Path
    label: int | None
    batch_size: int
    options: Mapping[str, Any]  # the model's own
    image: Path | None = None
    mask: Path | None = None
    context: Path | None = None
    trace: Path | None = None
    with_noise: bool = False
    interpolate: int | None = None
    classifier: Path | None = None
    classifier_scale: float = 1.0


def check_request(trained: Trained, request: Request) -> None:
    """See that a model can do what it is asked for.

    Raises:
        ConfigError: naming the flag that cannot be, or means nothing.
    """
    if request.classifier is None:
        check_label(trained.experiment.num_classes, request.label)
    elif trained.experiment.num_classes is None and request.label is None:
        raise ConfigError("--label: is needed; the model itself knows no classes to guide to")
    faults = (_family_faults(trained, request), _fit_faults(request), _noise_faults(request))
    for fault in itertools.chain(*faults, _strength_faults(request)):
        raise ConfigError(fault)


def _family_faults(trained: Trained, request: Request) -> Iterator[str]:
    """Find what a model cannot be given."""
    givens, family = trained.experiment.model.givens, trained.config["family"]
    asked = {
        "image": ("image", request.image is not None),
        "mask": ("mask", request.mask is not None),
        "with_noise": ("noise", request.with_noise),
        "interpolate": ("noise", request.interpolate is not None),
        "trace": ("noise", request.trace is not None),
    }
    for flag, (name, wanted) in asked.items():
        if wanted and name not in givens:
            yield f"--{flag}: family {family!r} does not take it"
    process = trained.config.get("diffusion", {})
    inverts = request.options.get("invert") or (request.image and request.interpolate)
    if inverts and (process.get("schedule"), process.get("prediction")) == ("cosine", "eps"):
        flag = "invert" if request.options.get("invert") else "interpolate"
        yield (
            f"--{flag}: at t = 1 of a cosine schedule, eps says too little of x_0 to come back; a "
            "model of 'v' is needed"
        )
    model = trained.config["model"]
    dim, factor = model.get("context_dim", 0), model.get("low_res_factor", 0)
    if bool(dim) != (request.context is not None):
        what = "is needed by this model" if dim else "this model knows no sequences"
        yield f"--context: {what} (model.context_dim is {dim})"
    if factor and request.image is None:
        yield f"--image: is needed; this model makes images {factor} times larger"
    if factor and (request.mask or request.interpolate or _edits(request)):
        yield "--image: this model makes it larger, and takes no other change"
    between = request.interpolate and request.image is not None
    if between and trained.experiment.num_classes and request.label is None:
        yield "--label: is needed; both ends of a row are of one class"
    if request.with_noise and trained.config.get("stage1"):
        yield (
            "--with_noise: images of a first stage's codes are no pairs with their noise; encoding "
            "them does not give back the codes"
        )
    uses = request.mask or request.interpolate or _edits(request)
    if request.image is not None and not uses and not factor:
        yield "--image: --strength, --mask, --invert or --interpolate is needed with it"


def _edits(request: Request) -> list[str]:
    return [name for name in ("strength", "invert") if request.options.get(name)]


def _fit_faults(request: Request) -> Iterator[str]:
    """Find what does not go together."""
    options, edits = request.options, _edits(request)
    solver = options.get("solver", "ddim")
    if request.image is None and (request.mask is not None or edits):
        flag = "mask" if request.mask is not None else edits[0]
        yield f"--{flag}: has a meaning only with --image"
    if "invert" in edits and (len(edits) == 2 or request.mask is not None):
        yield "--invert: goes neither with --strength nor with --mask"
    leads_back = "invert" in edits or (request.interpolate and request.image is not None)
    if leads_back and "quantile" in options:
        yield "--quantile: does not go with a way to an image's noise and back"
    if request.interpolate and (edits or request.mask is not None):
        yield "--interpolate: goes neither with --strength, --invert nor with --mask"
    for name in ("resamples", "jump"):
        if name in options and request.mask is None:
            yield f"--{name}: has a meaning only with --mask"
    if "jump" in options and options.get("resamples", 1) == 1 and request.mask is not None:
        yield "--jump: has a meaning only with --resamples above 1"
    if request.mask is not None and solver == "dpmpp_2m":
        yield "--mask: goes with solvers of one step, not with dpmpp_2m"


def _noise_faults(request: Request) -> Iterator[str]:
    """Find what needs a deterministic way between noise and image, and has none."""
    options = request.options
    solver = options.get("solver", "ddim")
    flags = {"with_noise": request.with_noise, "interpolate": request.interpolate}
    flags["invert"] = options.get("invert")
    for name in (name for name, asked in flags.items() if asked):
        if solver in ("ddpm", "euler_ancestral") or options.get("eta") or options.get("churn"):
            yield f"--{name}: a deterministic solver is needed; this one adds noise of its own"
    if request.with_noise and (request.image or request.interpolate):
        yield "--with_noise: goes neither with --image nor with --interpolate"
    if request.with_noise and request.out.suffix != ".npz":
        yield "--with_noise: --out FILE.npz is needed"


def _strength_faults(request: Request) -> Iterator[str]:
    """Find strengths of what is not asked for."""
    options = request.options
    for name in ("churn_from", "churn_to", "churn_noise"):
        if name in options and "churn" not in options:
            yield f"--{name}: has a meaning only with --churn"
    guided = "guidance" in options or request.classifier is not None
    for name in ("guidance_from", "guidance_to"):
        if name in options and not guided:
            yield f"--{name}: has a meaning only with --guidance or --classifier"
    if options.get("guidance_from", 0.0) > options.get("guidance_to", 1.0):
        yield "--guidance_from: at most --guidance_to is needed"
    if request.image is not None and request.interpolate and guided:
        yield "--interpolate: between images goes without guidance, which would lead elsewhere"
