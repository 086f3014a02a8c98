"""The tasks of ``bench/paired`` in torch: the same architectures, batches and arithmetic as ours.

Needs torch, and diffusers for the U-Nets; nothing of gen_jax. Networks that diffusers has not are
written here as anybody would write them.
"""

import math

import torch
from torch import nn
from torch.nn import functional

import sizes  # isort: skip  beside this file


COMPILE = False  # set by whoever wants torch.compile


def ready(net):
    """Compile a network, if that is wanted."""
    return torch.compile(net) if COMPILE else net


def unet(values):
    from diffusers import UNet2DModel

    attends = [32 // 2**level in values["attention"] for level in range(len(values["widths"]))]
    return UNet2DModel(
        sample_size=32,
        block_out_channels=values["widths"],
        layers_per_block=values["blocks"],
        norm_num_groups=values["groups"],
        down_block_types=["AttnDownBlock2D" if x else "DownBlock2D" for x in attends],
        up_block_types=["AttnUpBlock2D" if x else "UpBlock2D" for x in reversed(attends)],
        attention_head_dim=None,
        downsample_padding=0,
    )


def train_step(net, loss, lr=1e-4):
    """Adam with clipped gradients, as our trainer's step has."""
    net = ready(net)
    adam = torch.optim.AdamW(net.parameters(), lr=lr)

    def step():
        adam.zero_grad(set_to_none=True)
        value = loss(net)
        value.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        adam.step()
        return float(value)

    return step


def images(batch, channels=3, side=32):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, channels, side, side, generator=generator)


def unet_train(values, batch):
    x, eps = images(batch), images(batch) * 0.9
    t = torch.randint(0, 1000, (batch,))
    return train_step(unet(values).train(), lambda net: functional.mse_loss(net(x, t).sample, eps))


def unet_forward(values, batch):
    net, x, t = ready(unet(values).eval()), images(batch), torch.randint(0, 1000, (batch,))

    @torch.no_grad()
    def run():
        return net(x, t).sample

    return run


def unet_sample(values, batch, steps=50):
    """DDIM with deterministic steps."""
    net, start = ready(unet(values).eval()), images(batch)
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    total = torch.cumprod(1 - betas, 0).float()
    indices = torch.linspace(999, 0, steps).round().long()

    @torch.no_grad()
    def run():
        x = start
        for place, index in enumerate(indices):
            a = total[index]
            b = total[indices[place + 1]] if place + 1 < steps else torch.tensor(1.0)
            eps = net(x, index).sample
            clean = ((x - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-1, 1)
            eps = (x - a.sqrt() * clean) / (1 - a).sqrt()
            x = b.sqrt() * clean + (1 - b).sqrt() * eps
        return x

    return run


class DiTBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp_in, self.mlp_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, h, condition):
        parts = self.modulation(functional.silu(condition))[:, None].chunk(6, -1)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = parts
        width = h.shape[-1]
        x = functional.layer_norm(h, (width,)) * (1 + scale) + shift
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in self.qkv(x).chunk(3, -1)
        )
        x = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        h = h + gate * self.out(x)
        x = functional.layer_norm(h, (width,)) * (1 + mlp_scale) + mlp_shift
        return h + mlp_gate * self.mlp_out(functional.gelu(self.mlp_in(x), approximate="tanh"))


class DiT(nn.Module):
    def __init__(self, patch, width, depth, heads):
        super().__init__()
        self.patch = nn.Conv2d(3, width, patch, patch)
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(DiTBlock(width, heads) for _ in range(depth))
        self.modulation = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, patch * patch * 3)
        side = 32 // patch
        self.register_buffer("places", torch.randn(1, side * side, width) * 0.02)

    def forward(self, x, t):
        h = self.patch(x).flatten(2).transpose(1, 2) + self.places
        waves = (
            t[:, None] * torch.exp(-math.log(1e4) / 128 * torch.arange(128, device=t.device))[None]
        )
        condition = self.time(torch.cat([waves.cos(), waves.sin()], -1))
        for block in self.blocks:
            h = block(h, condition)
        shift, scale = self.modulation(functional.silu(condition))[:, None].chunk(2, -1)
        return self.out(functional.layer_norm(h, (h.shape[-1],)) * (1 + scale) + shift)


def dit_train(batch):
    net, x = DiT(**sizes.DIT).train(), images(batch)
    t, target = torch.rand(batch) * 1000, torch.randn(batch, (32 // sizes.DIT["patch"]) ** 2, 12)
    return train_step(net, lambda net: functional.mse_loss(net(x, t), target))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp_in, self.mlp_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, h, cache=None, index=None):
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for y in self.qkv(self.norm(h)).chunk(3, -1)
        )
        if cache is None:
            x = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            keys, values = cache
            keys[:, :, index : index + 1], values[:, :, index : index + 1] = k, v
            x = functional.scaled_dot_product_attention(
                q, keys[:, :, : index + 1], values[:, :, : index + 1]
            )
        h = h + self.out(x.transpose(1, 2).flatten(2))
        x = self.mlp_out(functional.gelu(self.mlp_in(self.norm_mlp(h)), approximate="tanh"))
        return h + x


