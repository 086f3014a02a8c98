"""What samplers and densities of diffusion models can be asked for, and what goes together.

The records that a model carries, so that command lines and borrowers get the same options, the
same defaults and the same refusals.
"""

from collections.abc import Collection, Mapping
from typing import Any

from gen_jax.diffusion.process import Process
from gen_jax.diffusion.recipes import GRIDS, SOLVERS
from gen_jax.protocols import Option

__all__ = [
    "EDIT_ABOVE",
    "IMAGE_GUIDANCE",
    "LOW_RES_NOISE",
    "density_faults",
    "density_options",
    "inversion_faults",
    "sampler_faults",
    "sampler_options",
    "source_faults",
]

_SHARE = ("a number from 0 to 1", lambda x: 0 <= x <= 1)
_POSITIVE = ("a number from 0", lambda x: x >= 0)
_COUNT = ("a whole number from 1", lambda x: x >= 1)
_STOCHASTIC = ("ddpm", "euler_ancestral")


IMAGE_GUIDANCE = Option(
    float,
    None,
    *_POSITIVE,
    False,
    "strength of the image beside x, apart from the text's: 1 follows it, more keeps more of it",
)
EDIT_ABOVE = Option(
    float,
    None,
    *_SHARE,
    False,
    "with --source_prompt: fill in only where what is predicted for it and for --prompt differs "
    "by this share of the most, as DiffEdit does",
    "source_prompt",
)


def source_faults(options: Mapping[str, Any], told: Collection[str]) -> dict[str, str]:
    """Find what does not go together with what an image to begin from shows.

    Args:
        options: those that were chosen.
        told: names of what the model is told.
    """
    faults = {}
    above = "edit_above" in options
    if "source_prompt" in told:
        if "image" not in told:
            faults["source_prompt"] = "has a meaning only with `image`"
        elif not above and not _asked(options.get("invert")):
            faults["source_prompt"] = "`invert` or `edit_above` is required with it"
    elif above:
        faults["edit_above"] = "`source_prompt` is required with it"
    if above and ("mask" in told or _asked(options.get("invert"))):
        faults["edit_above"] = "goes neither with `mask` nor with `invert`"
    return faults


LOW_RES_NOISE = Option(
    float,
    0.2,
    *_SHARE,
    False,
    "noise added to the image that is made larger; 0 follows it, 1 looks away",
)


def sampler_options(process: Process, *, guided: bool, edits: bool) -> dict[str, Option]:
    """List the options of a sampler.

    Args:
        process: whose steps, variances and range of x there are.
        guided: whether the model can be guided away from no condition.
        edits: whether it can begin with an image.
    """
    options = _solver_options(process)
    if not process.clip:  # no range to scale back to
        del options["quantile"]
    if guided:
        options["guidance"] = Option(
            float, None, *_POSITIVE, False,
            "classifier-free guidance: 1 is the conditional model, 0 the unconditional",
        )  # fmt: skip
    options["guidance_from"] = Option(
        float, None, *_SHARE, False, "lowest time at which guidance acts; 0 is data"
    )
    options["guidance_to"] = Option(
        float, None, *_SHARE, False, "highest time at which guidance acts; 1 is noise"
    )
    return options | (_editing_options() if edits else {})


def _solver_options(process: Process) -> dict[str, Option]:
    most, variances = process.most_steps, process.variances
    return {
        "solver": Option(
            str, "ddim", f"one of {', '.join(SOLVERS)}", SOLVERS.__contains__, True,
            "ddim and euler: first order; heun and dpmpp_2m: second; ddpm and euler_ancestral: "
            "with fresh noise in each step",
        ),
        "steps": Option(
            int, None, f"a whole number from 1 to {most}", lambda steps: 1 <= steps <= most, True,
            "of the solver; by default 50, 18 of heun, 20 of dpmpp_2m, and all of ddpm",
        ),
        "grid": Option(
            str, process.default_grid, f"one of {', '.join(GRIDS)}", GRIDS.__contains__, True,
            "where the steps are: uniform in time, finer near the data, or by noise level",
        ),
        "eta": Option(
            float, None, *_SHARE, False,
            "fresh noise of ddim (0 by default: deterministic) and euler_ancestral (1)",
        ),
        "variance": Option(
            str, variances[0], f"one of {', '.join(variances)}", variances.__contains__, True,
            "noise of ddpm",
        ),
        "quantile": Option(
            float, None, *_SHARE, False,
            "dynamic thresholding: of the absolute values of x_0, which are scaled back to 1",
        ),
        "churn": Option(
            float, None, *_POSITIVE, False,
            "noise added before each step, S_churn of Karras et al. 2022",
        ),
        "churn_from": Option(
            float, None, *_POSITIVE, False, "lowest noise level with churn, S_tmin",
        ),
        "churn_to": Option(
            float, None, *_POSITIVE, False, "highest noise level with churn, S_tmax",
        ),
        "churn_noise": Option(
            float, None, *_POSITIVE, False, "standard deviation of that noise, S_noise",
        ),
    }  # fmt: skip


