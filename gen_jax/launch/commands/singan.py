"""Train SinGAN on one picture, scale after scale."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gen_jax.models.singan import (
    Chain,
    Patches,
    reconstruct_chain,
    sample_chain,
    singan_scale,
)
from gen_jax.protocols import Batch
from gen_jax.train.state import TrainState, init_state
from gen_jax.train.step import make_train_step
from gen_jax.typing import Array, Float, Key, PyTree

__all__ = ["SinGAN", "train_singan"]

_CHUNK = 25  # steps in one program
_NOISE = 0.1  # of a scale, over the error that the scales before leave


class SinGAN(NamedTuple):
    """A trained chain, and the sides of its scales."""

    network: Patches
    chain: Chain
    sides: tuple[tuple[int, int], ...]

    def sample(
        self, key: Key[Array, ""], shape: tuple[int, int] | None = None
    ) -> Float[Array, "height width channels"]:
        """Draw an image from -1 to 1, of the picture's sides or others."""
        sides = self.sides
        if shape is not None:
            factors = [new / old for new, old in zip(shape, sides[-1], strict=True)]
            sides = tuple((round(h * factors[0]), round(w * factors[1])) for h, w in sides)
        return sample_chain(self.network, self.chain, key, sides)


def scales_of(
    shape: tuple[int, int], coarsest: int = 18, ratio: float = 4 / 3
) -> tuple[tuple[int, int], ...]:
    """List the sides of each scale, the coarsest first."""
    num = math.ceil(math.log(max(min(shape) / coarsest, 1.0)) / math.log(ratio))
    return tuple(
        (round(shape[0] / ratio**level), round(shape[1] / ratio**level))
        for level in reversed(range(num + 1))
    )


def _several(step: Callable[..., tuple[TrainState, Mapping[str, Array]]]) -> Callable[..., Any]:
    """Compile some steps as one program, which also gives each step's reconstruction error."""

    @jax.jit
    def run(
        state: TrainState, frozen: PyTree, batch: Batch, key: Array
    ) -> tuple[TrainState, Array]:
        def one(state: TrainState, _: None) -> tuple[TrainState, Array]:
            state, metrics = step(state, frozen, batch, key)
            return state, metrics["gen/reconstruction"]

        return jax.lax.scan(one, state, None, length=_CHUNK)

    return run


def train_singan(
    key: Key[Array, ""],
    image: Float[Array, "height width channels"],
    *,
    steps: int = 500,
    channels: int = 32,
    coarsest: int = 18,
    progress: Callable[[int, int, float], None] | None = None,
) -> SinGAN:
    """Train one scale after the other; each begins with the weights of the last.

    Args:
        key: names all noise.
        image: from -1 to 1.
        steps: of each scale, three turns of each player; the authors take 2,000.
        channels: of the networks.
        coarsest: shorter side of the coarsest scale.
        progress: is told the steps that are done, their number, and the last reconstruction error.
    """
    colors = image.shape[-1]
    generator, critic = Patches(colors, channels), Patches(1, channels, bounded=False)
    sides = scales_of((image.shape[0], image.shape[1]), coarsest)
    start = jax.random.normal(jax.random.fold_in(key, 0), (*sides[0], colors))
    chain = Chain((), (), start)
    rate = optax.piecewise_constant_schedule(5e-4, {3 * steps * 4 // 5: 0.1})
    adam = {player: optax.adam(rate, b1=0.5) for player in ("gen", "disc")}
    last = None
    for number in range(len(sides)):
        target = jax.image.resize(image, (*sides[number], colors), "cubic", antialias=True)[None]
        own = jax.random.fold_in(key, number + 1)
        noise, above, sigma = start[None], jnp.zeros_like(target), jnp.float32(1)
        if number:
            before = reconstruct_chain(generator, chain, sides[:number])[None]
            above = jax.image.resize(before, target.shape, "linear")
            noise = jnp.zeros_like(target)
            sigma = _NOISE * jnp.sqrt(jnp.mean(jnp.square(above - target)))
        frozen = {"chain": chain, "sigma": sigma, "above": above, "noise": noise}
        model = singan_scale(generator, critic, sides[: number + 1])
        batch, some = {"x": target}, _several(make_train_step(model, adam))
        state = jax.jit(lambda k, b, f, m=model: init_state(m, adam, k, b, f))(own, batch, frozen)
        if last is not None:
            state = state.replace(params=last)
        total = -(-steps // _CHUNK)
        for part in range(total):
            state, errors = some(state, frozen, batch, own)
            if progress is not None:
                done = (number * total + part + 1) * _CHUNK
                progress(done, len(sides) * total * _CHUNK, float(np.asarray(errors)[-1]))
        last = state.params
        chain = Chain((*chain.generators, last["gen"]), (*chain.sigmas, sigma), start)
    return SinGAN(generator, chain, sides)
