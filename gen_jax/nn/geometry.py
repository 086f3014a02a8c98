"""The arithmetic of network shapes, without JAX.

Networks ask it when they are constructed, and the config schema before anything is loaded, so that
both refuse the same things with the same words.
"""

import math
from collections.abc import Mapping, Sequence

__all__ = [
    "alias_free_faults",
    "autoencoder_faults",
    "dit_faults",
    "dvae_faults",
    "flow_faults",
    "gan_faults",
    "hierarchy_faults",
    "level_widths",
    "pixelcnn_faults",
    "transformer_faults",
    "unet_faults",
    "unet_resolutions",
]


POSITIONS = ("table", "axes", "rotary")


def transformer_faults(
    *, width: int, num_heads: int, positions: str = "table"
) -> Mapping[str, str]:
    """Find what could not work in a transformer: ``{argument: what is wrong}``."""
    if num_heads < 1 or width % num_heads:
        return {"num_heads": f"{num_heads} does not divide the width {width}"}
    if positions not in POSITIONS:
        return {"positions": f"got {positions!r}; one of {', '.join(POSITIONS)} is required"}
    dim = width // num_heads
    if positions == "rotary" and (dim % 2 or dim < 6):
        return {"num_heads": f"heads of {dim}; with rotary positions an even number from 6"}
    return {}


def pixelcnn_faults(*, depth: int, kernel: int) -> Mapping[str, str]:
    """Find what could not work in a gated PixelCNN: ``{argument: what is wrong}``."""
    if depth < 2:
        return {"depth": f"got {depth}; at least 2 are required"}
    if kernel < 3 or kernel % 2 == 0:
        return {"kernel": f"got {kernel}; an odd number from 3 is required"}
    return {}


def dit_faults(*, resolution: int, patch: int, width: int, num_heads: int) -> Mapping[str, str]:
    """Find what could not work in a diffusion transformer: ``{argument: what is wrong}``."""
    faults = {}
    if patch < 1 or resolution % patch:
        faults["patch"] = f"{patch} does not divide the image's side {resolution}"
    if num_heads < 1 or width % num_heads:
        faults["num_heads"] = f"{num_heads} does not divide the width {width}"
    if width % 4:
        faults["width"] = (
            f"got {width}; a multiple of 4 is required (sines and cosines of two axes)"
        )
    return faults