def _editing_options() -> dict[str, Option]:
    return {
        "strength": Option(
            float, None, "a number above 0 to 1", lambda x: 0 < x <= 1, False,
            "with --image: the share of the steps that are walked, from the image and their noise",
            "image",
        ),
        "invert": Option(
            bool, False, "", lambda x: True, True,
            "with --image: walk to its noise and back",
            "image",
        ),
        "resamples": Option(
            int, 1, *_COUNT, True,
            "with --mask: how often each stretch is walked, as RePaint does",
            "mask",
        ),
        "jump": Option(
            int, 10, *_COUNT, True,
            "with --mask: steps in such a stretch",
            "mask",
        ),
    }  # fmt: skip


def density_options(process: Process) -> dict[str, Option]:
    """List the options of a density, the variational bound or the probability flow's."""
    kinds, most = ("bound", "flow"), process.most_steps
    variances = process.likelihood_variances
    kind = "flow" if process.coupled else "bound"
    return {
        "likelihood": Option(
            str, kind, "bound or flow", kinds.__contains__, True,
            "the variational bound, or the exact density of the probability flow",
        ),
        "likelihood_steps": Option(
            int, None, f"a whole number from 1 to {most}", lambda x: 1 <= x <= most, True,
            "of the bound; by default all of the schedule",
        ),
        "likelihood_variance": Option(
            str, variances[0], f"one of {', '.join(variances)}", variances.__contains__, True,
            "of the steps of the bound; fixed_large: beta, but in the last step the posterior's, "
            "as Ho et al. 2020",
        ),
        "probes": Option(
            int, 1, *_COUNT, True, "random vectors for the flow's divergence",
        ),
        "tolerance": Option(
            float, 1e-4, "a number above 0", lambda x: x > 0, False,
            "of a step of the flow's solver",
        ),
    }  # fmt: skip


def sampler_faults(
    process: Process, options: Mapping[str, Any], told: Collection[str]
) -> dict[str, str]:
    """Find what does not go together in a request for samples.

    Args:
        process: of the model.
        options: those that were chosen; of traced numbers it is seen only that they are there.
        told: names of what the model is told: ``"image"`` and ``"mask"`` matter here.
    """
    faults = _solver_faults(options) | _coupling_faults(process, options)
    # By identity: a traced strength is neither true nor false.
    edits = [name for name in ("strength", "invert") if _asked(options.get(name))]
    if "image" not in told:
        for name in (*(["mask"] if "mask" in told else []), *edits):
            faults[name] = "has a meaning only with `image`"
    elif not edits and "mask" not in told:
        faults["image"] = "`strength`, `mask`, `invert` or `interpolate` is required with it"
    if "invert" in edits and (len(edits) == 2 or "mask" in told):
        faults["invert"] = "goes neither with `strength` nor with `mask`"
    elif "invert" in edits:
        found = inversion_faults(process, options, told)
        if reasons := [found[name] for name in ("solver", "prediction") if name in found]:
            faults["invert"] = reasons[0]
        if "quantile" in found:
            faults["quantile"] = found["quantile"]
    for name in ("resamples", "jump"):
        if name in options and "mask" not in told:
            faults[name] = "has a meaning only with `mask`"
    if "jump" in options and options.get("resamples", 1) == 1 and "mask" in told:
        faults["jump"] = "has a meaning only with `resamples` above 1"
    if "mask" in told and options.get("solver") == "dpmpp_2m":
        faults["mask"] = "goes with solvers of one step, not with dpmpp_2m"
    return faults


