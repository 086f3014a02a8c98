"""What a prior over one grid of codes is told by coarser grids."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.nn import lowering
from gen_jax.nn.hierarchy import Residuals
from gen_jax.typing import Array, DTypeLike, Float

__all__ = ["CodesAbove", "grid_of"]


def grid_of(shape: Sequence[int]) -> tuple[int, int, int]:
    """Read a shape of tokens as height, width and tokens a position.

    (h, w) has one token a position, (h, w, c) has c, and (n,) is a row.

    Raises:
        ValueError: for other shapes.
    """
    shape = tuple(shape)
    if not 1 <= len(shape) <= 3 or min(shape) < 1:
        raise ValueError(f"shape: got {shape}; one to three sizes from 1 are required")
    if len(shape) == 1:
        return 1, shape[0], 1
    return shape[0], shape[1], shape[2] if len(shape) == 3 else 1


class CodesAbove(nn.Module):
    """Embed coarser grids of codes and bring them to a finer grid's size.

    Grids are int [batch, h, w], or [batch, h, w, levels]. Each is embedded and repeated; residual
    blocks then look at all of them (Razavi et al. 2019, section 3.2).

    Attributes:
        shape: of the finer grid; its height and width are multiples of the coarser ones'.
        num_categories: of each coarser grid.
        width: of the result.
        num_blocks: residual blocks.
        dtype: of the computation.
    """

    shape: Sequence[int]
    num_categories: Sequence[int]
    width: int
    num_blocks: int = 4
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, above: Sequence[Array]) -> Float[Array, "batch height width channels"]:
        height, width, _ = grid_of(self.shape)
        embedded: list[Array] = []
        for number, (codes, total) in enumerate(zip(above, self.num_categories, strict=True)):
            rows, columns, depth = grid_of(codes.shape[1:])
            if height % rows or width % columns:
                raise ValueError(
                    f"above: {height}x{width} is no multiple of a coarser grid's {rows}x{columns}"
                )
            # Codes of several levels each have their own table.
            index = (
                codes.reshape(-1, rows, columns, depth)
                + total * jnp.arange(depth)[None, None, None]
            )
            table = nn.Embed(depth * total, self.width, dtype=self.dtype, name=f"codes_{number}")
            x = jnp.sum(table(index), axis=-2)
            x = jnp.repeat(x, height // rows, axis=1)
            embedded.append(jnp.repeat(x, width // columns, axis=2))
        total_embedded = jnp.sum(jnp.stack(embedded), axis=0)
        h = lowering.Conv(self.width, (3, 3), dtype=self.dtype, name="conv")(total_embedded)
        return Residuals(self.num_blocks, self.width // 2, self.dtype, name="blocks")(h)
