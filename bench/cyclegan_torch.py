"""CycleGAN and pix2pix in torch, after pytorch-CycleGAN-and-pix2pix by junyanz, at 32x32.

An independent implementation to compare translations and speed with. Networks, losses, weights,
pools, initialization and learning rates are that repository's; widths, levels, batches and moved
images are those of configs/cyclegan_emoji.py and configs/pix2pix_emoji.py. Needs torch, Pillow and
an npz file with x_train, source_train, x_test and source_test; nothing of gen_jax.

    python bench/cyclegan_torch.py --kind cycle --data emoji_google.npz --seconds 2500

Translates sources to targets; scored as experiments/translation/score.py does.
"""

import argparse
import itertools
import json
import time

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, l1_loss, mse_loss


def initialize(module):
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


class ResidualBlock(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3),
            nn.InstanceNorm2d(width),
            nn.ReLU(True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3),
            nn.InstanceNorm2d(width),
        )

    def forward(self, x):
        return x + self.layers(x)


class ResNet(nn.Sequential):
    """CycleGAN's generator."""

    def __init__(self, width, halvings=2, num_blocks=4):
        layers = [nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7)]
        layers += [nn.InstanceNorm2d(width), nn.ReLU(True)]
        for _ in range(halvings):
            layers += [nn.Conv2d(width, width * 2, 3, 2, 1)]
            width *= 2
            layers += [nn.InstanceNorm2d(width), nn.ReLU(True)]
        layers += [ResidualBlock(width) for _ in range(num_blocks)]
        for _ in range(halvings):
            layers += [nn.ConvTranspose2d(width, width // 2, 3, 2, 1, output_padding=1)]
            width //= 2
            layers += [nn.InstanceNorm2d(width), nn.ReLU(True)]
        super().__init__(*layers, nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh())
        self.apply(initialize)


class Level(nn.Module):
    """A level of the U-Net and, inside it, all those below."""

    def __init__(self, outer, inner, below=None):
        super().__init__()
        # A normalization would take a bias away again. One pixel is left at the bottom, of which it
        # would leave nothing.
        inside = [] if below is None else [nn.BatchNorm2d(inner), below]
        up_from = inner if below is None else inner * 2
        self.layers = nn.Sequential(
            nn.LeakyReLU(0.2),
            nn.Conv2d(outer, inner, 4, 2, 1, bias=False),
            *inside,
            nn.ReLU(True),
            nn.ConvTranspose2d(up_from, outer, 4, 2, 1, bias=False),
            nn.BatchNorm2d(outer),
        )

    def forward(self, x):
        return torch.cat([x, self.layers(x)], 1)


class UNet(nn.Sequential):
    """pix2pix's generator. Its dropout is in levels beyond the fifth, of which there are none."""

    def __init__(self, width):
        level = Level(width * 8, width * 8)
        for factor in (4, 2, 1):
            level = Level(width * factor, width * factor * 2, level)
        super().__init__(
            nn.Conv2d(3, width, 4, 2, 1, bias=False),
            level,
            nn.ReLU(True),
            nn.ConvTranspose2d(width * 2, 3, 4, 2, 1),
            nn.Tanh(),
        )
        self.apply(initialize)


class PatchGAN(nn.Sequential):
    def __init__(self, channels, width, halvings, norm):
        biased = norm is nn.InstanceNorm2d  # that repository's rule
        layers = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2, True)]
        for number in range(1, halvings + 1):
            last, out = (width * min(2**n, 8) for n in (number - 1, number))
            stride = 2 if number < halvings else 1
            layers += [nn.Conv2d(last, out, 4, stride, 1, bias=biased)]
            layers += [norm(out), nn.LeakyReLU(0.2, True)]
        super().__init__(*layers, nn.Conv2d(out, 1, 4, 1, 1))
        self.apply(initialize)


class Pool:
    """Translations of before: of a full pool one in two is shown in place of a fresh one."""

    def __init__(self, size, rng):
        self.size, self.rng, self.images = size, rng, []

    def query(self, fresh):
        shown = []
        for image in fresh.detach():
            if len(self.images) < self.size:
                self.images.append(image)
                shown.append(image)
            elif self.rng.random() > 0.5:
                place = self.rng.integers(self.size)
                shown.append(self.images[place])
                self.images[place] = image
            else:
                shown.append(image)
        return torch.stack(shown)


def least_squares(logits, real):
    return mse_loss(logits, torch.full_like(logits, float(real)))


def cross_entropy(logits, real):
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


