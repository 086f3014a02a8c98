"""The generator of StyleGAN3 (Karras et al. 2021, configuration T): nothing sticks to pixels.

Each layer holds samples of a band-limited signal, on a canvas with a margin. Nonlinearities make
new frequencies, so they work between an interpolation to twice the rate and a low-pass filter back
down (section 3). A translation of the Fourier features that all starts from is then a translation
of the image. Interpolations and filters are products with constant band matrices, one an axis,
which accelerators are best at: no kernel has to be written for them.
"""

import functools
import itertools
import math
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from gen_jax.nn.geometry import alias_free_faults
from gen_jax.nn.stylegan import ScaledDense, StyleBased, gained, modulated_convolution
from gen_jax.typing import Array, DTypeLike, Float, Keys

__all__ = ["AliasFreeGenerator", "resampling"]

_MARGIN = 10  # samples on each side of the canvas
_TAPS = 6  # of a filter, for each sample of the lower rate
# Cutoff and stopband of the first layer, in periods across the canvas; at the last one the stopband
# is this much above the cutoff (the paper's appendix C.1).
_CUTOFF, _STOPBAND, _LAST_STOPBAND = 2.0, 2.0**2.1, 2.0**0.3
_CRITICAL = 2  # last layers, which have all frequencies that their samples can hold
_COLORS = 0.25  # scale of the result


class Layer(NamedTuple):
    """A signal on the canvas, whose shorter side is one: its band and its samples.

    It has ``rate`` samples a side, of frequencies up to ``cutoff``, which have faded ``half_width``
    above it; with the margin, ``size`` samples along height and width.
    """

    cutoff: float
    half_width: float
    rate: int
    size: tuple[int, int]
    channels: int


def layers_of(shape: tuple[int, int, int], most: int, least: int, num: int) -> list[Layer]:
    """Plan the signals: the Fourier features, those that ``num`` layers make of them, and colors.

    Args:
        shape: of an image.
        most: channels of the first layers, at most.
        least: channels where the band is that of the image.
        num: layers between the Fourier features and the colors.
    """
    side = min(shape[:2])
    last = side / 2

    def planned(number: int) -> Layer:
        share = min(number / (num - _CRITICAL), 1.0)
        cutoff = _CUTOFF * (last / _CUTOFF) ** share
        stopband = _STOPBAND * (last * _LAST_STOPBAND / _STOPBAND) ** share
        rate = min(2 ** math.ceil(math.log2(2 * stopband)), side)
        rows, columns = (
            length if number >= num - 1 else length * rate // side + 2 * _MARGIN
            for length in shape[:2]
        )
        width = shape[2] if number == num else min(most, round(least * last / cutoff))
        half_width = max(stopband, rate / 2) - cutoff
        return Layer(cutoff, half_width, rate, (rows, columns), width)

    return [planned(0), *(planned(number) for number in range(num + 1))]


@functools.lru_cache(maxsize=256)
def resampling(
    size: int, rate: int, new_size: int, new_rate: int, cutoff: float, half_width: float
) -> np.ndarray:
    """Make the matrix [new_size, size] that filters samples and takes them at another rate.

    The filter is a sinc in a Kaiser window, six samples of the lower rate long. Both grids have the
    same middle; outside of the samples there is nothing.

    Args:
        size: number of samples that are given.
        rate: of these, in a unit of length.
        new_size: number of samples that are wanted.
        new_rate: of these.
        cutoff: frequency of which the filter lets half through.
        half_width: of the band in which it fades.
    """
    high = max(rate, new_rate)
    taps = _TAPS * high // min(rate, new_rate)
    beta = _kaiser_beta(2.285 * (taps - 1) * math.pi * 2 * half_width / (high / 2) + 7.95)

    def filtered(offset: np.ndarray) -> np.ndarray:
        """Compute the filter at distances in samples of the higher rate."""
        inside = np.abs(offset) <= (taps - 1) / 2 + 1e-6
        place = np.clip(2 * offset / (taps - 1), -1, 1)
        window = np.i0(beta * np.sqrt(1 - place**2)) * inside
        return window * np.sinc(2 * cutoff / high * offset)

    here = (np.arange(new_size) - (new_size - 1) / 2) * (high / new_rate)
    there = (np.arange(size) - (size - 1) / 2) * (high / rate)
    # A constant stays one; an interpolation finds a sample at every high/rate-th place alone.
    whole = np.sum(filtered(np.arange(taps) - (taps - 1) / 2))
    made = filtered(here[:, None] - there[None]) * (high / rate) / whole
    return made.astype(np.float32)


def _kaiser_beta(attenuation: float) -> float:
    """Choose the window of an attenuation in decibels, by Kaiser's formula."""
    if attenuation > 50:
        return 0.1102 * (attenuation - 8.7)
    if attenuation > 21:
        return 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    return 0.0


