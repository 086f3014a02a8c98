"""The diffusion transformer (Peebles & Xie 2023), behind the same call as the U-Net."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from gen_jax.nn import lowering
from gen_jax.nn.blocks import Dropout, check_label, rematerialized
from gen_jax.nn.embeddings import sinusoidal
from gen_jax.nn.geometry import dit_faults
from gen_jax.nn.temporal import TemporalLayer, as_clips, frame_keys, frames_of, of_frames
from gen_jax.ops import keys as rng
from gen_jax.typing import Array, Bool, DTypeLike, Float, Int, Keys

__all__ = ["DiT"]

INIT = nn.initializers.xavier_uniform()
ZERO_INIT = nn.initializers.zeros
FREQUENCIES = 256  # of the time embedding


def grid_positions(side: int, width: int) -> Float[np.ndarray, "positions width"]:
    """Return sines and cosines of row and column, half of the width each (as in ViT-MAE's code)."""
    frequencies = 10000.0 ** (-np.arange(width // 4) / (width // 4))
    rows, columns = np.divmod(np.arange(side * side), side)
    angles = [axis[:, None] * frequencies[None] for axis in (columns, rows)]
    waves = [wave(angle) for angle in angles for wave in (np.sin, np.cos)]
    return np.concatenate(waves, axis=1).astype(np.float32)


def _modulate(x: Array, shift: Array, scale: Array) -> Array:
    return x * (1 + scale[:, None]) + shift[:, None]


class _Block(nn.Module):
    """Attention and an MLP, both scaled, shifted and gated by the condition (adaLN-zero).

    Given a sequence, attention to it stands between the two.
    """

    num_heads: int
    mlp_ratio: int
    dropout: float
    dtype: DTypeLike
    epsilon: float
    frames: int = 0

    @nn.compact
    def __call__(
        self,
        h: Float[Array, "batch positions width"],
        layer: Int[Array, ""],
        condition: Float[Array, "batch width"],
        keys: Keys | None,
        mask: Bool[Array, "batch seen"] | None = None,
        context: Float[Array, "batch length width"] | None = None,
    ) -> tuple[Float[Array, "batch positions width"], None]:
        keys = None if keys is None else rng.fold_in(keys, layer)
        width = h.shape[-1]
        six = nn.Dense(6 * width, kernel_init=ZERO_INIT, dtype=self.dtype, name="modulation")(
            nn.silu(condition)
        )
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = jnp.split(six, 6, axis=-1)
        x = _modulate(self._norm()(h), shift, scale)
        x = self._attend("", x, x, mask if context is None else None)
        h = h + gate[:, None] * Dropout(self.dropout, name="dropout_attention")(x, keys)
        if context is not None:
            h = h + self._attend("cross_", h, context, mask, ZERO_INIT)
        x = _modulate(self._norm(self.epsilon)(h), mlp_shift, mlp_scale)
        x = nn.Dense(self.mlp_ratio * width, kernel_init=INIT, dtype=self.dtype, name="mlp_in")(x)
        x = nn.Dense(width, kernel_init=INIT, dtype=self.dtype, name="mlp_out")(nn.gelu(x))
        h = h + mlp_gate[:, None] * Dropout(self.dropout, name="dropout_mlp")(x, keys)
        if self.frames:
            layer_over_time = TemporalLayer(
                self.frames, self.num_heads, self.dtype, name="temporal"
            )
            h = layer_over_time(h, condition)
        return h, None

    def _attend(
        self,
        prefix: str,
        h: Array,
        source: Array,
        mask: Array | None,
        out_init: nn.initializers.Initializer = INIT,
    ) -> Array:
        width = h.shape[-1]
        heads = (self.num_heads, width // self.num_heads)
        query, key, value = (
            nn.DenseGeneral(heads, kernel_init=INIT, dtype=self.dtype, name=f"{prefix}{name}")(x)
            for name, x in (("query", h), ("key", source), ("value", source))
        )
        return nn.DenseGeneral(
            width,
            axis=(-2, -1),
            kernel_init=out_init,
            dtype=self.dtype,
            name=f"{prefix}attention_out",
        )(lowering.attention(query, key, value, mask=mask))

    def _norm(self, epsilon: float = 1e-6) -> nn.LayerNorm:
        return nn.LayerNorm(
            epsilon, use_bias=False, use_scale=False, use_fast_variance=False, dtype=self.dtype
        )


class DiT(nn.Module):
    """Patches of an image as tokens of a transformer that time and class modulate.

    With ``patch=2``, ``width=1152``, ``depth=28`` and ``num_heads=16`` it is DiT-XL/2. The layers
    are one ``lax.scan``. The output starts at zero.

    Attributes:
        resolution: height and width of the input.
        out_channels: channels of the output.
        patch: side of a patch; must divide the resolution.
        width: of the residual stream; a multiple of 4.
        depth: layers.
        num_heads: heads of each attention layer; must divide the width.
        mlp_ratio: hidden width of the MLPs, as a multiple of the width.
        dropout: rate, in [0, 1).
        num_classes: how many labels the network is conditioned on; None for none.
        dtype: compute type but of the first and last layer; parameters are float32 and so is the
            output.
        remat: see :func:`gen_jax.nn.blocks.rematerialized`.
        epsilon: of the normalizations before the MLPs; the others have 1e-6.
        time: options of :func:`gen_jax.nn.embeddings.sinusoidal`, as pairs.
        context_dim: width of the vectors of a sequence, of a text for example; None for none.
        joint: the sequence's vectors are further tokens, which attend and are attended to (Esser et
            al. 2024, with one stream of weights); else each layer attends to them after itself
            (Chen et al. 2023, PixArt).
        pooled_dim: width of one vector for all of a text, added to the condition; None for none.
        frames: of a film, [batch, frames, height, width, channels]: each layer is followed by one
            over time; 0 for images.

    Raises:
        ValueError: at construction, if something does not divide.
    """

    resolution: int
    out_channels: int
    patch: int = 2
    width: int = 384
    depth: int = 12
    num_heads: int = 6
    mlp_ratio: int = 4
    dropout: float = 0.0
    num_classes: int | None = None
    dtype: DTypeLike = jnp.float32
    remat: str = "none"
    epsilon: float = 1e-6
    time: tuple[tuple[str, Any], ...] = ()
    context_dim: int | None = None
    joint: bool = True
    pooled_dim: int | None = None
    frames: int = 0

    def __post_init__(self) -> None:
        faults = dit_faults(
            resolution=self.resolution,
            patch=self.patch,
            width=self.width,
            num_heads=self.num_heads,
        )
        if faults:
            raise ValueError("; ".join(f"{name}: {fault}" for name, fault in faults.items()))
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch *frames height width in_channels"],
        t: Float[Array, "batch"],
        label: Int[Array, "batch"] | None = None,
        keys: Keys | None = None,
        context: Float[Array, "batch length context_dim"] | None = None,
        *,
        pooled: Float[Array, "batch pooled_dim"] | None = None,
        sizes: Array | None = None,
        context_mask: Bool[Array, "batch length"] | None = None,
    ) -> Float[Array, "batch *frames height width out_channels"]:
        """Predict the target of the parameterization that the network is trained with.

        Args:
            x: noisy images at the network's resolution.
            t: times in [0, 1], or what a preconditioning shows in their place.
            label: classes in [0, num_classes); needed if and only if num_classes is set.
            keys: one for each example, for dropout; None turns dropout off.
            context: a sequence of vectors; needed if and only if context_dim is set.
            pooled: one vector; needed if and only if pooled_dim is set.
            sizes: none; numbers of an image's size are the U-Net's.
            context_mask: which vectors of the sequence are looked at; None for all.

        Raises:
            ValueError: if the image has another size, or a label, context or vector is missing or
                not expected.
        """
        told = (("context", context, self.context_dim), ("pooled", pooled, self.pooled_dim))
        for name, given, dim in told:
            if (given is None) != (dim is None):
                state = "missing" if given is None else "not expected"
                raise ValueError(f"{name}: {state} with {name}_dim={dim}")
        if sizes is not None and sizes.shape[-1]:
            raise ValueError("sizes: not expected; DiT is told no numbers of an image's size")
        if self.frames:
            x = frames_of(x, self.frames)
            told_all = (t, label, context, pooled, context_mask)
            t, label, context, pooled, context_mask = of_frames(told_all, self.frames)
            keys = frame_keys(keys, self.frames)
        if x.shape[1:3] != (self.resolution, self.resolution):
            raise ValueError(
                f"x: got {x.shape}; images of {self.resolution} x {self.resolution} are required"
            )
        check_label(label, self.num_classes)
        side = self.resolution // self.patch
        # In float32, like the last layer: 8 bits of x_t hide the noise at small times.
        tokens = _to_patches(x.astype(jnp.float32), self.patch)
        h = self._dense("patches", self.width, INIT, jnp.float32)(tokens)
        h = (h + jnp.asarray(grid_positions(side, self.width))[None]).astype(self.dtype)
        condition = sinusoidal(t, FREQUENCIES, **{"shift": 0, "cos_first": True, **dict(self.time)})
        condition = self._dense("time_0", self.width, _normal())(condition.astype(self.dtype))
        condition = self._dense("time_1", self.width, _normal())(nn.silu(condition))
        if label is not None and self.num_classes is not None:
            table = nn.Embed(
                self.num_classes,
                self.width,
                embedding_init=_normal(),
                dtype=self.dtype,
                name="label",
            )
            condition = condition + table(label)
        if pooled is not None:
            vector = pooled.astype(self.dtype)
            condition = condition + self._dense("pooled", self.width, _normal())(vector)
        mask, beside = context_mask, None
        if context is not None:
            beside = self._dense("context", self.width, INIT)(context.astype(self.dtype))
            if self.joint:
                h = jnp.concatenate([h, beside], axis=1)
                if mask is not None:
                    seen = jnp.ones((len(h), side**2), bool)
                    mask = jnp.concatenate([seen, mask], axis=1)
                beside = None
        layers = nn.scan(
            rematerialized(_Block, self.remat),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast, nn.broadcast),
            length=self.depth,
        )
        blocks = layers(
            self.num_heads,
            self.mlp_ratio,
            self.dropout,
            self.dtype,
            self.epsilon,
            self.frames,
            name="blocks",
        )
        h, _ = blocks(h, jnp.arange(self.depth), condition, keys, mask, beside)
        h = h[:, : side**2]
        two = self._dense("modulation_out", 2 * self.width, ZERO_INIT)(nn.silu(condition))
        norm = nn.LayerNorm(
            use_bias=False, use_scale=False, use_fast_variance=False, dtype=jnp.float32
        )
        h = _modulate(norm(h), *jnp.split(two, 2, axis=-1))
        h = self._dense("out", self.patch**2 * self.out_channels, ZERO_INIT, jnp.float32)(h)
        made = _from_patches(h, self.patch, side).astype(jnp.float32)
        return as_clips(made, self.frames) if self.frames else made

    def _dense(
        self,
        name: str,
        width: int,
        init: nn.initializers.Initializer,
        dtype: DTypeLike | None = None,
    ) -> nn.Dense:
        return nn.Dense(width, kernel_init=init, dtype=dtype or self.dtype, name=name)


def _normal() -> nn.initializers.Initializer:
    return nn.initializers.normal(0.02)


def _to_patches(
    x: Float[Array, "batch height width channels"], patch: int
) -> Float[Array, "batch positions values"]:
    batch, height, width, channels = x.shape
    x = jnp.reshape(x, (batch, height // patch, patch, width // patch, patch, channels))
    return jnp.reshape(jnp.swapaxes(x, 2, 3), (batch, -1, patch * patch * channels))


def _from_patches(
    h: Float[Array, "batch positions values"], patch: int, side: int
) -> Float[Array, "batch height width channels"]:
    channels = h.shape[-1] // patch**2
    x = jnp.reshape(h, (len(h), side, side, patch, patch, channels))
    return jnp.reshape(jnp.swapaxes(x, 2, 3), (len(h), side * patch, side * patch, channels))
