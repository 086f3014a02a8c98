"""The U-Net of denoising diffusion (Ho et al. 2020), of ADM and of latent diffusion."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.nn import lowering
from gen_jax.nn.blocks import (
    ACTIVATIONS,
    DEFAULT_INIT,
    ZERO_INIT,
    AttentionBlock,
    ConvNeXtBlock,
    Downsample,
    ResBlock,
    Upsample,
    check_label,
    rematerialized,
)
from gen_jax.nn.cross_attention import SpatialTransformer
from gen_jax.nn.embeddings import sinusoidal
from gen_jax.nn.geometry import level_widths, unet_faults
from gen_jax.nn.temporal import TemporalLayer, as_clips, frame_keys, frames_of, of_frames
from gen_jax.typing import Array, Bool, DTypeLike, Float, Int, Keys

__all__ = ["UNet"]

BLOCKS = {"resnet": ResBlock, "convnext": ConvNeXtBlock}


class UNet(nn.Module):
    """Residual blocks down and up through resolutions that halve, joined by skip connections.

    With the defaults, ``resolution=32`` and ``out_channels=3`` it is the CIFAR-10 network of Ho et
    al. 2020 (appendix B) with 35.7 million parameters. ``adaptive``, ``resample="blocks"``,
    ``head_dim=64`` and attention at 32, 16 and 8 make it ADM (Dhariwal & Nichol 2021, section 3),
    ``context_dim`` the network of latent diffusion (Rombach et al. 2022, section 3.3). The output
    starts at zero.

    Attributes:
        resolution: height and width of the input.
        out_channels: channels of the output. Those of the input may be more: an image to be made
            larger, for example, beside the noisy one.
        channels: channels of the first level.
        multipliers: channels of each level, as multiples; each further level halves the image. At
            a first below 1 (ADM at 512x512 has 1/2) the first convolution has as few.
        num_res_blocks: residual blocks a level on the way down; one more on the way up.
        attention_resolutions: resolutions at which every residual block is followed by attention;
            between the way down and the way up there is always one.
        num_heads: heads of each attention layer.
        groups: groups of each group normalization.
        dropout: rate, in [0, 1).
        num_classes: how many labels the network is conditioned on; None for none.
        dtype: compute type but of the first and last layer; parameters are float32 and so is the
            output.
        remat: what residual and attention blocks compute again in the backward pass to save memory;
            see :func:`gen_jax.nn.blocks.rematerialized`.
        block: ``"resnet"`` or ``"convnext"``.
        adaptive: time and class scale and shift normalizations (adaptive group normalization), in
            place of being added.
        resample: ``"conv"``, convolutions between levels, or ``"blocks"``, residual blocks that
            resample, as BigGAN's.
        head_dim: width of each head, in place of ``num_heads``; 0 for that.
        scale_skips: residual sums are multiplied by 1 / sqrt(2).
        activation: of blocks, one of :data:`gen_jax.nn.blocks.ACTIVATIONS`; ``"auto"``: SiLU, or
            the GELU of ConvNeXt.
        context_dim: width of the sequence, of a text for example, that attention layers also attend
            to; None for none.
        context_depth: transformer layers in each of these; a tuple has those of each level, the
            last for the middle too.
        pooled_dim: width of one vector for all of a text, added to the embedding of time together
            with numbers such as the image's size (Podell et al. 2023, section 2.2); None for none.
        size_dim: width of the embedding of each of these numbers.
        middle_attention: whether there is attention between the way down and the way up.
        middle_norm: whether that has a normalization.
        epsilon: of normalizations, but of those in layers with ``context_dim``.
        centered: see :class:`gen_jax.nn.blocks.Downsample`.
        time: options of :func:`gen_jax.nn.embeddings.sinusoidal`, as pairs.
        frames: of a film, [batch, frames, height, width, channels]: each residual block is followed
            by a layer over time; 0 for images.

    Raises:
        ValueError: at construction, if a resolution is never visited or something does not divide.
    """

    resolution: int
    out_channels: int
    channels: int = 128
    multipliers: tuple[float, ...] = (1, 2, 2, 2)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (16,)
    num_heads: int = 1
    groups: int = 32
    dropout: float = 0.1
    num_classes: int | None = None
    dtype: DTypeLike = jnp.float32
    remat: str = "none"
    block: str = "resnet"
    adaptive: bool = False
    resample: str = "conv"
    head_dim: int = 0
    scale_skips: bool = False
    activation: str = "auto"
    context_dim: int | None = None
    context_depth: int | tuple[int, ...] = 1
    pooled_dim: int | None = None
    size_dim: int = 256
    middle_attention: bool = True
    middle_norm: bool = True
    epsilon: float = 1e-6
    centered: bool = False
    time: tuple[tuple[str, Any], ...] = ()
    frames: int = 0

    def __post_init__(self) -> None:
        faults = dict(
            unet_faults(
                resolution=self.resolution,
                channels=self.channels,
                multipliers=self.multipliers,
                attention_resolutions=self.attention_resolutions,
                num_heads=self.num_heads,
                groups=self.groups,
                head_dim=self.head_dim,
            )
        )
        for name, known in (
            ("block", BLOCKS),
            ("resample", ("conv", "blocks")),
            ("activation", ("auto", *ACTIVATIONS)),
        ):
            if getattr(self, name) not in known:
                faults[name] = f"got {getattr(self, name)!r}; one of {', '.join(known)} is required"
        if self.context_dim is not None:
            for name, needed in (("scale_skips", False), ("middle_norm", True)):
                if getattr(self, name) != needed:
                    faults[name] = f"{needed} is required with context_dim"
        depth = self.context_depth
        if isinstance(depth, tuple) and len(depth) != len(self.multipliers):
            what = f"{len(self.multipliers)} numbers, one for each level, are required"
            faults["context_depth"] = f"got {depth}; {what}"
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
        sizes: Float[Array, "batch numbers"] | None = None,
        context_mask: Bool[Array, "batch length"] | None = None,
    ) -> Float[Array, "batch *frames height width out_channels"]:
        """Predict the target of the parameterization that the network is trained with.

        Args:
            x: noisy images at the network's resolution.
            t: times in [0, 1], or what a preconditioning shows in their place.
            label: classes in [0, num_classes); needed if and only if num_classes is set.
            keys: one for each example, for dropout; None turns dropout off.
            context: a sequence of vectors; needed if and only if context_dim is set.
            pooled: one vector; needed if and only if pooled_dim is set, as is ``sizes``.
            sizes: numbers that go with it; there may be none of them.
            context_mask: which vectors of the sequence are looked at; None for all.

        Raises:
            ValueError: if the image has another size, or a label, context or vector is missing or
                not expected.
        """
        if self.frames:
            x = frames_of(x, self.frames)
            told = (t, label, context, pooled, sizes, context_mask)
            t, label, context, pooled, sizes, context_mask = of_frames(told, self.frames)
            keys = frame_keys(keys, self.frames)
        if x.shape[1:3] != (self.resolution, self.resolution):
            raise ValueError(
                f"x: got {x.shape}; images of {self.resolution} x {self.resolution} are required"
            )
        check_label(label, self.num_classes)
        if (context is None) != (self.context_dim is None):
            state = "missing" if context is None else "not expected"
            raise ValueError(f"context: {state} with context_dim={self.context_dim}")
        if not (pooled is None) == (sizes is None) == (self.pooled_dim is None):
            state = "missing" if pooled is None or sizes is None else "not expected"
            raise ValueError(f"pooled, sizes: {state} with pooled_dim={self.pooled_dim}")
        embedding = self._embed(t, label)
        if pooled is not None and sizes is not None:
            embedding = embedding + self._embed_text(pooled, sizes)
        context = None if context is None else context.astype(self.dtype)

        def attend(name: str, h: Array, level: int, normed: bool = True) -> Array:
            return self._attention(name, h.shape[-1], context, level, normed)(
                h, context, context_mask
            )

        def block(name: str, h: Array, width: int, level: int) -> Array:
            h = self._res_block(name, width)(h, embedding, keys)
            if h.shape[1] in self.attention_resolutions:
                h = attend(f"{name}_attention", h, level)
            return over_time(name, h)

        def over_time(name: str, h: Array) -> Array:
            if not self.frames:
                return h
            heads = h.shape[-1] // self.head_dim if self.head_dim else self.num_heads
            layer = TemporalLayer(self.frames, heads, self.dtype, name=f"{name}_temporal")
            return layer(h, embedding)

        # In float32, like the last layer: 8 bits of x_t hide the noise at small times.
        widths = level_widths(self.channels, self.multipliers)
        first = min(self.channels, widths[0])
        h = self._conv("conv_in", first, DEFAULT_INIT)(x).astype(self.dtype)
        skips = [h]
        last_level = len(widths) - 1
        for level, width in enumerate(widths):
            for number in range(self.num_res_blocks):
                h = block(f"down_{level}_{number}", h, width, level)
                skips.append(h)
            if level != last_level:
                h = self._resample(f"down_{level}_sample", "down", width)(h, embedding, keys)
                skips.append(h)

        width = widths[-1]
        h = self._res_block("middle_0", width)(h, embedding, keys)
        if self.middle_attention:
            h = attend("middle_attention", h, last_level, self.middle_norm)
        h = over_time("middle", self._res_block("middle_1", width)(h, embedding, keys))

        for level, width in reversed(list(enumerate(widths))):
            for number in range(self.num_res_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(f"up_{level}_{number}", h, width, level)
            if level != 0:
                h = self._resample(f"up_{level}_sample", "up", width)(h, embedding, keys)

        norm = lowering.GroupNorm(
            self.groups,
            epsilon=self.epsilon,
            dtype=jnp.float32,
            name="norm_out",
        )
        made = self._conv("conv_out", self.out_channels, ZERO_INIT)(nn.silu(norm(h)))
        return as_clips(made, self.frames) if self.frames else made

    def _embed(self, t: Array, label: Array | None) -> Float[Array, "batch dim"]:
        dim = 4 * self.channels
        embedding = sinusoidal(t, self.channels, **dict(self.time)).astype(self.dtype)
        embedding = self._dense("time_0", dim)(embedding)
        embedding = self._dense("time_1", dim)(nn.silu(embedding))
        if label is not None and self.num_classes is not None:
            table = nn.Embed(self.num_classes, dim, dtype=self.dtype, name="label")
            embedding = embedding + table(label)
        return embedding

    def _embed_text(self, pooled: Array, sizes: Array) -> Float[Array, "batch dim"]:
        whole = pooled
        if sizes.shape[-1]:
            waves = {**dict(self.time), "scale": 1.0, "offset": 0.0}
            numbers = sinusoidal(jnp.ravel(sizes), self.size_dim, **waves)
            whole = jnp.concatenate([pooled, jnp.reshape(numbers, (len(pooled), -1))], axis=-1)
        dim = 4 * self.channels
        embedding = self._dense("pooled_0", dim)(whole.astype(self.dtype))
        return self._dense("pooled_1", dim)(nn.silu(embedding))

    @property
    def _activation(self) -> str:
        usual = "gelu" if self.block == "convnext" else "silu"
        return usual if self.activation == "auto" else self.activation

    @property
    def _residual_scale(self) -> float:
        return 2**-0.5 if self.scale_skips else 1.0

    def _res_block(self, name: str, width: int, resample: str = "") -> nn.Module:
        block = rematerialized(BLOCKS[self.block], self.remat)
        return block(
            width,
            self.groups,
            self.dropout,
            self.dtype,
            adaptive=self.adaptive,
            resample=resample,
            residual_scale=self._residual_scale,
            activation=self._activation,
            epsilon=self.epsilon,
            name=name,
        )

    def _resample(self, name: str, how: str, width: int) -> Callable[..., Array]:
        if self.resample == "blocks":
            return self._res_block(name, width, how)
        if how == "up":
            layer: nn.Module = Upsample(self.dtype, name=name)
        else:
            layer = Downsample(self.dtype, self.centered, name=name)
        return lambda h, embedding, keys: layer(h)

    def _attention(
        self, name: str, width: int, context: Array | None, level: int, normed: bool
    ) -> Callable[..., Array]:
        heads = width // self.head_dim if self.head_dim else self.num_heads
        if context is not None:
            transformer = rematerialized(SpatialTransformer, self.remat)
            depth = self.context_depth
            depth = depth[level] if isinstance(depth, tuple) else depth
            return transformer(heads, depth, self.groups, self.dtype, name=name)
        block = rematerialized(AttentionBlock, self.remat)
        layer = block(
            heads,
            self.groups,
            self.dtype,
            residual_scale=self._residual_scale,
            epsilon=self.epsilon,
            normed=normed,
            name=name,
        )
        return lambda h, context, mask: layer(h)

    def _dense(self, name: str, width: int) -> nn.Dense:
        return nn.Dense(width, kernel_init=DEFAULT_INIT, dtype=self.dtype, name=name)

    def _conv(self, name: str, width: int, kernel_init: nn.initializers.Initializer) -> nn.Module:
        return lowering.Conv(width, (3, 3), kernel_init=kernel_init, dtype=jnp.float32, name=name)