class Cycle:
    """Sources a and targets b, a generator and a discriminator for each direction."""

    def __init__(self, given, rng):
        self.gen_ab, self.gen_ba = (ResNet(given.ngf) for _ in range(2))
        self.disc_a, self.disc_b = (
            PatchGAN(3, given.ndf, given.disc_layers, nn.InstanceNorm2d) for _ in range(2)
        )
        self.gens = nn.ModuleList([self.gen_ab, self.gen_ba])
        self.discs = nn.ModuleList([self.disc_a, self.disc_b])
        self.pool_a, self.pool_b = Pool(given.pool, rng), Pool(given.pool, rng)
        self.given = given

    def train(self, a, b, gen_optimizer, disc_optimizer):
        weight, identity = self.given.cycle_weight, self.given.identity_weight
        fake_b, fake_a = self.gen_ab(a), self.gen_ba(b)
        cycle = l1_loss(self.gen_ba(fake_b), a) + l1_loss(self.gen_ab(fake_a), b)
        same = l1_loss(self.gen_ab(b), b) + l1_loss(self.gen_ba(a), a)
        self.discs.requires_grad_(False)
        fool = least_squares(self.disc_b(fake_b), True) + least_squares(self.disc_a(fake_a), True)
        gen_optimizer.zero_grad()
        (fool + weight * cycle + identity * same).backward()
        gen_optimizer.step()

        self.discs.requires_grad_(True)
        told = 0
        for disc, real, fake in (
            (self.disc_b, b, self.pool_b.query(fake_b)),
            (self.disc_a, a, self.pool_a.query(fake_a)),
        ):
            told += 0.5 * (least_squares(disc(real), True) + least_squares(disc(fake), False))
        disc_optimizer.zero_grad()
        told.backward()
        disc_optimizer.step()
        return {"fool": fool, "cycle": cycle, "identity": same, "discriminators": told}


class Pairs:
    """A generator, and a discriminator that sees the source beside the target."""

    def __init__(self, given, rng):
        del rng  # no pool
        self.gen_ab = UNet(given.ngf)
        self.gens = nn.ModuleList([self.gen_ab])
        self.discs = nn.ModuleList([PatchGAN(6, given.ndf, given.disc_layers, nn.BatchNorm2d)])
        self.given = given

    def train(self, a, b, gen_optimizer, disc_optimizer):
        disc = self.discs[0]
        fake = self.gen_ab(a)
        told = 0.5 * (
            cross_entropy(disc(torch.cat([a, fake.detach()], 1)), False)
            + cross_entropy(disc(torch.cat([a, b], 1)), True)
        )
        disc_optimizer.zero_grad()
        told.backward()
        disc_optimizer.step()

        disc.requires_grad_(False)
        fool = cross_entropy(disc(torch.cat([a, fake], 1)), True)
        l1 = l1_loss(fake, b)
        gen_optimizer.zero_grad()
        (fool + self.given.l1_weight * l1).backward()
        gen_optimizer.step()
        disc.requires_grad_(True)
        return {"fool": fool, "l1": l1, "discriminator": told}


def batches(images, batch_size, rng):
    """Yield rows of a new order for each pass; all but what is left at its end."""
    while True:
        order = rng.permutation(len(images))
        for first in range(0, len(order) - batch_size + 1, batch_size):
            yield order[first : first + batch_size]


def moves(batch_size, crop, rng):
    """Choose flips and shifts, of each image its own."""
    return rng.random(batch_size) < 0.5, rng.integers(0, 2 * crop + 1, (batch_size, 2))


def prepare(images, moved=None, crop=0):
    if moved is not None:
        flip, shift = moved
        images = np.where(flip[:, None, None, None], images[:, :, ::-1], images)
        height, width = images.shape[1:3]
        padded = np.pad(images, ((0, 0), (crop, crop), (crop, crop), (0, 0)), mode="reflect")
        images = np.stack(
            [
                x[y0 : y0 + height, x0 : x0 + width]
                for x, (y0, x0) in zip(padded, shift, strict=True)
            ]
        )
    x = torch.from_numpy(images.astype(np.float32) / 127.5 - 1)
    return x.permute(0, 3, 1, 2).contiguous()


def translate(generator, images, batch_size):
    # Trained on single images, batch normalization knows each image's own statistics alone, and
    # that repository tests so; otherwise running averages, as no test image may see another.
    generator.train(batch_size == 1)
    made = []
    with torch.no_grad():
        for first in range(0, len(images), batch_size):
            x = generator(prepare(images[first : first + batch_size])).permute(0, 2, 3, 1).numpy()
            made.append(((x + 1) * 127.5).clip(0, 255).round().astype(np.uint8))
    return np.concatenate(made)


