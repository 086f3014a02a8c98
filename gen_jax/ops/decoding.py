"""Sampling one token after another."""

import math
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from gen_jax.ops import keys as rng
from gen_jax.ops.checks import checked
from gen_jax.protocols import Option
from gen_jax.typing import Array, Float, Int, Keys, Scalar

__all__ = ["decode", "token_options", "warp_logits"]

State = TypeVar("State")


@checked
def warp_logits(
    logits: Float[Array, "batch categories"],
    temperature: Scalar | float = 1.0,
    top_k: Int[Array, ""] | int = 0,
    top_p: Scalar | float = 1.0,
) -> Float[Array, "batch categories"]:
    """Sharpen a categorical distribution, and leave out its unlikely categories.

    In this order: divide by the temperature; keep the ``top_k`` likeliest categories; of these keep
    the smallest set whose probability reaches ``top_p`` (nucleus sampling, Holtzman et al. 2020).
    The likeliest always stays. All arguments may be traced.

    Args:
        logits: unnormalized log-probabilities.
        temperature: above 0; 1 changes nothing.
        top_k: from 1; 0 keeps all.
        top_p: in (0, 1]; 1 keeps all.

    Returns:
        Logits, -inf where a category is left out.
    """
    logits = logits / temperature
    if isinstance(top_k, int) and isinstance(top_p, int | float) and (top_k, top_p) == (0, 1):
        return logits  # without sorting
    categories = logits.shape[-1]
    order = jnp.argsort(-logits, axis=-1)
    ranked = jnp.take_along_axis(logits, order, axis=-1)
    rank = jnp.arange(categories)[None]
    kept = rank < jnp.where(jnp.asarray(top_k) > 0, top_k, categories)
    probability = jax.nn.softmax(jnp.where(kept, ranked, -jnp.inf), axis=-1)
    before = jnp.cumsum(probability, axis=-1) - probability
    # A float32 sum may reach 1 before the last category.
    kept &= (before < top_p) | (rank == 0) | (jnp.asarray(top_p) >= 1)
    ranked = jnp.where(kept, ranked, -jnp.inf)
    return jnp.take_along_axis(ranked, jnp.argsort(order, axis=-1), axis=-1)


def token_options(*, guided: bool, guidance: float | None = None) -> dict[str, Option]:
    """List the options of a sampler that draws tokens.

    Args:
        guided: whether there is classifier-free guidance.
        guidance: its scale where nothing is said; None for none.
    """
    options = {
        "temperature": Option(
            float, 1.0, "a number above 0", lambda x: 0 < x < math.inf, False,
            "below 1 for likelier samples, above for more different ones",
        ),
        "top_k": Option(
            int, 0, "a whole number from 0", lambda k: k >= 0, False,
            "draw each token from the k likeliest; 0 for all",
        ),
        "top_p": Option(
            float, 1.0, "a number above 0, to 1", lambda p: 0 < p <= 1, False,
            "draw each token from the fewest that have this probability together",
        ),
    }  # fmt: skip
    if guided:
        options["guidance"] = Option(
            float, guidance, "a number from 0", lambda w: 0 <= w < math.inf, False,
            "classifier-free: 1 for the condition as it is, above for more of it, at twice the "
            "work",
        )  # fmt: skip
    return options


@checked
def decode(
    step: Callable[[State, Int[Array, "batch"], Array], tuple[Array, State]],
    state: State,
    length: int,
    keys: Keys,
    *,
    temperature: Scalar | float = 1.0,
    top_k: Int[Array, ""] | int = 0,
    top_p: Scalar | float = 1.0,
    parts: int = 1,
    grow: Callable[[State, int], State] = lambda state, length: state,
) -> Int[Array, "batch length"]:
    """Sample a sequence from left to right, as one ``lax.scan``, or as one for each of its parts.

    Args:
        step: ``(state, token [batch], index) -> (logits [batch, categories], state)``, where
            ``token`` stands at ``index - 1`` and the logits are of the token at ``index``. At index
            0 the token is 0 and means nothing.
        state: what the step carries, for example a cache of keys and values.
        length: tokens to sample.
        keys: one for each sequence; token i is drawn with the key folded with i.
        temperature: see :func:`warp_logits`.
        top_k: see :func:`warp_logits`.
        top_p: see :func:`warp_logits`.
        parts: loops of equal length, one after another.
        grow: ``(state, length) -> state``: gives a state room for so many tokens, before each part
            for those until its end; early tokens then need not look at a whole sequence.
    """

    def advance(carry: tuple[State, Array], index: Array) -> tuple[tuple[State, Array], Array]:
        state, token = carry
        logits, state = step(state, token, index)
        warped = warp_logits(logits, temperature, top_k, top_p)
        token = jax.vmap(jax.random.categorical)(rng.fold_in(keys, index), warped)
        token = token.astype(jnp.int32)
        return (state, token), token

    carry, tokens = (state, jnp.zeros(len(keys), jnp.int32)), []
    ends = [length * (part + 1) // parts for part in range(parts)]
    for first, end in zip([0, *ends], ends, strict=False):
        if parts > 1:
            carry = (grow(carry[0], end), carry[1])
        carry, made = jax.lax.scan(advance, carry, jnp.arange(first, end))
        tokens.append(made)
    return jnp.concatenate(tokens).T
