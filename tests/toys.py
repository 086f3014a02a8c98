"""Four families in miniature: proof that the protocol carries them, and through every seam.

A GAN whose spectral norm lives in statistics and whose penalty waits, a flow that begins from its
first batch, a translator of paired images, and text diffusion with a frozen text encoder.
"""

import math

import jax
import jax.numpy as jnp

from gen_jax import diffusion
from gen_jax.ops import keys as rng
from gen_jax.ops.adversarial import discriminator_loss, non_saturating_loss
from gen_jax.protocols import (
    Aux,
    Codec,
    Density,
    Input,
    Latents,
    LogProb,
    Loss,
    Model,
    Option,
    Sampler,
    Turn,
    batch_mean,
)

SHAPE = (4, 4, 1)
DIM = 16


def dense(key, inputs, outputs):
    w = jax.random.normal(key, (inputs, outputs)) / math.sqrt(inputs)
    return {"w": w, "b": jnp.zeros(outputs)}


def mlp_init(key, *sizes):
    keys = jax.random.split(key, len(sizes) - 1)
    return [dense(k, i, o) for k, i, o in zip(keys, sizes[:-1], sizes[1:], strict=True)]


def mlp(layers, x):
    for layer in layers[:-1]:
        x = jnp.tanh(x @ layer["w"] + layer["b"][None])
    return x @ layers[-1]["w"] + layers[-1]["b"][None]


def flat(x):
    return x.reshape(len(x), -1)


def square(x):
    return x.reshape(-1, *SHAPE)


def gan(z_dim=3):
    """Spectral norm of the discriminator's first layer; R1 at every second step."""

    def prior(keys):
        return rng.normal(keys, (z_dim,))

    def generate(weights, z):
        return square(jnp.tanh(mlp(weights.params["gen"], z)))

    def judge(weights, x):
        first, *rest = weights.params["disc"]
        u = weights.stats["disc"]["u"]
        sigma = jnp.linalg.norm(first["w"] @ u)
        return mlp([{**first, "w": first["w"] / sigma}, *rest], flat(x))[:, 0]

    def disc(weights, batch, keys, context):
        fake = generate(weights, prior(keys))
        losses = discriminator_loss(judge(weights, batch["x"]), judge(weights, fake))
        return batch_mean(batch, losses), Aux({}, {})

    def gen(weights, batch, keys, context):
        fake = generate(weights, prior(keys))
        return batch_mean(batch, non_saturating_loss(judge(weights, fake))), Aux({}, {})

    def penalty(weights, batch, keys, context):
        slope = jax.grad(lambda x: jnp.sum(judge(weights, x)))(batch["x"])
        return batch_mean(batch, jnp.sum(jnp.square(flat(slope)), axis=1)), Aux({}, {})

    def init(key, batch, frozen):
        a, b = jax.random.split(key)
        params = {"gen": mlp_init(a, z_dim, 8, DIM), "disc": mlp_init(b, DIM, 8, 1)}
        return params, {"gen": {}, "disc": {"u": jnp.ones(8) / math.sqrt(8)}}

    def update_stats(weights, observed, key, step):
        if "disc" not in observed:
            return weights.stats, {}
        w = weights.params["disc"][0]["w"]  # of this turn
        u = w.T @ (w @ weights.stats["disc"]["u"])
        u = u / jnp.linalg.norm(u)
        return {**weights.stats, "disc": {"u": u}}, {"sigma": jnp.linalg.norm(w @ u)}

    return Model(
        init=init,
        losses={"disc": Loss("disc", disc), "gen": Loss("gen", gen), "r1": Loss("disc", penalty)},
        turns=(Turn("disc", part=(0, 2)), Turn("gen", part=(1, 2)), Turn("r1", every=2, start=1)),
        update_stats=update_stats,
        averaged=("gen",),
        sampler=Sampler(lambda weights, keys, cond: generate(weights, prior(keys))),
        latents=Latents(lambda weights, z, cond: generate(weights, z), prior=prior),
    )