class _Features(nn.Module):
    """Waves of random frequencies and phases on the canvas, turned and moved by w, and mixed."""

    to: Layer
    seed: int = 0

    @nn.compact
    def __call__(self, w: Array, shift: Array | None) -> Array:
        to, channels = self.to, self.to.channels
        generator = np.random.default_rng(self.seed)  # constants of the network
        waves = generator.normal(size=(channels, 2))
        lengths = np.linalg.norm(waves, axis=1, keepdims=True)
        # Evenly spread in a disc as wide as the band.
        waves = waves / (lengths * np.exp(lengths**2) ** 0.25) * to.cutoff
        phases = generator.random(channels) - 0.5
        start = jnp.array([1.0, 0.0, 0.0, 0.0])
        turn = nn.Dense(4, kernel_init=nn.initializers.zeros, bias_init=lambda *_: start)(w)
        turn = turn / jnp.linalg.norm(turn[:, :2], axis=1, keepdims=True)
        cosine, sine, move = turn[:, 0], turn[:, 1], turn[:, 2:]
        move = move if shift is None else move + shift
        rotation = jnp.stack([cosine, -sine, sine, cosine], axis=-1).reshape(-1, 2, 2)
        frequencies = jnp.einsum("cd,bde->bce", jnp.asarray(waves, jnp.float32), rotation)
        rows, columns = (
            ((np.arange(n) - (n - 1) / 2) / to.rate).astype(np.float32) for n in to.size
        )
        # f . (p - move), apart for the rows and columns of p.
        along = frequencies[:, None, :, 0] * rows[None, :, None]  # [batch, rows, channels]
        across = frequencies[:, None, :, 1] * columns[None, :, None]
        offset = jnp.asarray(phases, jnp.float32)[None] - jnp.einsum(
            "bcd,bd->bc", frequencies, move
        )
        angle = along[:, :, None] + across[:, None] + offset[:, None, None]
        length = jnp.linalg.norm(frequencies, axis=-1)
        fading = jnp.clip(1 - (length - to.cutoff) / (to.rate / 2 - to.cutoff + 1e-6), 0, 1)
        h = jnp.sin(2 * jnp.pi * angle) * (2**0.5 * fading[:, None, None])
        mix = self.param("mix", nn.initializers.normal(1.0), (channels, channels))
        return h @ (mix / channels**0.5)


class _Layer(nn.Module):
    """A modulated convolution, and a leaky ReLU at a higher rate; or, to colors, without it."""

    old: Layer
    new: Layer
    colors: bool
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array, w: Array) -> Array:
        old, new, size = self.old, self.new, 1 if self.colors else 3
        shape = (size, size, old.channels, new.channels)
        kernel = self.param("kernel", nn.initializers.normal(1.0), shape)
        kernel = kernel / (size**2 * old.channels) ** 0.5
        style = ScaledDense(old.channels, bias=1.0, name="style")(w)
        dtype = jnp.float32 if self.colors else self.dtype
        y = modulated_convolution(x.astype(dtype), kernel, style, demodulate=not self.colors)
        bias = self.param("bias", nn.initializers.zeros, (new.channels,))
        y = y + bias[None, None, None].astype(y.dtype)
        if self.colors:
            return y
        rate = 2 * max(old.rate, new.rate)
        factor = rate // new.rate
        # As many samples as the filter back looks at.
        dense = tuple(factor * (length + _TAPS) for length in new.size)
        y = _resampled(y, (old.size, old.rate), (dense, rate), old)
        return _resampled(gained(y), (dense, rate), (new.size, new.rate), new)


def _resampled(
    x: Array,
    old: tuple[tuple[int, ...], int],
    new: tuple[tuple[int, ...], int],
    band: Layer,
) -> Array:
    """Bring samples, of such sizes and a rate, to other sizes and another rate."""
    rows, columns = (
        jnp.asarray(resampling(size, old[1], new_size, new[1], band.cutoff, band.half_width))
        for size, new_size in zip(old[0], new[0], strict=True)
    )
    x = jnp.einsum("yh,bhwc->bywc", rows.astype(x.dtype), x)
    return jnp.einsum("xw,bywc->byxc", columns.astype(x.dtype), x)


class AliasFreeGenerator(StyleBased):
    """From z to w to images whose detail moves with what it is detail of.

    Of the authors' normalization by running means of magnitudes there is nothing: demodulated
    kernels keep the size of signals as it is. There is neither noise nor mixing of styles.

    Attributes:
        widths: channels of the first layers, at most, and of those with the image's whole band;
            between them they fall as the band grows.
        num_convolutions: layers between the Fourier features and the colors.

    Raises:
        ValueError: if the shorter side is no power of two, or the layers are too few.
    """

    num_convolutions: int = 8

    def __post_init__(self) -> None:
        faults = alias_free_faults(
            resolution=self.shape[:2],
            widths=self.widths,
            num_convolutions=self.num_convolutions,
        )
        if faults:
            raise ValueError("; ".join(f"{name}: {fault}" for name, fault in faults.items()))
        super().__post_init__()

    @property
    def num_layers(self) -> int:
        """Return how many layers have a style of their own."""
        return self.num_convolutions + 2

    def setup(self) -> None:
        """Make the mapping and the layers."""
        super().setup()
        planned = layers_of(self.shape, self.widths[0], self.widths[-1], self.num_convolutions)
        self.features = _Features(planned[0])
        self.layers = [
            _Layer(old, new, number == self.num_convolutions, self.dtype)
            for number, (old, new) in enumerate(itertools.pairwise(planned))
        ]

    def synthesize(
        self,
        w: Float[Array, "batch layers style"],
        keys: Keys | None = None,
        shift: Float[Array, "batch 2"] | None = None,
    ) -> Float[Array, "batch height width channels"]:
        """Make images of a style for each layer.

        Args:
            w: [batch, num_layers, style_dim].
            keys: of noise, of which there is none.
            shift: how far all is moved down and to the right, in lengths of the shorter side.
        """
        del keys
        h = self.features(w[:, 0], shift).astype(self.dtype)
        for number, layer in enumerate(self.layers):
            h = layer(h, w[:, number + 1])
        return _COLORS * h
