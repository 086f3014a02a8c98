"""Training and sampling on whatever device is there: milliseconds, images a second, and MFU.

    python bench/accelerator.py [--steps 30] [--only unet] [--dtypes float32,bfloat16] [--plain]

Four networks of the shipped configs, one batch that stays on the device, so that only the step is
timed: DDPM's U-Net and a DiT on 32x32 color images, the VQ-VAE, and a causal transformer over a
first stage's grid. MFU is the arithmetic that `gen-jax plan` counts (matrix products and
convolutions of forward and backward pass) over the vendor's bfloat16 peak, for both precisions.
Steps are dispatched one after another and waited for at the end, as the training loop does.
``--plain`` leaves XLA's own forms where gen_jax.nn.lowering has others. Where torch is installed,
the same architectures with torch.compile in bfloat16 stand beside (the U-Net needs diffusers).
Prints a table, and one JSON line a row to --out.
"""

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path

import jax
import numpy as np

from gen_jax.launch.build.experiment import build
from gen_jax.launch.config.files import load_config
from gen_jax.launch.planning.cost import count_flops
from gen_jax.launch.planning.hardware import HARDWARE
from gen_jax.nn.lowering import target
from gen_jax.ops import keys as rng
from gen_jax.protocols import Weights
from gen_jax.train.engines import make_engine
from gen_jax.train.sharding import make_mesh
from gen_jax.train.step import make_train_step

NO_DROPOUT = "model.dropout=0.0"  # whose random bits are no matrix product, and no peer has
DIT = (
    *("model.network=dit", "model.num_heads=6", "model.num_classes=10", NO_DROPOUT),
    *("diffusion.schedule=flow", "diffusion.prediction=velocity"),
)
PRIOR = ("data.shape=(16,16,1)", "model.remat=none", NO_DROPOUT)
NETWORKS = {
    "unet": ("ddpm_cifar10", (NO_DROPOUT,), 128, {"steps": 50}),
    "dit": ("ddpm_cifar10", DIT, 256, {"steps": 50}),
    "vqvae": ("vqvae_cifar10", (), 256, None),
    "transformer": ("transformer_cifar10", PRIOR, 64, {}),
}


def peak_of(device):
    """Give the vendor's peak of a device by its name; None where it is not in the table."""
    kind = device.device_kind.lower().replace(" ", "")
    found = [hardware for name, hardware in HARDWARE.items() if name in kind]
    return found[0].peak_flops if found else None


