"""Networks of unCLIP, which are told an image by one vector, or predict that vector."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.nn.embeddings import sinusoidal
from gen_jax.nn.encoder import encoder_layers
from gen_jax.typing import Array, Bool, DTypeLike, Float, Keys

__all__ = ["EmbeddingTransformer", "WithEmbedding"]

_INIT = nn.initializers.normal(0.02)
_FREQUENCIES = 256  # of the embedding of time


class WithEmbedding(nn.Module):
    """A diffusion network that is also told an image's embedding (Ramesh et al. 2022, section 2.1).

    The embedding is added to that of time, and becomes further vectors of the sequence that the
    network attends to.

    Attributes:
        network: :class:`gen_jax.nn.dit.DiT` or :class:`gen_jax.nn.unet.UNet`, with ``context_dim``
            and ``pooled_dim``.
        context_dim: width of the sequence's vectors.
        num_vectors: further ones.
    """

    network: Any  # a Linen module
    context_dim: int
    num_vectors: int = 4

    @nn.compact
    def __call__(
        self,
        x: Array,
        t: Float[Array, "batch"],
        label: Array | None = None,
        keys: Keys | None = None,
        context: Float[Array, "batch length context_dim"] | None = None,
        *,
        embedding: Float[Array, "batch dim"],
        pooled: Float[Array, "batch pooled_dim"] | None = None,
        sizes: Float[Array, "batch numbers"] | None = None,
        context_mask: Bool[Array, "batch length"] | None = None,
    ) -> Array:
        """Run the network; arguments are its own, but for ``embedding``."""
        size = (len(embedding), self.num_vectors, self.context_dim)
        vectors = nn.Dense(size[1] * size[2], kernel_init=_INIT, name="vectors")(embedding)
        vectors = jnp.reshape(vectors, size)
        if context is not None:
            vectors = jnp.concatenate([context, vectors], axis=1)
        if context_mask is not None:
            seen = jnp.ones(size[:2], bool)
            context_mask = jnp.concatenate([context_mask, seen], axis=1)
        pooled = embedding if pooled is None else jnp.concatenate([pooled, embedding], axis=-1)
        return self.network(
            x,
            t,
            label,
            keys,
            vectors,
            pooled=pooled,
            sizes=jnp.zeros((len(pooled), 0)) if sizes is None else sizes,
            context_mask=context_mask,
        )


class EmbeddingTransformer(nn.Module):
    """The prior of unCLIP: a causal transformer that predicts an image's embedding.

    It reads the text's vectors, the text's own embedding, the time, and the noisy embedding, and
    predicts at a last, learned vector (Ramesh et al. 2022, section 2.2).

    Attributes:
        dim: of the embedding.
        width: of the transformer; even.
        depth: layers.
        num_heads: of each attention; divides the width.
        dtype: compute type; the output is float32.
    """

    dim: int
    width: int = 128
    depth: int = 4
    num_heads: int = 4
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch dim"],
        t: Float[Array, "batch"],
        label: None = None,
        keys: Keys | None = None,
        context: Float[Array, "batch length context_dim"] | None = None,
        *,
        pooled: Float[Array, "batch pooled_dim"],
        sizes: Array | None = None,
        context_mask: Bool[Array, "batch length"] | None = None,
    ) -> Float[Array, "batch dim"]:
        """Predict the embedding without noise.

        Args:
            x: noisy embeddings.
            t: times in [0, 1].
            label: none.
            keys: not used; there is no dropout.
            context: a text's vectors.
            pooled: its embedding.
            sizes: not used.
            context_mask: which vectors are looked at.
        """
        del label, keys, sizes
        if context is None:
            raise ValueError("context: missing; a text's vectors are required")
        waves = sinusoidal(t, _FREQUENCIES)
        time = nn.Dense(self.width, name="time_1")(
            nn.silu(nn.Dense(self.width, name="time_0")(waves))
        )
        last = self.param("last", _INIT, (1, self.width))
        one = [
            nn.Dense(self.width, name="text")(pooled),
            time,
            nn.Dense(self.width, name="noisy")(x),
            jnp.broadcast_to(last, (len(x), self.width)),
        ]
        h = jnp.concatenate(
            [nn.Dense(self.width, name="context")(context), jnp.stack(one, axis=1)], axis=1
        )
        places = self.param("positions", _INIT, (h.shape[1], self.width))
        h = (h + places[None]).astype(self.dtype)
        if context_mask is not None:
            seen = jnp.ones((len(x), len(one)), bool)
            context_mask = jnp.concatenate([context_mask, seen], axis=1)
        layers = encoder_layers(self.depth, num_heads=self.num_heads, causal=True, dtype=self.dtype)
        h = layers(h, context_mask)[:, -1]
        h = nn.LayerNorm(use_fast_variance=False, dtype=jnp.float32, name="norm_out")(h)
        return nn.Dense(self.dim, name="out")(h)
