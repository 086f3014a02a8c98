"""Adam's moments in 16 bits, as DALL-E was trained (Ramesh et al. 2021, Appendix D.2).

The mean is kept in 1-6-9 format and the mean square in 0-6-10: bits of sign, exponent and
significand. bfloat16 has 7 bits of significand, in which a mean square that changes by a thousandth
a step would not change at all. Nor would 10 bits be enough for that if one rounded to nearest, so
rounding is stochastic: up or down with odds that make it right on average.
"""

import jax
import jax.numpy as jnp
import optax

from gen_jax.typing import Array, Float, Key, PyTree, UInt16

__all__ = ["in_16_bits", "pack", "unpack"]

# The largest exponent: values reach 2^4. The smallest is 62 lower; below it lies only zero. DALL-E
# clips the mean square at 5, and with clipped gradients nothing here comes near the end either.
_TOP = 3
_SPAN = 62
_FLOAT32_BIAS = 127


def pack(
    x: Float[Array, "*dims"], key: Key[Array, ""] | None = None, *, signed: bool
) -> UInt16[Array, "*dims"]:
    """Round to 1-6-9 (signed) or 0-6-10 (not) bits of sign, exponent and significand.

    Args:
        x: float32. Sizes beyond the format's largest, just under 16, become that; those below
            2^-59 become zero or 2^-59; without a sign, negative numbers become zero.
        key: for stochastic rounding; None rounds to nearest, ties away from zero.
        signed: which of the two formats.

    Returns:
        uint16 of the same shape.
    """
    width = 9 if signed else 10
    dropped = 23 - width
    size = jax.lax.bitcast_convert_type(jnp.abs(x.astype(jnp.float32)), jnp.uint32)
    if key is None:
        size += 1 << (dropped - 1)
    else:
        size += jax.random.bits(key, x.shape, jnp.uint32) >> (32 - dropped)
    # What is left of the significand, with the exponent counted from the format's smallest. The
    # smallest has the code 1 << width, so that the code 0 is free for zero.
    code = (size >> dropped).astype(jnp.int32)
    code -= (_FLOAT32_BIAS + _TOP - _SPAN - 1) << width
    largest = ((_SPAN + 2) << width) - 1
    code = jnp.where(code < (1 << width), 0, jnp.minimum(code, largest))
    if signed:
        code |= jnp.signbit(x).astype(jnp.int32) << 15
    else:
        code = jnp.where(x < 0, 0, code)
    return code.astype(jnp.uint16)


def unpack(code: UInt16[Array, "*dims"], *, signed: bool) -> Float[Array, "*dims"]:
    """Read what :func:`pack` wrote, as float32."""
    width = 9 if signed else 10
    bits = code.astype(jnp.uint32)
    size = bits & 0x7FFF if signed else bits
    raised = (size + ((_FLOAT32_BIAS + _TOP - _SPAN - 1) << width)) << (23 - width)
    value = jnp.where(size == 0, 0.0, jax.lax.bitcast_convert_type(raised, jnp.float32))
    return jnp.where(bits >> 15 == 1, -value, value) if signed else value


def in_16_bits(adam: optax.GradientTransformation) -> optax.GradientTransformation:
    """Keep the moments of ``optax.scale_by_adam`` in 16 bits; its arithmetic stays float32.

    The key of the rounding comes from the step number, so that a resumed run has the same bits.
    """

    def packed(state: optax.ScaleByAdamState) -> optax.ScaleByAdamState:
        key = jax.random.fold_in(jax.random.key(0x16B17), state.count)

        def tree(x: PyTree, number: int, *, signed: bool) -> PyTree:
            leaves, structure = jax.tree.flatten(x)
            keys = [jax.random.fold_in(key, 2 * i + number) for i in range(len(leaves))]
            codes = [pack(leaf, k, signed=signed) for leaf, k in zip(leaves, keys, strict=True)]
            return structure.unflatten(codes)

        return state._replace(mu=tree(state.mu, 0, signed=True), nu=tree(state.nu, 1, signed=False))

    def unpacked(state: optax.ScaleByAdamState) -> optax.ScaleByAdamState:
        return state._replace(
            mu=jax.tree.map(lambda x: unpack(x, signed=True), state.mu),
            nu=jax.tree.map(lambda x: unpack(x, signed=False), state.nu),
        )

    def init(params: PyTree) -> PyTree:
        return packed(adam.init(params))

    def update(grads: PyTree, state: PyTree, params: PyTree | None = None) -> tuple[PyTree, PyTree]:
        updates, new = adam.update(grads, unpacked(state), params)
        return updates, packed(new)

    return optax.GradientTransformation(init, update)