def _solver_faults(options: Mapping[str, Any]) -> dict[str, str]:
    solver = options.get("solver", "ddim")
    faults = {}
    for name, needed in (
        ("eta", ("ddim", "euler_ancestral")),
        ("variance", ("ddpm",)),
        ("churn", ("heun", "euler")),
    ):
        if name in options and solver not in needed:
            faults[name] = f"has a meaning only with `solver` {' or '.join(needed)}"
    for name in ("churn_from", "churn_to", "churn_noise"):
        if name in options and "churn" not in options:
            faults[name] = "has a meaning only with `churn`"
    guided = "guidance" in options or "classifier_scale" in options
    for name in ("guidance_from", "guidance_to"):
        if name in options and not guided:
            faults[name] = "has a meaning only with `guidance` or `classifier`"
    low, high = options.get("guidance_from", 0.0), options.get("guidance_to", 1.0)
    if _known(low) and _known(high) and low > high:
        faults["guidance_from"] = "at most `guidance_to` is required"
    return faults


_COUPLED = "the noise of this model was paired with its data (pairing or reflow)"


def _coupling_faults(process: Process, options: Mapping[str, Any]) -> dict[str, str]:
    """Find what takes -eps / sigma for the score, where it is none."""
    if not process.coupled:
        return {}
    faults = {}
    if options.get("solver", "ddim") in _STOCHASTIC:
        faults["solver"] = f"{_COUPLED}, so that a solver which adds noise of its own is wrong"
    for name, least in (("eta", 0), ("churn", 0), ("resamples", 1)):
        if _known(options.get(name)) and options[name] > least:
            faults[name] = f"{_COUPLED}, so that noise added on the way is wrong"
    if "classifier_scale" in options:
        faults["classifier"] = f"{_COUPLED}, so that a classifier cannot guide it"
    return faults


def inversion_faults(
    process: Process, options: Mapping[str, Any], told: Collection[str]
) -> dict[str, str]:
    """Find what makes a way between noise and image lead elsewhere.

    Args:
        process: of the model.
        options: those that were chosen.
        told: names of what the model is told; with ``"image"`` the way begins there.
    """
    faults = {}
    added = any(_known(options.get(name)) and options[name] > 0 for name in ("eta", "churn"))
    if options.get("solver", "ddim") in _STOCHASTIC or added:
        faults["solver"] = "a deterministic solver is required; this one adds noise of its own"
    if "image" not in told:
        return faults
    alpha, _ = process.end()
    if process.parameterization.name == "eps" and alpha < 1e-3:
        what = "at t = 1 of this schedule eps says too little of x_0 to come back"
        faults["prediction"] = f"{what}; a model of 'v' is required"
    if "quantile" in options:
        faults["quantile"] = "does not go with a way to an image's noise and back"
    for name in ("guidance", "classifier_scale"):
        if name in options:
            faults[name] = "would lead elsewhere than back to the image"
    return faults


def density_faults(
    process: Process, options: Mapping[str, Any], told: Collection[str]
) -> dict[str, str]:
    """Find what does not go together in a request for a likelihood."""
    del told
    kind = options.get("likelihood", "flow" if process.coupled else "bound")
    faults = {}
    if process.coupled and kind == "bound":
        faults["likelihood"] = f"{_COUPLED}, so that the bound is none; flow is required"
    for name, needed in (
        ("likelihood_steps", "bound"),
        ("likelihood_variance", "bound"),
        ("probes", "flow"),
        ("tolerance", "flow"),
    ):
        if name in options and kind != needed:
            faults[name] = f"has a meaning only with `likelihood` {needed}"
    alpha, _ = process.end()
    if kind == "flow" and process.parameterization.name == "eps" and alpha < 1e-3:
        faults["likelihood"] = (
            "flow: at t = 1 of this schedule eps says too little of x_0; a model of 'v', or the "
            "bound, is required"
        )
    return faults


def _asked(value: Any) -> bool:
    return value is not None and value is not False


def _known(value: Any) -> bool:
    """Return whether a number can be looked at: a traced one cannot."""
    return isinstance(value, (int, float))
