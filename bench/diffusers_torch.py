"""One training step and one run of 50 DDIM steps in torch and diffusers, to compare ours with.

Reads what ``gen-jax export`` wrote: the same weights as ours. Needs torch and diffusers, and
nothing of gen_jax. Prints one JSON object.

    python bench/diffusers_torch.py --model EXPORTED --batch 32 --repeats 5 --out torch.npz
"""

import argparse
import json
import time

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DModel


def best_of(repeats, action):
    times = []
    for _ in range(repeats + 1):  # the first warms up
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        begin = time.perf_counter()
        action()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - begin)
    return sorted(times[1:])[repeats // 2]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", required=True)
    flags = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = UNet2DModel.from_pretrained(f"{flags.model}/unet", low_cpu_mem_usage=False).to(device)
    scheduler = DDIMScheduler.from_pretrained(f"{flags.model}/scheduler")
    config = net.config
    shape = (flags.batch, config.in_channels, config.sample_size, config.sample_size)
    rng = np.random.default_rng(0)
    x, eps = (
        torch.from_numpy(rng.standard_normal(shape).astype(np.float32)).to(device) for _ in range(2)
    )
    t = torch.from_numpy(rng.integers(1, 1000, flags.batch)).to(device)
    adam = torch.optim.Adam(net.parameters(), lr=1e-5)

    def train():
        adam.zero_grad(set_to_none=True)
        noisy = scheduler.add_noise(x, eps, t)
        loss = torch.nn.functional.mse_loss(net(noisy, t).sample, eps)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        adam.step()
        return float(loss)

    @torch.no_grad()
    def sample():
        scheduler.set_timesteps(50)
        y = x
        for step in scheduler.timesteps:
            # Where x_0 is clipped, the noise that agrees with it, as ours and as the paper's code.
            out = net(y, step).sample
            y = scheduler.step(out, step, y, use_clipped_model_output=True).prev_sample
        return y.cpu().numpy()

    net.eval()
    first = sample()  # before training changes the weights
    results = {"sample_s": best_of(flags.repeats, sample)}
    net.train()
    results["train_step_s"] = best_of(flags.repeats, train)
    np.savez(flags.out, samples=first, start=x.cpu().numpy(), times=scheduler.timesteps.numpy())
    results |= {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": device,
        "batch": flags.batch,
        "parameters": sum(p.numel() for p in net.parameters()),
    }
    print(json.dumps(results))


if __name__ == "__main__":
    main()
