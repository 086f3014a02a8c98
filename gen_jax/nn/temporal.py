"""Layers over time, which make a network of images one of films (Blattmann et al. 2023).

Each stands behind a layer of the image network, begins as nothing, and lets frames see one another
at each place. The image network sees frames as examples of a batch.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.nn import lowering
from gen_jax.nn.embeddings import sinusoidal
from gen_jax.ops import keys as rng
from gen_jax.ops.checks import checked
from gen_jax.typing import Array, DTypeLike, Float, Keys

__all__ = ["TemporalLayer", "as_clips", "frame_keys", "frames_of", "of_frames"]

_ZERO = nn.initializers.zeros


@checked
def frames_of(
    x: Float[Array, "batch frames *dims"], frames: int
) -> Float[Array, "all_frames *dims"]:
    """Give the frames of clips as examples of one batch.

    Raises:
        ValueError: if clips have another number of frames.
    """
    if x.ndim != 5 or x.shape[1] != frames:
        raise ValueError(
            f"x: got {x.shape}; [batch, {frames}, height, width, channels] is required"
        )
    return jnp.reshape(x, (x.shape[0] * x.shape[1], *x.shape[2:]))


@checked
def as_clips(x: Float[Array, "all_frames *dims"], frames: int) -> Float[Array, "batch n *dims"]:
    """Give examples of a batch as clips of so many frames."""
    return jnp.reshape(x, (-1, frames, *x.shape[1:]))


@checked
def frame_keys(keys: Keys | None, frames: int) -> Array | None:
    """Make a key for each frame, of one for each clip."""
    if keys is None:
        return None
    return jnp.stack([rng.fold_in(keys, number) for number in range(frames)], axis=1).ravel()


def of_frames(told: Any, frames: int) -> Any:
    """Say to each frame what is said to its clip: arrays [batch, ...], or None."""
    return jax.tree.map(lambda x: jnp.repeat(x, frames, axis=0), told)


class TemporalLayer(nn.Module):
    """A convolution over neighboring frames, and attention over all, at each place alike.

    Both are added, and begin at zero; with sinusoidal positions of frames, so that clips of any
    length may be seen. The condition (time, text) shifts and scales what attention looks at.

    Attributes:
        frames: of a clip.
        num_heads: of the attention; divides the width.
        dtype: compute type.
    """

    frames: int
    num_heads: int = 1
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, h: Float[Array, "all_frames *places width"], condition: Float[Array, "all_frames dim"]
    ) -> Float[Array, "all_frames *places width"]:
        """Let frames see one another.

        Args:
            h: of the frames of all clips, one after another.
            condition: likewise.
        """
        width, shape = h.shape[-1], h.shape
        x = jnp.reshape(h, (-1, self.frames, h.size // (h.shape[0] * width), width))
        x = jnp.swapaxes(x, 1, 2)  # [clips, places, frames, width]
        x = x + self._convolve(nn.silu(self._norm("norm_convolution")(x)))
        two = nn.Dense(2 * width, kernel_init=_ZERO, dtype=self.dtype, name="modulation")
        shift, scale = jnp.split(two(nn.silu(condition[:: self.frames])), 2, axis=-1)
        seen = self._norm("norm_attention")(x)
        seen = seen * (1 + scale[:, None, None]) + shift[:, None, None]
        even = width + width % 2
        places = sinusoidal(jnp.arange(self.frames) / 1.0, even, 1.0)[:, :width]
        seen = seen + places[None, None].astype(seen.dtype)
        x = x + self._attend(jnp.reshape(seen, (-1, self.frames, width))).reshape(x.shape)
        return jnp.reshape(jnp.swapaxes(x, 1, 2), shape).astype(h.dtype)

    def _convolve(self, x: Float[Array, "*places frames width"]) -> Array:
        around = ((0, 0), (0, 0), (1, 1), (0, 0))
        padded = jnp.pad(x, around)
        three = [padded[..., i : i + self.frames, :] for i in range(3)]
        dense = nn.Dense(x.shape[-1], kernel_init=_ZERO, dtype=self.dtype, name="convolution")
        return dense(jnp.concatenate(three, axis=-1))

    def _attend(self, x: Float[Array, "rows frames width"]) -> Array:
        width = x.shape[-1]
        heads = (self.num_heads, width // self.num_heads)
        query, key, value = (
            nn.DenseGeneral(heads, dtype=self.dtype, name=name)(x)
            for name in ("query", "key", "value")
        )
        out = nn.DenseGeneral(
            width, axis=(-2, -1), kernel_init=_ZERO, dtype=self.dtype, name="attention_out"
        )
        return out(lowering.attention(query, key, value))

    def _norm(self, name: str) -> nn.LayerNorm:
        return nn.LayerNorm(use_fast_variance=False, dtype=jnp.float32, name=name)