def flow(layers=2):
    """Affine couplings behind an actnorm that begins from the first batch."""

    def mask(number):
        return (jnp.arange(DIM) % 2 == number % 2).astype(jnp.float32)[None]

    def coupling(layer, x, number):
        log_scale, shift = jnp.split(mlp(layer, x * mask(number)), 2, axis=-1)
        free = 1 - mask(number)
        return jnp.tanh(log_scale) * free, shift * free

    def forward(weights, x):
        net = weights.params["net"]
        x = (flat(x) - net["mean"][None]) * jnp.exp(-net["log_std"])[None]
        nats = -jnp.sum(net["log_std"])
        for number, layer in enumerate(net["layers"]):
            log_scale, shift = coupling(layer, x, number)
            x = x * jnp.exp(log_scale) + shift
            nats = nats + jnp.sum(log_scale, axis=-1)
        return x, nats

    def inverse(weights, z):
        net = weights.params["net"]
        for number, layer in reversed(list(enumerate(net["layers"]))):
            log_scale, shift = coupling(layer, z, number)
            z = (z - shift) * jnp.exp(-log_scale)
        return square(z * jnp.exp(net["log_std"])[None] + net["mean"][None])

    def nats_of(weights, x):
        z, log_det = forward(weights, x)
        return jnp.sum(jax.scipy.stats.norm.logpdf(z), axis=-1) + log_det

    def loss(weights, batch, keys, context):
        return batch_mean(batch, -nats_of(weights, batch["x"])), Aux({}, {})

    def init(key, batch, frozen):
        x = flat(batch["x"])
        keys = jax.random.split(key, layers)
        net = {
            "mean": jnp.mean(x, axis=0),
            "log_std": jnp.log(jnp.std(x, axis=0) + 1e-3),
            "layers": [mlp_init(k, DIM, 8, 2 * DIM) for k in keys],
        }
        return {"net": net}, {}

    def log_prob(weights, batch, keys):
        nats = nats_of(weights, batch["x"])
        return LogProb(nats, jnp.zeros_like(nats))

    def prior(keys):
        return rng.normal(keys, (DIM,))

    return Model(
        init=init,
        losses={"likelihood": Loss("net", loss)},
        sampler=Sampler(lambda weights, keys, cond: inverse(weights, prior(keys))),
        latents=Latents(
            lambda weights, z, cond: inverse(weights, z),
            lambda weights, x, cond, keys=None: forward(weights, x)[0],
            prior,
        ),
        density=Density(log_prob, "exact"),
    )


def translator():
    """pix2pix: the source is told to both players."""

    def generate(weights, source):
        return square(jnp.tanh(mlp(weights.params["gen"], flat(source))))

    def judge(weights, x, source):
        return mlp(weights.params["disc"], jnp.concatenate([flat(x), flat(source)], axis=-1))[:, 0]

    def disc(weights, batch, keys, context):
        source = batch["source"]
        fake = judge(weights, generate(weights, source), source)
        losses = discriminator_loss(judge(weights, batch["x"], source), fake)
        return batch_mean(batch, losses), Aux({}, {})

    def gen(weights, batch, keys, context):
        fake = generate(weights, batch["source"])
        l1 = jnp.mean(jnp.abs(flat(fake - batch["x"])), axis=1)
        fooled = non_saturating_loss(judge(weights, fake, batch["source"]))
        return batch_mean(batch, fooled + 10 * l1), Aux({}, {"l1": batch_mean(batch, l1)})

    def init(key, batch, frozen):
        a, b = jax.random.split(key)
        return {"gen": mlp_init(a, DIM, 8, DIM), "disc": mlp_init(b, 2 * DIM, 8, 1)}, {}

    return Model(
        init=init,
        losses={"disc": Loss("disc", disc), "gen": Loss("gen", gen)},
        inputs={"source": Input("image", help="image to translate")},
        averaged=("gen",),
        sampler=Sampler(lambda weights, keys, cond: generate(weights, cond["source"])),
    )


