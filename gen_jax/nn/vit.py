"""The vision transformer (Dosovitskiy et al. 2021), as a tower: an image becomes one vector."""

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.nn.encoder import encoder_layers
from gen_jax.typing import Array, DTypeLike, Float

__all__ = ["ViT"]

_INIT = nn.initializers.normal(0.02)


class ViT(nn.Module):
    """Patches as tokens of a transformer, pooled to one vector.

    By default it pools by the mean. With ``class_token``, ``quick_gelu`` and ``norm_in`` it is
    CLIP's image tower (Radford et al. 2021, section 2.4).

    Attributes:
        resolution: height and width of an image.
        patch: side of a patch; divides the resolution.
        width: of the vectors.
        depth: layers.
        num_heads: of each attention; divides the width.
        class_token: pool by a further token, and not by the mean.
        norm_in: normalize before the first layer too.
        activation: ``"gelu"`` or ``"quick_gelu"``.
        epsilon: of normalizations.
        dtype: compute type but of the first layer; the vector is float32.

    Raises:
        ValueError: at construction, if something does not divide.
    """

    resolution: int
    patch: int = 4
    width: int = 64
    depth: int = 3
    num_heads: int = 4
    class_token: bool = False
    norm_in: bool = False
    activation: str = "gelu"
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        for name, whole in (("patch", self.resolution), ("num_heads", self.width)):
            if whole % getattr(self, name):
                raise ValueError(
                    f"{name}: got {getattr(self, name)}; a divisor of {whole} is required"
                )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch features"]:
        """Encode images in the range of x.

        Raises:
            ValueError: if they have another size.
        """
        if x.shape[1:3] != (self.resolution, self.resolution):
            raise ValueError(
                f"x: got {x.shape}; images of {self.resolution} x {self.resolution} are required"
            )
        side = self.resolution // self.patch
        x = jnp.reshape(x, (len(x), side, self.patch, side, self.patch, x.shape[-1]))
        tokens = jnp.reshape(jnp.swapaxes(x, 2, 3), (len(x), side * side, -1))
        dense = nn.Dense(self.width, kernel_init=_INIT, name="patches")
        h = dense(tokens)
        if self.class_token:
            first = self.param("class_token", _INIT, (self.width,))
            h = jnp.concatenate([jnp.broadcast_to(first, (len(h), 1, self.width)), h], axis=1)
        h = h + self.param("positions", _INIT, h.shape[1:])[None]
        if self.norm_in:
            h = self._norm("norm_in")(h)
        layers = encoder_layers(
            self.depth,
            num_heads=self.num_heads,
            activation=self.activation,
            epsilon=self.epsilon,
            dtype=self.dtype,
        )
        h = layers(h.astype(self.dtype), None)
        pooled = h[:, 0] if self.class_token else jnp.mean(self._norm("norm_out")(h), axis=1)
        return self._norm("norm_out")(pooled) if self.class_token else pooled

    def _norm(self, name: str) -> nn.LayerNorm:
        return nn.LayerNorm(self.epsilon, use_fast_variance=False, dtype=jnp.float32, name=name)