def best_of(run, repeats=3):
    """Give the seconds of the fastest of some runs, and of the slowest over it."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds), max(seconds) / min(seconds)


def measure(name, dtype, steps, *, sampling):
    """Train one network, and sample it."""
    config_name, overrides, batch_size, options = NETWORKS[name]
    sampling = options if sampling else None
    base = load_config(f"configs/{config_name}.py", list(overrides))
    if "dtype" in base["model"]:
        overrides = (*overrides, f"model.dtype={dtype}")
    elif dtype != "float32":
        return None
    config = load_config(f"configs/{config_name}.py", list(overrides))
    experiment = build(config)
    model = experiment.model
    engine = make_engine("jit", model, experiment.optimizers, make_mesh(devices=jax.devices()[:1]))
    images = np.random.default_rng(0).integers(
        0, 256, (batch_size, *config["data"]["shape"]), np.uint8
    )
    labels = np.arange(batch_size, dtype=np.int32) % 10
    batch, key = engine.put({"image": images, "label": labels}), engine.key(0)
    frozen = engine.place(experiment.frozen)
    state = engine.init(key, batch, frozen)
    shapes = jax.eval_shape(lambda *x: x, state, frozen, batch, key)
    traced = jax.make_jaxpr(make_train_step(model, experiment.optimizers))(*shapes)
    flops = count_flops(traced.jaxpr)
    start = time.perf_counter()
    step = engine.compile(state, frozen, batch, key)
    compile_s = time.perf_counter() - start
    memory = step.memory_analysis()

    def train():
        nonlocal state
        for _ in range(steps):
            state, metrics = step(state, frozen, batch, key)
        jax.block_until_ready(metrics)

    train()
    seconds, spread = best_of(train)
    seconds /= steps
    peak = peak_of(jax.devices()[0])
    row = {
        "network": name,
        "dtype": dtype,
        "device": jax.devices()[0].device_kind,
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
        "batch": batch_size,
        "compile_s": round(compile_s, 1),
        "step_ms": round(1e3 * seconds, 2),
        "spread": round(spread, 3),
        "images_per_s": round(batch_size / seconds),
        "tflops_per_s": round(flops / seconds / 1e12, 1),
        "mfu": round(flops / seconds / peak, 3) if peak else None,
        "temporary_mb": round(memory.temp_size_in_bytes / 1e6) if memory else None,
    }
    if sampling is not None:
        keys = rng.per_example(key, 0, 64)
        cond = {"label": labels[:64]} if "label" in model.inputs else {}
        weights = Weights(state.params, state.stats, frozen)
        draw = jax.jit(lambda *given: model.sampler.draw(*given, **sampling))
        start = time.perf_counter()
        jax.block_until_ready(draw(weights, keys, cond))
        row["sample_compile_s"] = round(time.perf_counter() - start, 1)
        seconds, spread = best_of(lambda: jax.block_until_ready(draw(weights, keys, cond)))
        row |= {"sampled_per_s": round(64 / seconds, 1), "sample_spread": round(spread, 3)}
    return row


def torch_rows(names, steps):
    """Time torch.compile on networks of the same sizes."""
    try:
        import torch
    except ImportError:
        return
    if not torch.cuda.is_available():
        return
    sys.path.insert(0, str(Path(__file__).parent / "paired"))
    import sizes
    import torch_tasks as tasks

    def network(name):
        images = (
            torch.randn(NETWORKS[name][2], 3, 32, 32, device="cuda")
            if name != "transformer"
            else None
        )
        if name == "unet":
            net = tasks.unet(sizes.CIFAR).cuda().to(memory_format=torch.channels_last)
            t, x = torch.randint(0, 1000, (len(images),), device="cuda"), images
            return net, lambda net: ((net(x, t).sample - x) ** 2).mean()
        if name == "dit":
            net = tasks.DiT(patch=2, width=384, depth=12, heads=6).cuda()
            t, y = (
                torch.rand(len(images), device="cuda") * 1000,
                torch.randn(len(images), 256, 12).cuda(),
            )
            return net, lambda net: ((net(images, t) - y) ** 2).mean()
        if name == "vqvae":
            net = tasks.VQVAE(**sizes.VQVAE).cuda().to(memory_format=torch.channels_last)

            def loss(net):
                again, commitment = net(images)
                return ((again - images) ** 2).mean() + 0.25 * commitment

            return net, loss
        net = tasks.GPT(categories=256, length=256, width=448, depth=24, heads=8).cuda()
        tokens = torch.randint(0, 256, (NETWORKS[name][2], 256), device="cuda")
        return net, lambda net: torch.nn.functional.cross_entropy(
            net(tokens).flatten(0, 1), tokens.flatten()
        )

    for name in names:
        try:
            net, loss = network(name)
        except ImportError as error:
            print(f"torch {name}: {error}")
            continue
        compiled, adam = torch.compile(net), torch.optim.AdamW(net.parameters(), fused=True)

        def step(loss=loss, compiled=compiled, adam=adam, net=net):
            adam.zero_grad(set_to_none=True)
            with torch.autocast("cuda", torch.bfloat16):
                value = loss(compiled)
            value.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            adam.step()

        def train(step=step):
            for _ in range(steps):
                step()
            torch.cuda.synchronize()

        start = time.perf_counter()
        step()
        torch.cuda.synchronize()
        compile_s = time.perf_counter() - start
        train()
        seconds, spread = best_of(train)
        yield {
            "network": name,
            "dtype": "bfloat16",
            "library": f"torch.compile {torch.__version__}",
            "device": torch.cuda.get_device_name(),
            "parameters": sum(x.numel() for x in net.parameters()),
            "batch": NETWORKS[name][2],
            "compile_s": round(compile_s, 1),
            "step_ms": round(1e3 * seconds / steps, 2),
            "spread": round(spread, 3),
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--only", default=",".join(NETWORKS))
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--plain", action="store_true", help="XLA's own forms alone")
    parser.add_argument("--no_sampling", action="store_true")
    parser.add_argument("--no_torch", action="store_true")
    parser.add_argument("--out")
    arguments = parser.parse_args()
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}", flush=True)

    def show(row):
        print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
        if arguments.out:
            with open(arguments.out, "a") as file:
                file.write(json.dumps(row) + "\n")

    names = arguments.only.split(",")
    with target("plain") if arguments.plain else contextlib.nullcontext():
        for name in names:
            for dtype in arguments.dtypes.split(","):
                row = measure(name, dtype, arguments.steps, sampling=not arguments.no_sampling)
                if row is not None:
                    show({**row, "plain": arguments.plain})
    if not arguments.no_torch:
        for row in torch_rows(names, arguments.steps):
            show(row)


if __name__ == "__main__":
    main()
