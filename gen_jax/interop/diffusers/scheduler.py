"""Schedulers: the noise that a model was trained with, read and written."""

from collections.abc import Mapping, Sequence
from typing import Any

from gen_jax.errors import CheckpointError

__all__ = ["SCHEDULERS", "read_scheduler", "scheduler_config"]

_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}


_PREDICTIONS = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}


# Those that work on the noise of DDPM, whatever they make of it, and those of flows.
SCHEDULERS = (
    *("DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler"),
    *("EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler"),
    *("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler"),
    *("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DEISMultistepScheduler"),
    *("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"),
)


def read_scheduler(config: Mapping[str, Any]) -> dict[str, Any]:
    """Read the noise of a scheduler's config, as arguments of ours; solvers are for sampling.

    Raises:
        CheckpointError: naming the key, its value and what is accepted.
    """
    name = str(config.get("_class_name"))
    if name not in SCHEDULERS:
        raise CheckpointError(f"_class_name: {name!r}; one of {', '.join(SCHEDULERS)} is required")
    if config.get("trained_betas") is not None:
        raise CheckpointError("trained_betas: a schedule by name is required")
    steps = config.get("num_train_timesteps", 1000)
    if type(steps) is not int or steps < 1:
        raise CheckpointError(f"num_train_timesteps: {steps!r}; a whole number from 1 is required")
    # The network is handed the number of a step, ours a time in [0, 1].
    scale = {} if steps == 1000 else {"time_scale": float(steps)}
    if name.startswith("FlowMatch"):
        if config.get("shift", 1.0) != 1.0 or config.get("use_dynamic_shifting"):
            raise CheckpointError(f"shift: {config.get('shift')}; 1.0 is required")
        flow = {"schedule": "flow", "prediction": "velocity"}
        # It hands over T t, and clips nothing.
        return {**flow, **scale, "time_offset": 0.0, "clip": False}
    _expect_scheduler(config)
    ours = _SCHEDULER_DEFAULTS.get(name, {})
    found = {}
    for key, default, names, field in (
        ("beta_schedule", "linear", _SCHEDULES, "schedule"),
        ("prediction_type", "epsilon", _PREDICTIONS, "prediction"),
    ):
        value = config.get(key, default)
        if value not in names:
            raise CheckpointError(f"{key}: {value!r}; one of {', '.join(names)} is required")
        found[field] = names[value]
    return {
        **found,
        **scale,
        "num_steps": steps,
        "beta_start": float(config.get("beta_start", ours.get("beta_start", 1e-4))),
        "beta_end": float(config.get("beta_end", ours.get("beta_end", 0.02))),
        "clip": bool(config.get("clip_sample", name in _CLIPPING)),
        "zero_terminal_snr": bool(config.get("rescale_betas_zero_snr", False)),
    }


# Whose samples are clipped where their config does not say, and where other defaults differ.
_CLIPPING = ("DDPMScheduler", "DDIMScheduler")


_SCHEDULER_DEFAULTS = {
    name: {"beta_start": 0.00085, "beta_end": 0.012}
    for name in (
        *("HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"),
    )
}


def _expect_scheduler(config: Mapping[str, Any]) -> None:
    """Check that a scheduler says nothing that would change the process unseen."""
    for key, accepted in (
        ("use_flow_sigmas", (False,)),
        ("timestep_type", ("discrete",)),
        ("clip_sample_range", (1, 1.0)),
        ("thresholding", (False,)),
        # Raw log-variances are another output than a place between two of them.
        (
            "variance_type",
            ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned_range"),
        ),
    ):
        if config.get(key) is not None and config[key] not in accepted:
            raise CheckpointError(f"{key}: {config[key]!r}; {accepted[0]!r} is required")


def scheduler_config(values: Mapping[str, Any], betas: Sequence[float]) -> dict[str, Any]:
    """Write the noise of our config as a scheduler's.

    Args:
        values: arguments of the model's network and process, by name.
        betas: beta_1 to beta_T, of discrete schedules. A network that counts its steps from one is
            told T + 1 of them, of which the first adds no noise: the index that diffusers hands it
            is then the number that it knows.

    Raises:
        CheckpointError: if diffusers has no such schedule or prediction.
    """
    schedules = {ours: theirs for theirs, ours in _SCHEDULES.items()}
    predictions = {ours: theirs for theirs, ours in _PREDICTIONS.items()}
    schedule, prediction = values["schedule"], values["prediction"]
    from_one = values["time_offset"] == 0
    steps = values["num_steps"]
    scale = values["time_scale"] or 1000.0
    if (schedule, prediction) == ("flow", "velocity") and from_one:
        if scale != int(scale):
            raise CheckpointError(f"time_scale: got {scale}; a whole number is required")
        name = "FlowMatchEulerDiscreteScheduler"
        return {"_class_name": name, "num_train_timesteps": int(scale)}
    if schedule not in schedules or prediction not in predictions:
        raise CheckpointError(
            f"schedule, prediction: {schedule!r} with {prediction!r} has no counterpart in "
            "diffusers"
        )
    # They hand the network the number of a step, and know no other scale.
    if steps != scale:
        what = f"model.time_scale {steps} is required for diffusers, which hands over whole numbers"
        raise CheckpointError(f"num_steps: got {steps} with time_scale {scale:g}; {what}")
    learned = values["learned_variance"]
    # DDIM does not know what to do with variances.
    kind = {"_class_name": "DDPMScheduler", "variance_type": "learned_range"}
    return {
        **(kind if learned else {"_class_name": "DDIMScheduler", "set_alpha_to_one": True}),
        "num_train_timesteps": steps + from_one,
        "beta_schedule": schedules[schedule],
        "beta_start": values["beta_start"],
        "beta_end": values["beta_end"],
        "rescale_betas_zero_snr": values["zero_terminal_snr"] and not from_one,
        "trained_betas": [0.0, *map(float, betas)] if from_one else None,
        "prediction_type": predictions[prediction],
        "clip_sample": values["clip"],
        # Theirs goes back by whole numbers of steps: from 981 by 20 it meets every index that it
        # asks the network about, from 1000 of 1001 it does not.
        "timestep_spacing": "leading" if from_one else "trailing",
        "steps_offset": int(from_one),
    }
