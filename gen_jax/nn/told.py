"""What a diffusion network is told beside x_t and t, and how it is left out."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.nn.embeddings import sinusoidal
from gen_jax.nn.text import Encoded
from gen_jax.ops import keys as rng
from gen_jax.protocols import Batch, Cond, Input, Params, Weights, label_input, take
from gen_jax.typing import Array, Float, Keys, PyTree, ScalarLike, Shape

__all__ = ["LEVEL_DIM", "Told"]

LEVEL_DIM = 64
"""Numbers that a network is told a level of noise by, beside its pooled vector."""
_SEQUENCES = ("context", "pooled")
# Folded into the keys of what is left out, and of a sample's: apart from what was drawn before.
_EMBEDDING, _LEVEL, _SOURCE = 0xE4BED, 0x1E7E1, 0x50B9


def _draws(share: float, keys: Keys) -> Array:
    """Draw which examples are left out, each by its own key."""
    return jax.vmap(lambda key: jax.random.bernoulli(key, share))(keys)


class Told(NamedTuple):
    """What a network is told: declared, read from batches and requests, left out, and handed over.

    Attributes:
        network: Linen module; see :func:`gen_jax.models.diffusion_model`.
        num_classes: of the label; None for none.
        context_dim: width of the vectors of a sequence; None for none.
        low_res_factor: by how much an image that is to be made larger is smaller; None for none.
        class_dropout: share of the training examples whose condition is left out.
        pooled_dim: width of one vector for all of a text; None for none.
        sizes: numbers that go with it, where a batch or a request says nothing else.
        source_scale: what the codes of an image beside x are multiplied by; None for no image.
        inpaints: whether an image with a hole, and where that is, are beside x.
        text: Linen module that encodes tokens, as :class:`gen_jax.nn.text.TextTransformer`; None
            for none. Its vectors are the network's context, with a mask, and its pooled vector.
        null_text: the tokens of no text, which stand where a text is left out.
        text_is_frozen: whether its weights are frozen ones, ``frozen["text"]``, and not trained
            with the network's.
        text_pooled: whether the network is handed the text's mask and pooled vector too.
        low_res_noise: whether noise of a level that the network is told is added to the image that
            is to be made larger (Ho et al. 2022, section 4.2).
        embedding_dim: width of the embedding of an image; None for none.
        embedding_dropout: share of the training examples whose embedding is left out.
        source_dropout: share of those whose image beside x is left out.
    """

    network: Any  # a Linen module
    num_classes: int | None = None
    context_dim: int | None = None
    low_res_factor: int | None = None
    class_dropout: float = 0.0
    pooled_dim: int | None = None
    sizes: tuple[float, ...] = ()
    source_scale: float | None = None
    inpaints: bool = False
    text: Any = None  # a Linen module
    null_text: tuple[int, ...] = ()
    text_is_frozen: bool = False
    text_pooled: bool = True
    low_res_noise: bool = False
    embedding_dim: int | None = None
    embedding_dropout: float = 0.0
    source_dropout: float = 0.0

    def read(self, cond: Batch | Cond, x: Array | None = None, keys: Keys | None = None) -> Cond:
        """Take what the network looks at; with keys, leave conditions out as in training."""
        told: dict[str, Array] = {}
        for name in self._needed():
            if name == "low_res" and x is not None and name not in cond:
                told[name] = self.smaller(x)
            else:
                told[name] = take(cond, name)
        for name in (*_SEQUENCES, "prompt"):
            if name in told and f"no_{name}" in cond:
                told[f"no_{name}"] = cond[f"no_{name}"]
        if self.pooled_dim is not None:
            num = len(told["pooled"])
            usual = jnp.broadcast_to(jnp.array(self.sizes, jnp.float32), (num, len(self.sizes)))
            told["sizes"] = cond.get("sizes", usual)
        return told if keys is None else self._left_out(told, keys)

    def _left_out(self, told: dict[str, Array], keys: Keys) -> Cond:
        """Leave conditions out, as training does."""
        if self.class_dropout:
            drop = _draws(self.class_dropout, keys)
            if "label" in told:
                told["label"] = jnp.where(drop, self.num_classes or 0, told["label"])
            if "prompt" in told:
                told["prompt"] = jnp.where(drop[:, None], self._null(), told["prompt"])
            for name in _SEQUENCES:
                if name in told:
                    along = jnp.reshape(drop, (-1, *(1 for _ in told[name].shape[1:])))
                    told[name] = jnp.where(along, 0.0, told[name])
        for name, share, salt in (
            ("embedding", self.embedding_dropout, _EMBEDDING),
            ("source", self.source_dropout, _SOURCE),
        ):
            if share:
                drop = _draws(share, rng.fold_in(keys, salt))
                along = jnp.reshape(drop, (-1, *(1 for _ in told[name].shape[1:])))
                told[name] = jnp.where(along, 0.0, told[name])
        return told

    def with_noise(self, told: Cond, keys: Keys, level: ScalarLike | None = None) -> Cond:
        """Add noise to the image that is to be made larger, where the network is told how much.

        The signal is multiplied by cos(pi s / 2) and the noise by sin(pi s / 2).

        Args:
            told: of :meth:`read`.
            keys: one for each example.
            level: s, from 0 for none to 1 for noise alone; None draws one for each example.
        """
        if not self.low_res_noise:
            return told
        image, own = told["low_res"], rng.fold_in(keys, _LEVEL)
        if level is None:
            s = jax.vmap(jax.random.uniform)(own)
        else:
            s = jnp.broadcast_to(jnp.asarray(level, jnp.float32), (len(image),))
        angle = jnp.reshape(jnp.pi / 2 * s, (-1, 1, 1, 1))
        noise = rng.normal(rng.fold_in(own, 1), image.shape[1:])
        noisy = jnp.where(angle > 0, jnp.cos(angle) * image + jnp.sin(angle) * noise, image)
        return {**told, "low_res": noisy, "low_res_level": s}

    def _needed(self) -> tuple[str, ...]:
        flags = {
            "label": self.num_classes is not None,
            "prompt": self.text is not None,
            "context": self.context_dim is not None,
            "pooled": self.pooled_dim is not None,
            "low_res": self.low_res_factor is not None,
            "source": self.source_scale is not None,
            "masked": self.inpaints,
            "mask": self.inpaints,
            "embedding": self.embedding_dim is not None,
        }
        return tuple(name for name, needed in flags.items() if needed)

    def _null(self) -> Array:
        return jnp.array([self.null_text], jnp.int32)

    def encode(self, weights: Weights, told: Cond) -> Cond:
        """Encode the text, once for all runs of the network."""
        if self.text is None:
            return told
        params = weights.frozen if self.text_is_frozen else weights.params["net"]
        encoded = self.text.apply({"params": params["text"]}, told["prompt"])
        assert isinstance(encoded, Encoded)
        return {
            **{name: x for name, x in told.items() if name != "prompt"},
            "context": encoded.vectors,
            "context_mask": encoded.mask,
            "pooled": encoded.pooled,
        }

    def init(self, key: Array, x: Array, told: Cond, frozen: PyTree) -> PyTree:
        """Initialize the network, and the text's where it is trained too."""
        text_params, text_key = {}, jax.random.fold_in(key, 1)
        if self.text is not None and not self.text_is_frozen:
            text_params = {"text": self.text.init(text_key, told["prompt"])["params"]}
        told = self.encode(Weights({"net": text_params}, {}, frozen), told)
        x = self.beside(x, told)
        arguments = (jnp.ones(len(x)), told.get("label"), None, told.get("context"))
        params = self.network.init(key, x, *arguments, **self.arguments(told))["params"]
        return params if self.text is None else {"network": params, **text_params}

    def smaller(self, x: Float[Array, "batch height width channels"]) -> Array:
        """Make images smaller by averages over squares."""
        assert self.low_res_factor is not None
        return nn.avg_pool(x, (self.low_res_factor,) * 2, (self.low_res_factor,) * 2)

    def beside(self, x: Array, told: Cond) -> Array:
        """Put images that the network is told beside x, as further channels."""
        parts = [x]
        if "low_res" in told:
            shape = (len(x), *x.shape[1:3], told["low_res"].shape[-1])
            parts.append(jax.image.resize(told["low_res"], shape, "bilinear"))
        if "source" in told:
            parts.append(told["source"] * (self.source_scale or 1.0))
        if self.inpaints:
            known = told["mask"][..., :1]
            parts += [1.0 - known, told["masked"]]
        return jnp.concatenate([part.astype(x.dtype) for part in parts], axis=-1)

    def arguments(self, told: Cond) -> dict[str, Any]:
        """Return what a network is handed by name beside its usual arguments."""
        given, parts = {}, []
        if self.text is not None and self.text_pooled:
            parts.append(told["pooled"])
            given["context_mask"] = told["context_mask"]
        elif self.pooled_dim is not None:
            parts.append(told["pooled"])
        if self.low_res_noise:
            parts.append(sinusoidal(told["low_res_level"], LEVEL_DIM))
        if parts:
            given["pooled"] = jnp.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
            given["sizes"] = told.get("sizes", jnp.zeros((len(parts[0]), 0)))
        if self.embedding_dim is not None:
            given["embedding"] = told["embedding"]
        return given

    def apply(self, params: Params, x: Array, t: Array, told: Cond, keys: Keys | None) -> Array:
        """Run the network on what :meth:`encode` gave."""
        net = params["net"] if self.text is None else params["net"]["network"]
        output = self.network.apply(
            {"params": net},
            self.beside(x, told),
            t,
            told.get("label"),
            keys,
            told.get("context"),
            **self.arguments(told),
        )
        assert isinstance(output, Array)  # a tuple only for modules that mutate collections
        return output

    def with_and_without(self, told: Cond) -> Cond:
        """Make the condition of a batch of both: first with it, then without."""
        return _stacked(told, self.without(told))

    def with_parts(self, told: Cond) -> Cond:
        """Make the condition of a batch of three: all, the image beside x alone, and neither."""
        image = self.without(told)
        neither = {**image, "source": jnp.zeros_like(told["source"])}
        return _stacked(told, image, neither)

    def without(self, told: Cond) -> Cond:
        """Make the condition in which label, text and vectors are left out."""
        without = dict(told)
        if "label" in told:
            without["label"] = jnp.full_like(told["label"], self.num_classes or 0)
        if "prompt" in told:
            null = jnp.broadcast_to(self._null(), told["prompt"].shape)
            without["prompt"] = told.get("no_prompt", null)
        for name in (*_SEQUENCES, "embedding"):
            if name in told:
                without[name] = told.get(f"no_{name}", jnp.zeros_like(told[name]))
        return without

    def inputs(self, shape: Shape, *, edits: bool) -> dict[str, Input]:
        """Declare what a model of x of a shape is told; ``edits``: it may begin from an image."""
        found = label_input(self.num_classes)
        if self.text is not None:
            length, vocabulary = len(self.null_text), self.text.num_tokens
            found["prompt"] = Input("tokens", (length,), vocabulary, help="text")
            found["no_prompt"] = found["prompt"]._replace(
                needed=False, help="text that guidance leads away from, by default none"
            )
        for name, width, what in (
            ("context", self.context_dim, "sequence of vectors"),
            ("pooled", self.pooled_dim, "one vector for all of the text"),
        ):
            if width is not None:
                any_length = (-1,) if name == "context" else ()
                found[name] = Input("vectors", (*any_length, width), help=what)
                found[f"no_{name}"] = found[name]._replace(
                    needed=False, help="what guidance leads away from, by default zeros"
                )
        if self.pooled_dim is not None:
            what = f"numbers that go with it, by default {' '.join(f'{x:g}' for x in self.sizes)}"
            found["sizes"] = Input("vectors", (len(self.sizes),), needed=False, help=what)
        if self.embedding_dim is not None:
            what = "embedding of an image"
            found["embedding"] = Input("vectors", (self.embedding_dim,), help=what)
        if self.low_res_factor is not None:
            factor = self.low_res_factor
            small = (shape[0] // factor, shape[1] // factor, shape[2])
            found["low_res"] = Input(
                "image", small, derive=self.smaller, help="image to make larger"
            )
        if self.source_scale is not None:
            found["source"] = Input("image", help="image to change")
        if self.inpaints:
            found["masked"] = Input("image", help="image with a hole to fill")
            found["mask"] = Input("mask", help="where its pixels are kept")
        if edits:
            found["image"] = Input("image", needed=False, help="image to begin from")
            if "prompt" in found:
                found["source_prompt"] = found["prompt"]._replace(
                    needed=False, help="text of what the image to begin from shows"
                )
            found["mask"] = Input("mask", needed=False, help="where its pixels are kept")
        return found


def _stacked(*conditions: Cond) -> Cond:
    """Put conditions one after another, as of one batch."""
    return {
        name: jnp.concatenate([told[name] for told in conditions])
        for name in conditions[0]
        if not name.startswith("no_")
    }