def score(made, target):
    """Return L1 of pixels from 0 to 1, and how often the Euclidean nearest target is its own."""
    made, target = (x.reshape(len(x), -1) / 255 for x in (made, target))
    l1 = float(np.abs(made - target).mean())
    center = target.mean(axis=0)
    made, target = made - center, target - center
    squares = np.square(made).sum(1)[:, None] + np.square(target).sum(1)[None] - 2 * made @ target.T
    index = np.maximum(squares, 0.0).argmin(axis=1)
    return {"l1": l1, "partner_found": float(np.mean(index == np.arange(len(target))))}


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", choices=["cycle", "pairs"], required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", default="grid.png")
    until = parser.add_mutually_exclusive_group(required=True)
    until.add_argument("--seconds", type=float)
    until.add_argument("--steps", type=int)
    parser.add_argument("--batch_size", type=int, help="8, of pairs 16; that repository's is 1")
    parser.add_argument("--crop", type=int, help="largest shift in pixels: 0, of pairs 2")
    parser.add_argument("--ngf", type=int, default=32)
    parser.add_argument("--ndf", type=int, default=32)
    parser.add_argument("--disc_layers", type=int, default=2, help="halvings; 3 for 256x256")
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--cycle_weight", type=float, default=10.0)
    parser.add_argument("--identity_weight", type=float, default=5.0)
    parser.add_argument("--l1_weight", type=float, default=100.0)
    parser.add_argument("--pool", type=int, default=50)
    parser.add_argument("--log_every", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    paired = given.kind == "pairs"
    given.batch_size = given.batch_size or (16 if paired else 8)
    given.crop = (2 if paired else 0) if given.crop is None else given.crop
    return given


def main():
    given = parse()
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    rng = np.random.default_rng(given.seed)
    with np.load(given.data) as file:
        sources, targets = file["source_train"], file["x_train"]
        test_sources, test_targets = file["source_test"], file["x_test"]

    paired = given.kind == "pairs"
    model = (Pairs if paired else Cycle)(given, rng)
    gen_optimizer, disc_optimizer = (
        torch.optim.Adam(networks.parameters(), lr=given.rate, betas=(0.5, 0.999))
        for networks in (model.gens, model.discs)
    )
    source_rows = batches(sources, given.batch_size, rng)
    target_rows = batches(targets, given.batch_size, rng)

    start, step = time.perf_counter(), 0

    def share_done():
        if given.seconds is not None:
            return (time.perf_counter() - start) / given.seconds
        return step / given.steps

    while (share := share_done()) < 1:
        for group in itertools.chain(gen_optimizer.param_groups, disc_optimizer.param_groups):
            group["lr"] = given.rate * min(1.0, 2 * (1 - share))
        rows, moved = next(source_rows), moves(given.batch_size, given.crop, rng)
        a = prepare(sources[rows], moved, given.crop)
        if not paired:
            # An order of its own: what belongs together is never told.
            rows, moved = next(target_rows), moves(given.batch_size, given.crop, rng)
        b = prepare(targets[rows], moved, given.crop)
        losses = model.train(a, b, gen_optimizer, disc_optimizer)
        step += 1
        if step % given.log_every == 0:
            seconds = time.perf_counter() - start
            told = ", ".join(f"{name} {value.item():.3f}" for name, value in losses.items())
            print(f"step {step}: {told}, {step / seconds:.2f} steps/s", flush=True)
    seconds = time.perf_counter() - start

    made = translate(model.gen_ab, test_sources, given.batch_size)
    shown = np.random.default_rng(1).choice(len(made), 8, replace=False)
    columns = [np.concatenate(x[shown]) for x in (test_sources, made, test_targets)]
    Image.fromarray(np.concatenate(columns, axis=1)).save(given.out)
    scores, identity = score(made, test_targets), score(test_sources, test_targets)
    for name, numbers in (("the source itself", identity), (given.kind, scores)):
        print(f"{name}: L1 {numbers['l1']:.4f}, partner found {numbers['partner_found']:.3f}")
    print(
        json.dumps(
            {
                "kind": given.kind,
                "steps": step,
                "seconds": seconds,
                "generator_parameters": sum(p.numel() for p in model.gen_ab.parameters()),
                "parameters": sum(
                    p.numel() for m in (model.gens, model.discs) for p in m.parameters()
                ),
                **scores,
                "identity": identity,
                "steps_per_second": step / seconds,
            }
        )
    )


if __name__ == "__main__":
    main()