TEXT = {"text": jax.random.normal(jax.random.key(7), (16, 6))}


def text_diffusion(length=3):
    """A flow told a text, which a frozen table embeds."""
    schedule, target = diffusion.rectified_flow(), diffusion.velocity

    def net(weights, x, t, text):
        embedded = weights.frozen["text"][text].mean(axis=1)
        return square(
            mlp(weights.params["net"], jnp.concatenate([flat(x), t[:, None], embedded], axis=-1))
        )

    def loss(weights, batch, keys, context):
        time_keys, noise_keys, drop_keys = rng.split(keys, 3)
        text = batch["text"]
        if context.train:
            drop = jax.vmap(lambda key: jax.random.bernoulli(key, 0.1))(drop_keys)
            text = jnp.where(drop[:, None], 0, text)
        t = diffusion.continuous()(time_keys)
        eps = rng.normal(noise_keys, SHAPE)
        losses = diffusion.denoising_loss(
            lambda x, t: net(weights, x, t, text), schedule, target, batch["x"], t, eps
        )
        return batch_mean(batch, losses), Aux({}, {})

    def denoiser(weights, cond, guidance):
        def of(text):
            return diffusion.denoiser(lambda x, t: net(weights, x, t, text), schedule, target)

        if guidance is None:
            return of(cond["text"])
        nothing = cond.get("no_text", jnp.zeros_like(cond["text"]))
        pair = lambda x, t: (of(cond["text"])(x, t), of(nothing)(x, t))  # noqa: E731
        return diffusion.classifier_free(pair, guidance)

    def decode(weights, z, cond, *, steps=4, guidance=None):
        keys = rng.per_example(jax.random.key(0), 0, len(z))
        way = diffusion.uniform_times(steps)
        return diffusion.integrate(
            denoiser(weights, cond, guidance), schedule, diffusion.ddim(), way, z, keys
        )

    def encode(weights, x, cond, keys=None, *, steps=4, guidance=None):
        assert guidance is None
        keys = rng.per_example(jax.random.key(0), 0, len(x))
        way = diffusion.uniform_times(steps)
        return diffusion.invert(
            denoiser(weights, cond, None), schedule, diffusion.ddim(), way, x, keys
        )

    def prior(keys):
        return diffusion.start_normal(keys, SHAPE)

    def faults(options, told):
        if "no_text" in told and "guidance" not in options:
            return {"no_text": "has a meaning only with `guidance`"}
        return {}

    options = {
        "steps": Option(int, 4, "a whole number from 1", lambda x: x >= 1, True, "of the solver"),
        "guidance": Option(float, None, "a number from 0", lambda x: x >= 0, False, "strength"),
    }
    text = Input("tokens", (length,), 16, help="text")
    return Model(
        init=lambda key, batch, frozen: ({"net": mlp_init(key, DIM + 1 + 6, 8, DIM)}, {}),
        losses={"diffusion": Loss("net", loss)},
        inputs={"text": text, "no_text": text._replace(needed=False)},
        sampler=Sampler(
            lambda weights, keys, cond, **o: decode(weights, prior(keys), cond, **o),
            options,
            faults,
        ),
        latents=Latents(decode, encode, prior, options=options, cost=4),
    )


def affine_codec():
    """Make a codec with weights: x = scale (image - 127.5), as a trained first stage would have."""

    def encode(frozen, image, keys):
        return frozen["scale"] * (image.astype(jnp.float32) - 127.5)

    def decode(frozen, x):
        levels = jnp.round(jnp.clip(x / frozen["scale"] + 127.5, 0, 255))
        return levels.astype(jnp.uint8)

    return Codec(encode, decode, num_categories=None, log_scale=None)


TOYS = {"gan": gan, "flow": flow, "translator": translator, "text": text_diffusion}