class GPT(nn.Module):
    def __init__(self, categories, length, width, depth, heads):
        super().__init__()
        self.shape = (heads, length, width // heads)
        self.tokens, self.places = nn.Embedding(categories + 1, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, categories)

    def forward(self, tokens):
        h = self.tokens(tokens) + self.places.weight[None]
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))

    @torch.no_grad()
    def decode(self, batch):
        caches = [tuple(torch.zeros(batch, *self.shape) for _ in range(2)) for _ in self.blocks]
        token, made = torch.full((batch, 1), self.tokens.num_embeddings - 1), []
        for index in range(self.shape[1]):
            h = self.tokens(token) + self.places.weight[index]
            for block, cache in zip(self.blocks, caches, strict=True):
                h = block(h, cache, index)
            shares = functional.softmax(self.head(self.norm(h))[:, -1], -1)
            token = torch.multinomial(shares, 1)
            made.append(token)
        return torch.cat(made, 1)


def prior_train(batch, length=256):
    net = GPT(length=length, **sizes.GPT).train()
    tokens = torch.randint(0, sizes.GPT["categories"], (batch, length))
    return train_step(
        net, lambda net: functional.cross_entropy(net(tokens).flatten(0, 1), tokens.flatten())
    )


def decoding(length, batch):
    net = GPT(length=length, **sizes.GPT).eval()
    return lambda: net.decode(batch)


class Residuals(nn.Module):
    def __init__(self, channels, hidden, num_blocks):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(), nn.Conv2d(channels, hidden, 3, padding=1),
                nn.ReLU(), nn.Conv2d(hidden, channels, 1),
            )
            for _ in range(num_blocks)
        )  # fmt: skip

    def forward(self, h):
        for block in self.blocks:
            h = h + block(h)
        return torch.relu(h)


class VQVAE(nn.Module):
    def __init__(self, channels, hidden, blocks, dim, codes):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, channels // 2, 4, 2, 1), nn.ReLU(),
            nn.Conv2d(channels // 2, channels, 4, 2, 1), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            Residuals(channels, hidden, blocks), nn.Conv2d(channels, dim, 1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(dim, channels, 3, padding=1), Residuals(channels, hidden, blocks),
            nn.ConvTranspose2d(channels, channels // 2, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(channels // 2, 3, 4, 2, 1),
        )  # fmt: skip
        self.register_buffer("book", torch.randn(codes, dim))
        self.register_buffer("counts", torch.ones(codes))
        self.register_buffer("sums", torch.randn(codes, dim))

    def forward(self, x):
        z = self.encoder(x).permute(0, 2, 3, 1)
        flat = z.reshape(-1, z.shape[-1])
        with torch.no_grad():
            distance = (self.book**2).sum(1)[None] - 2 * flat @ self.book.T
            chosen = distance.argmin(1)
            # The exponential moving averages that make the codebook.
            one_hot = functional.one_hot(chosen, len(self.book)).float()
            self.counts.mul_(0.99).add_(one_hot.sum(0), alpha=0.01)
            self.sums.mul_(0.99).add_(one_hot.T @ flat, alpha=0.01)
            self.book.copy_(self.sums / self.counts.clamp(min=1e-5)[:, None])
        code = self.book[chosen].reshape(z.shape)
        commitment = functional.mse_loss(z, code)
        passed = z + (code - z).detach()
        return self.decoder(passed.permute(0, 3, 1, 2)), commitment


def vqvae_train(batch):
    net, x = VQVAE(**sizes.VQVAE).train(), images(batch)

    def loss(net):
        again, commitment = net(x)
        return functional.mse_loss(again, x) + 0.25 * commitment

    return train_step(net, loss)


class VAE(nn.Module):
    def __init__(self, dim=50):
        super().__init__()
        wide, deep = sizes.VAE_WIDTHS
        self.encoder = nn.Sequential(
            nn.Linear(784, wide), nn.SiLU(), nn.Linear(wide, deep), nn.SiLU(),
            nn.Linear(deep, 2 * dim),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(dim, deep), nn.SiLU(), nn.Linear(deep, wide), nn.SiLU(), nn.Linear(wide, 784)
        )

    def forward(self, x):
        mean, logvar = self.encoder(x).chunk(2, -1)
        z = mean + torch.randn_like(mean) * (logvar / 2).exp()
        nats = functional.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        kl = -0.5 * (1 + logvar - mean**2 - logvar.exp()).sum()
        return (nats + kl) / len(x)


def vae_train(batch):
    gray = torch.rand(batch, 784)
    return train_step(VAE().train(), lambda net: net(torch.bernoulli(gray)))


TASKS = {
    "unet_train": lambda: unet_train(sizes.UNET, 16),
    "unet_forward": lambda: unet_forward(sizes.UNET, 16),
    "unet_sample": lambda: unet_sample(sizes.UNET, 16),
    "unet_train_64": lambda: unet_train(sizes.UNET, 64),
    "cifar_train": lambda: unet_train(sizes.CIFAR, 8),
    "vqvae_train": lambda: vqvae_train(64),
    "dit_train": lambda: dit_train(16),
    "prior_train": lambda: prior_train(16),
    "vae_train": lambda: vae_train(100),
    **{
        f"decode_{length}_{batch}": lambda length=length, batch=batch: decoding(length, batch)
        for length, batch in sizes.decoding_of()
    },
}
