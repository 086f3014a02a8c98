"""What diffusers' schedulers make of given network outputs and given noise.

``python -m tests.diffusion.diffusers_reference`` writes ``diffusers_reference.npz``; it needs torch
and diffusers, which ``make test-parity`` installs. The stored file holds their versions.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

FILE = Path(__file__).with_suffix(".npz")
SHAPE = (2, 2, 2, 1)  # a batch of two tiny images, channels last


class Case(NamedTuple):
    """One run of a scheduler."""

    sampler: str  # ddpm or ddim
    schedule: str  # linear or cosine
    prediction: str  # eps, x_0 or v
    spacing: str  # leading or trailing
    steps: int
    variance: str = "beta"
    eta: float = 0.0
    clip: bool = False


# DDPM only on grids that end with index 0: on others diffusers' DDPMScheduler adds noise to its
# last output, because it asks whether the index is 0 and not whether the step is the last.
CASES = {
    "ddpm_full_grid": Case("ddpm", "linear", "eps", "leading", 1000),
    "ddpm_beta_tilde": Case("ddpm", "linear", "eps", "leading", 50, variance="beta_tilde"),
    "ddpm_cosine_v": Case("ddpm", "cosine", "v", "leading", 40),
    "ddpm_clipped": Case("ddpm", "linear", "x_0", "leading", 25, clip=True),
    "ddim": Case("ddim", "linear", "eps", "leading", 50),
    "ddim_trailing_v": Case("ddim", "cosine", "v", "trailing", 20),
    "ddim_eta": Case("ddim", "linear", "eps", "leading", 50, eta=0.6),
    "ddim_eta_1_clipped": Case("ddim", "linear", "x_0", "trailing", 20, eta=1.0, clip=True),
}


def network(x, index, xp):
    """Stand in for a network: the same formula in any array library."""
    return 0.5 * xp.tanh(x) + 0.1 * xp.cos(index / 100)


def draw(case, name):
    """Give the starting point and the noise of every step."""
    rng = np.random.default_rng(sum(map(ord, name)))
    start = rng.standard_normal(SHAPE).astype(np.float32)
    return start, rng.standard_normal((case.steps, *SHAPE)).astype(np.float32)


def run_diffusers(case, start, noise):
    """Run diffusers' scheduler and give the points after every step."""
    import torch
    from diffusers import DDIMScheduler, DDPMScheduler
    from diffusers.schedulers import scheduling_ddpm

    common = {
        "num_train_timesteps": 1000,
        "beta_schedule": {"linear": "linear", "cosine": "squaredcos_cap_v2"}[case.schedule],
        "prediction_type": {"eps": "epsilon", "x_0": "sample", "v": "v_prediction"}[
            case.prediction
        ],
        "timestep_spacing": case.spacing,
        "clip_sample": case.clip,
    }
    if case.sampler == "ddpm":
        kind = {"beta": "fixed_large", "beta_tilde": "fixed_small"}[case.variance]
        scheduler = DDPMScheduler(**common, variance_type=kind)
    else:
        scheduler = DDIMScheduler(**common)
    scheduler.set_timesteps(case.steps)

    x = torch.from_numpy(start)
    points = []
    original = scheduling_ddpm.randn_tensor
    try:
        for step, index in enumerate(scheduler.timesteps):
            output = network(x, index.float(), torch)
            given = torch.from_numpy(noise[step])
            scheduling_ddpm.randn_tensor = lambda *args, given=given, **kwargs: given
            if case.sampler == "ddpm":
                x = scheduler.step(output, index, x).prev_sample
            else:
                x = scheduler.step(
                    output,
                    index,
                    x,
                    eta=case.eta,
                    use_clipped_model_output=case.clip,
                    variance_noise=given if case.eta else None,
                ).prev_sample
            points.append(x.numpy())
    finally:
        scheduling_ddpm.randn_tensor = original
    return np.stack(points)


def kept(points):
    """Thin a trajectory for storage: twenty points, and the last."""
    return points[:: max(1, len(points) // 20)], points[-1]


def main():
    import diffusers
    import torch

    arrays = {
        "versions": np.array([f"diffusers {diffusers.__version__}", f"torch {torch.__version__}"])
    }
    for name, case in CASES.items():
        points, last = kept(run_diffusers(case, *draw(case, name)))
        arrays |= {f"{name}/points": points, f"{name}/last": last}
    np.savez_compressed(FILE, **arrays)


if __name__ == "__main__":
    main()