def unet_resolutions(resolution: int, num_levels: int) -> tuple[int, ...]:
    """List the resolutions that a U-Net visits on its way down, largest first."""
    return tuple(resolution // 2**level for level in range(num_levels))


def level_widths(channels: int, multipliers: Sequence[float]) -> tuple[int, ...]:
    """Compute the channels of each level; multiples may be fractions, as ADM's half at 512x512.

    Raises:
        ValueError: for channels that are no whole numbers from 1.
    """
    widths = []
    for multiplier in multipliers:
        width = round(channels * multiplier)
        if width < 1 or abs(width - channels * multiplier) > 1e-6 * width:
            what = "a multiple that gives a whole number of channels is required"
            raise ValueError(f"got {multiplier} of {channels} channels; {what}")
        widths.append(width)
    return tuple(widths)


def unet_faults(
    *,
    resolution: int,
    channels: int,
    multipliers: Sequence[float],
    attention_resolutions: Sequence[int],
    num_heads: int,
    groups: int,
    head_dim: int = 0,
) -> Mapping[str, str]:
    """Find what could not work in a U-Net, or would silently do nothing.

    Args:
        resolution: height and width of the input.
        channels: channels of the first level.
        multipliers: channels of each level, as multiples.
        attention_resolutions: resolutions at which there is attention.
        num_heads: heads of each attention layer.
        groups: groups of each group normalization.
        head_dim: width of each head, in place of their number; 0 for none.

    Returns:
        ``{argument: what is wrong and what would be accepted}``; empty if all is well.
    """
    if faults := _level_faults(resolution, channels, multipliers):
        return faults
    faults = {}
    visited = unet_resolutions(resolution, len(multipliers))
    unvisited = sorted(set(attention_resolutions) - set(visited))
    if unvisited:
        faults["attention_resolutions"] = (
            f"{', '.join(map(str, unvisited))} never occurs: the network visits "
            f"{', '.join(map(str, visited))}"
        )
    faults |= _group_faults(channels, multipliers, groups)
    widths = level_widths(channels, multipliers)
    attending = {
        width for width, side in zip(widths, visited, strict=True) if side in attention_resolutions
    } | {widths[-1]}
    name, divisor = ("head_dim", head_dim) if head_dim else ("num_heads", num_heads)
    undivided = [width for width in sorted(attending) if divisor < 1 or width % divisor]
    if undivided:
        faults[name] = (
            f"{divisor} does not divide the {undivided[0]} channels of an attention layer"
        )
    if channels < 4 or channels % 2:
        faults["channels"] = (
            f"got {channels}; an even number from 4 is required (the time embedding is pairs of "
            "sine and cosine)"
        )
    return faults


def autoencoder_faults(
    *, resolution: int, channels: int, multipliers: Sequence[float], groups: int
) -> Mapping[str, str]:
    """Find what could not work in a convolutional encoder and its decoder.

    Args:
        resolution: height and width of the image.
        channels: channels of the first level.
        multipliers: channels of each level, as multiples; each level but the last halves the image.
        groups: groups of each group normalization.

    Returns:
        ``{argument: what is wrong and what would be accepted}``; empty if all is well.
    """
    if faults := _level_faults(resolution, channels, multipliers):
        return faults
    return _group_faults(channels, multipliers, groups)


def hierarchy_faults(
    *, factors: Sequence[int], channels: int, resolution: tuple[int, int] | None = None
) -> Mapping[str, str]:
    """Find what could not work in grids of codes of several sizes.

    Args:
        factors: by how much each grid is smaller than the one below it.
        channels: of the convolutions.
        resolution: height and width of the image, where it is known.

    Returns:
        ``{argument: what is wrong and what would be accepted}``; empty if all is well.
    """
    if not 1 <= len(factors) <= 3:
        return {"factors": f"got {tuple(factors)}; one to three are required"}
    if any(factor < 2 or factor & (factor - 1) for factor in factors):
        return {"factors": f"got {tuple(factors)}; powers of two from 2 are required"}
    if channels < 2:
        return {"channels": f"got {channels}; at least 2 are required"}
    total = math.prod(factors)
    if resolution and any(side % total for side in resolution):
        sides = "x".join(map(str, resolution))
        return {"factors": f"{tuple(factors)} divide by {total}, which {sides} is no multiple of"}
    return {}


def gan_faults(*, widths: Sequence[int], resolution: Sequence[int]) -> Mapping[str, str]:
    """Find what could not work between a generator's stages, each twice as large as the last."""
    if not widths:
        return {"widths": "got none; one for each resolution is required"}
    factor = 2 ** (len(widths) - 1)
    if any(side % factor for side in resolution):
        sides = "x".join(map(str, resolution))
        return {"widths": f"{len(widths)} stages divide by {factor}; {sides} is no multiple of it"}
    return {}


def flow_faults(
    *,
    resolution: Sequence[int],
    levels: int = 0,
    patch: int = 1,
    width: int = 1,
    num_heads: int = 1,
    even_tokens: bool = False,
) -> Mapping[str, str]:
    """Find what could not work in a normalizing flow.

    Args:
        resolution: height and width of an image.
        levels: how often it is halved.
        patch: side of a token.
        width: of a transformer.
        num_heads: of its layers.
        even_tokens: whether their number must be even.

    Returns:
        ``{argument: what is wrong and what would be accepted}``; empty if all is well.
    """
    sides = "x".join(map(str, resolution))
    if levels < 0 or any(side % 2**levels for side in resolution):
        return {"levels": f"divide {2**levels} into {sides}; a multiple of it is required"}
    if patch < 1 or any(side % patch for side in resolution):
        return {"patch": f"{patch} does not divide {sides}"}
    if even_tokens and resolution[0] // patch * (resolution[1] // patch) % 2:
        return {"patch": f"{patch} makes an odd number of tokens of {sides}; an even one is needed"}
    return transformer_faults(width=width, num_heads=num_heads)


def alias_free_faults(
    *, widths: Sequence[int], resolution: Sequence[int], num_convolutions: int
) -> Mapping[str, str]:
    """Find what could not work in StyleGAN3's generator.

    Args:
        widths: channels of the first and of the last layers.
        resolution: height and width of the image.
        num_convolutions: layers between the Fourier features and the colors.

    Returns:
        ``{argument: what is wrong and what would be accepted}``; empty if all is well.
    """
    faults = {}
    side = min(resolution)
    if side < 8 or side & (side - 1) or max(resolution) % side:
        wanted = "a power of two from 8, and a longer side that is a multiple of it"
        sides = "x".join(map(str, resolution))
        faults["resolution"] = f"got {sides}; a shorter side that is {wanted} are required"
    if len(widths) < 2:
        faults["widths"] = "those of the first and of the last layers are required"
    if num_convolutions < 3:
        faults["num_convolutions"] = f"got {num_convolutions}; at least 3 are required"
    return faults


def dvae_faults(
    *, num_groups: int, hidden: int, resolution: tuple[int, int] | None = None
) -> Mapping[str, str]:
    """Find what could not work in the network of a discrete VAE.

    Args:
        num_groups: of blocks; each but the first halves the image.
        hidden: channels of the first group.
        resolution: height and width of the image, where it is known.

    Returns:
        ``{argument: what is wrong and what would be accepted}``; empty if all is well.
    """
    faults = {}
    if hidden % 4:
        faults["hidden"] = f"got {hidden}; a multiple of 4 is required"
    factor = 2 ** (num_groups - 1)
    if resolution and any(side % factor for side in resolution):
        sides = "x".join(map(str, resolution))
        what = f"{num_groups} groups divide by {factor}, which {sides} is no multiple of"
        faults["num_groups"] = what
    return faults


def _level_faults(resolution: int, channels: int, multipliers: Sequence[float]) -> dict[str, str]:
    if not multipliers:
        return {"multipliers": "got (); at least one level is required"}
    try:
        level_widths(channels, multipliers)
    except ValueError as error:
        return {"multipliers": str(error)}
    factor = 2 ** (len(multipliers) - 1)
    if resolution % factor:
        fault = (
            f"{len(multipliers)} levels halve the image {len(multipliers) - 1} times, but its "
            f"side {resolution} is not a multiple of {factor}"
        )
        return {"multipliers": fault}
    return {}


def _group_faults(channels: int, multipliers: Sequence[float], groups: int) -> dict[str, str]:
    widths = sorted({channels, *level_widths(channels, multipliers)})
    undivided = [width for width in widths if groups < 1 or width % groups]
    if undivided:
        return {"groups": f"{groups} does not divide the {undivided[0]} channels of a level"}
    return {}
