"""The arithmetic of network shapes, without JAX.

Networks ask it when they are constructed, and the config schema before anything is loaded, so that
both refuse the same things with the same words.
"""

from collections.abc import Mapping, Sequence

__all__ = ["autoencoder_faults", "transformer_faults", "unet_faults", "unet_resolutions"]


def transformer_faults(*, width: int, num_heads: int) -> Mapping[str, str]:
    """Find what could not work in a transformer: ``{argument: what is wrong}``."""
    if num_heads < 1 or width % num_heads:
        return {"num_heads": f"{num_heads} does not divide the width {width}"}
    return {}


def unet_resolutions(resolution: int, num_levels: int) -> tuple[int, ...]:
    """List the resolutions that a U-Net visits on its way down, largest first."""
    return tuple(resolution // 2**level for level in range(num_levels))


def unet_faults(
    *,
    resolution: int,
    channels: int,
    multipliers: Sequence[int],
    attention_resolutions: Sequence[int],
    num_heads: int,
    groups: int,
) -> Mapping[str, str]:
    """Find what could not work in a U-Net, or would silently do nothing.

    Args:
        resolution: height and width of the input.
        channels: channels of the first level.
        multipliers: channels of each level, as multiples.
        attention_resolutions: resolutions at which there is attention.
        num_heads: heads of each attention layer.
        groups: groups of each group normalisation.

    Returns:
        ``{argument: what is wrong and what would be accepted}``; empty if all is well.
    """
    if faults := _level_faults(resolution, multipliers):
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
    attending = {
        channels * multiplier
        for multiplier, side in zip(multipliers, visited, strict=True)
        if side in attention_resolutions
    } | {channels * multipliers[-1]}
    undivided = [width for width in sorted(attending) if num_heads < 1 or width % num_heads]
    if undivided:
        faults["num_heads"] = (
            f"{num_heads} does not divide the {undivided[0]} channels of an attention layer"
        )
    if channels < 4 or channels % 2:
        faults["channels"] = (
            f"an even number from 4 is needed (the time embedding is sine-cosine pairs), got "
            f"{channels}"
        )
    return faults


def autoencoder_faults(
    *, resolution: int, channels: int, multipliers: Sequence[int], groups: int
) -> Mapping[str, str]:
    """Find what could not work in a convolutional encoder and its decoder.

    Args:
        resolution: height and width of the image.
        channels: channels of the first level.
        multipliers: channels of each level, as multiples; each level but the last halves the image.
        groups: groups of each group normalisation.

    Returns:
        ``{argument: what is wrong and what would be accepted}``; empty if all is well.
    """
    if faults := _level_faults(resolution, multipliers):
        return faults
    return _group_faults(channels, multipliers, groups)


def _level_faults(resolution: int, multipliers: Sequence[int]) -> dict[str, str]:
    if not multipliers:
        return {"multipliers": "at least one level is needed, got none"}
    if min(multipliers) < 1:
        return {"multipliers": f"whole numbers from 1 are needed, got {tuple(multipliers)}"}
    factor = 2 ** (len(multipliers) - 1)
    if resolution % factor:
        fault = (
            f"{len(multipliers)} levels halve the image {len(multipliers) - 1} times, but its "
            f"side {resolution} is not a multiple of {factor}"
        )
        return {"multipliers": fault}
    return {}


def _group_faults(channels: int, multipliers: Sequence[int], groups: int) -> dict[str, str]:
    widths = sorted({channels, *(channels * multiplier for multiplier in multipliers)})
    undivided = [width for width in widths if groups < 1 or width % groups]
    if undivided:
        return {"groups": f"{groups} does not divide the {undivided[0]} channels of a level"}
    return {}
