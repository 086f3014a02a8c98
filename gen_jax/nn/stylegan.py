"""The generator of StyleGAN2 (Karras et al. 2020a), on shapes of any size.

A mapping turns z into w; a style made of w scales the inputs of each convolution, whose outputs are
scaled back to the variance that they would have (weight demodulation, section 2.2). Per-example
kernels are never made: scaling inputs and outputs is the same, and dense convolutions are fast
everywhere. Its discriminator is :class:`gen_jax.nn.gan.Discriminator`: no statistic of the batch.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.nn import lowering
from gen_jax.nn.blocks import check_label
from gen_jax.nn.gan import twice
from gen_jax.nn.geometry import gan_faults
from gen_jax.ops import keys as rng
from gen_jax.ops.checks import checked
from gen_jax.typing import Array, DTypeLike, Float, Int, Keys

__all__ = ["ScaledDense", "StyleBased", "StyleGenerator", "gained", "modulated_convolution"]

_GAIN = 2**0.5  # keeps variances behind a leaky ReLU


def gained(h: Array) -> Array:
    """Take the leaky ReLU that leaves a variance as it is."""
    return nn.leaky_relu(h, 0.2) * _GAIN


@checked
def modulated_convolution(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "rows columns channels out"],
    style: Float[Array, "batch channels"],
    *,
    demodulate: bool = True,
) -> Float[Array, "batch height width out"]:
    """Convolve each example with the kernel scaled by its own style, and scaled back.

    w'_ijk = s_i w_ijk, and with ``demodulate`` w''_ijk = w'_ijk / sqrt(sum_ik w'_ijk^2 + 1e-8)
    (Karras et al. 2020a, Eq. 1 and 3).

    Args:
        x: inputs.
        kernel: of odd size.
        style: s, of each example's channels.
        demodulate: whether outputs are scaled back.
    """
    scaled = x * style[:, None, None].astype(x.dtype)
    numbers = ("NHWC", "HWIO", "NHWC")
    y = lowering.convolve(scaled, kernel.astype(x.dtype), (1, 1), "SAME", dimension_numbers=numbers)
    if not demodulate:
        return y
    squares = jnp.sum(jnp.square(kernel), axis=(0, 1))  # [channels, out]
    norms = jax.lax.rsqrt(jnp.square(style) @ squares + 1e-8)
    return y * norms[:, None, None].astype(y.dtype)


class ScaledDense(nn.Module):
    """A dense layer whose weights are of variance 1 and scaled where they are used.

    All then learn at one speed, of ``rate`` times the optimizer's (Karras et al. 2018, 4.1).
    """

    features: int
    bias: float = 0.0
    rate: float = 1.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = nn.initializers.normal(1 / self.rate)
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        start = nn.initializers.constant(self.bias / self.rate)
        bias = self.param("bias", start, (self.features,))
        scale = self.rate / x.shape[-1] ** 0.5
        return x @ (scale * kernel).astype(x.dtype) + (self.rate * bias)[None].astype(x.dtype)


class _Layer(nn.Module):
    """A modulated convolution, noise, bias and nonlinearity; or, to colors, without the last."""

    features: int
    size: int = 3
    colors: bool = False

    @nn.compact
    def __call__(self, x: Array, w: Array, keys: Keys | None) -> Array:
        channels = x.shape[-1]
        shape = (self.size, self.size, channels, self.features)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape)
        kernel = kernel / (self.size**2 * channels) ** 0.5
        style = ScaledDense(channels, bias=1.0, name="style")(w)
        y = modulated_convolution(x, kernel, style, demodulate=not self.colors)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        bias = bias[None, None, None].astype(y.dtype)
        if self.colors:
            return y + bias
        strength = self.param("noise", nn.initializers.zeros, ())
        if keys is not None:
            y = y + (strength * rng.normal(keys, (*y.shape[1:3], 1))).astype(y.dtype)
        return gained(y + bias)


class StyleBased(nn.Module):
    """What generators of StyleGAN's kind share: the mapping from z to w.

    Attributes:
        shape: height, width and channels of an image.
        widths: channels of each resolution, from the coarsest.
        style_dim: length of w.
        depth: layers of the mapping, which learn at a hundredth of the speed.
        num_classes: labels go into the mapping; None for no labels.
        dtype: of the synthesis; parameters are float32, and so are colors.
    """

    shape: tuple[int, int, int]
    widths: Sequence[int] = (128, 128, 64, 32)
    style_dim: int = 128
    depth: int = 2
    num_classes: int | None = None
    dtype: DTypeLike = jnp.float32

    @property
    def num_layers(self) -> int:
        """Return how many layers have a style of their own."""
        raise NotImplementedError

    def setup(self) -> None:
        """Make the mapping."""
        self.mapping = [ScaledDense(self.style_dim, rate=0.01) for _ in range(self.depth)]
        if self.num_classes is not None:
            self.embed = nn.Embed(
                self.num_classes, self.style_dim, embedding_init=nn.initializers.normal(1.0)
            )

    def __call__(
        self,
        z: Float[Array, "batch latent"],
        label: Int[Array, "batch"] | None = None,
        keys: Keys | None = None,
    ) -> Float[Array, "batch height width channels"]:
        """Map and synthesize, the same w for all layers; with ``keys`` noise is added."""
        w = self.style_of(z, label)
        return self.synthesize(jnp.repeat(w[:, None], self.num_layers, axis=1), keys)

    def style_of(
        self, z: Float[Array, "batch latent"], label: Int[Array, "batch"] | None = None
    ) -> Float[Array, "batch style"]:
        """Map z, brought to length sqrt(D), to w."""
        check_label(label, self.num_classes)

        def unit(x: Array) -> Array:
            return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-8)

        h = unit(z)
        if label is not None:
            h = jnp.concatenate([h, unit(self.embed(label))], axis=-1)
        for layer in self.mapping:
            h = gained(layer(h))
        return h

    def synthesize(
        self, w: Float[Array, "batch layers style"], keys: Keys | None = None
    ) -> Float[Array, "batch height width channels"]:
        """Make images of a style for each layer."""
        raise NotImplementedError


class StyleGenerator(StyleBased):
    """From z to w to images, each resolution adding to the colors of the last (skip outputs)."""

    def __post_init__(self) -> None:
        if faults := gan_faults(resolution=self.shape[:2], widths=self.widths):
            raise ValueError("; ".join(f"{name}: {fault}" for name, fault in faults.items()))
        super().__post_init__()

    @property
    def num_layers(self) -> int:
        """Return how many layers have a style of their own."""
        return 2 * len(self.widths)

    def setup(self) -> None:
        """Make the layers: one of the first resolution, two of the others, and one to colors."""
        super().setup()
        factor = 2 ** (len(self.widths) - 1)
        coarsest = (self.shape[0] // factor, self.shape[1] // factor, self.widths[0])
        self.first = self.param("first", nn.initializers.normal(1.0), coarsest)
        self.layers = [
            _Layer(width)
            for number, width in enumerate(self.widths)
            for _ in range(1 + (number > 0))
        ]
        self.to_colors = [_Layer(self.shape[2], 1, colors=True) for _ in self.widths]

    def synthesize(
        self, w: Float[Array, "batch layers style"], keys: Keys | None = None
    ) -> Float[Array, "batch height width channels"]:
        """Make images of a style for each layer.

        Args:
            w: [batch, num_layers, style_dim]; the color layers share the next layer's.
            keys: of the noise; None for none.
        """
        h = jnp.broadcast_to(self.first[None], (len(w), *self.first.shape)).astype(self.dtype)
        image, layer = None, 0
        for number in range(len(self.widths)):
            h = twice(h) if number else h
            for _ in range(1 + (number > 0)):
                own = None if keys is None else rng.fold_in(keys, layer)
                h = self.layers[layer](h, w[:, layer], own)
                layer += 1
            colors = self.to_colors[number](h.astype(jnp.float32), w[:, layer], None)
            image = colors if image is None else twice(image) + colors
        assert image is not None
        return image
