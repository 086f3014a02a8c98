"""Invertible maps with their log-determinants, and how to put them together.

A bijector is a NamedTuple of pure functions. ``init(key, x, told)`` makes parameters of a first
batch; ``forward(params, x, told)`` gives y and log |det dy/dx| for each example, [batch], and
``inverse(params, y, told)`` gives x and log |det dx/dy|. ``told`` is what networks are told beside
x, by name: a ``label``, an image. x and y have a batch's axis; after a :func:`split` y is a tuple.

Example:
    >>> step = chain(actnorm(), permutation([1, 0]), coupling(network, rational_quadratic()))
    >>> flow = repeated(lambda index: step, 8)
    >>> params = flow.init(key, x, {})
    >>> z, log_det = flow.forward(params, x, {})
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.ops.checks import checked
from gen_jax.typing import Array, Float, Int, PyTree

__all__ = [
    "Autoregression",
    "Bijector",
    "Conditioner",
    "Rotation",
    "Told",
    "Transform",
    "actnorm",
    "affine",
    "autoregressive",
    "chain",
    "coupling",
    "fixed",
    "inverted",
    "linear",
    "logistic_mixture",
    "logit",
    "permutation",
    "rational_quadratic",
    "repeated",
    "rotations",
    "split",
    "squeeze",
    "tokens",
]

Told = Mapping[str, Any]
"""What networks are told beside x. Keys of the house: ``label``, ``guidance``, ``jacobi``."""

Mapped = tuple[PyTree, Float[Array, "batch"]]


class Bijector(NamedTuple):
    """An invertible map; see this module's docstring."""

    init: Callable[[Array, PyTree, Told], PyTree]
    forward: Callable[[PyTree, PyTree, Told], Mapped]
    inverse: Callable[[PyTree, PyTree, Told], Mapped]


class Conditioner(NamedTuple):
    """A network that a coupling's parameters come from.

    ``init(key, kept, num, told)`` and ``apply(params, kept, num, told)``, which gives an array like
    ``kept`` with ``num`` numbers along the last axis.
    """

    init: Callable[[Array, Array, int, Told], PyTree]
    apply: Callable[[PyTree, Array, int, Told], Array]


class Transform(NamedTuple):
    """A monotone function of one number, of ``num`` parameters: zeros leave it about as it is.

    ``forward(params [..., num], x [...])`` gives y and log dy/dx, both [...]; ``inverse`` x and log
    dx/dy.
    """

    num: int
    forward: Callable[[Array, Array], tuple[Array, Array]]
    inverse: Callable[[Array, Array], tuple[Array, Array]]


def _summed(x: Array) -> Float[Array, "batch"]:
    """Add over all axes but the batch's."""
    return jnp.sum(x.astype(jnp.float32), axis=tuple(range(1, x.ndim)))


def _nothing(key: Array, x: PyTree, told: Told) -> PyTree:
    """Make no parameters."""
    del key, x, told
    return {}


def _zeros(x: PyTree) -> Float[Array, "batch"]:
    return jnp.zeros(len(jax.tree.leaves(x)[0]))


def fixed(there: Callable[[Array], Array], back: Callable[[Array], Array]) -> Bijector:
    """Make a map without parameters that moves numbers and changes none."""
    return Bijector(
        _nothing,
        lambda params, x, told: (there(x), _zeros(x)),
        lambda params, y, told: (back(y), _zeros(y)),
    )


@checked
def permutation(order: Sequence[int] | Int[Array, "size"], axis: int = -1) -> Bijector:
    """Reorder an axis: y_i = x_order[i]. The order is a constant, not a parameter."""
    order = jnp.asarray(order if isinstance(order, jax.Array) else list(order))
    return fixed(
        lambda x: jnp.take(x, order, axis=axis), lambda y: jnp.take(y, jnp.argsort(order), axis)
    )


def squeeze(factor: int = 2) -> Bijector:
    """Bring each square of ``factor`` by ``factor`` pixels into the channels (Dinh et al. 2017)."""

    def down(x: Float[Array, "batch height width channels"]) -> Array:
        n, h, w, c = x.shape
        x = x.reshape(n, h // factor, factor, w // factor, factor, c)
        return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, h // factor, w // factor, -1)

    def up(y: Float[Array, "batch height width channels"]) -> Array:
        n, h, w, c = y.shape
        y = y.reshape(n, h, w, factor, factor, c // factor**2)
        return y.transpose(0, 1, 3, 2, 4, 5).reshape(n, h * factor, w * factor, -1)

    return fixed(down, up)


def tokens(height: int, width: int) -> Bijector:
    """Make one axis of height and width."""
    return fixed(
        lambda x: x.reshape(len(x), height * width, -1),
        lambda y: y.reshape(len(y), height, width, -1),
    )


def actnorm(eps: float = 1e-6) -> Bijector:
    """Scale and shift the last axis so that the first batch has mean 0 and deviation 1.

    The statistics are of the whole batch that ``init`` sees (Kingma & Dhariwal 2018, section 3.1).
    """

    def init(key: Array, x: Array, told: Told) -> PyTree:
        del key, told
        axes = tuple(range(x.ndim - 1))
        x = x.astype(jnp.float32)
        mean, deviation = jnp.mean(x, axes), jnp.std(x, axes)
        return {"shift": -mean, "log_scale": -jnp.log(deviation + eps)}

    def spread(params: PyTree, x: Array) -> tuple[Array, Array, Array]:
        like = (1,) * (x.ndim - 1) + (-1,)
        scale, shift = (jnp.reshape(params[name], like) for name in ("log_scale", "shift"))
        area = math.prod(x.shape[1:-1])
        return scale, shift, jnp.full(len(x), area * jnp.sum(params["log_scale"]))

    def forward(params: PyTree, x: Array, told: Told) -> Mapped:
        log_scale, shift, log_det = spread(params, x)
        return (x + shift) * jnp.exp(log_scale), log_det

    def inverse(params: PyTree, y: Array, told: Told) -> Mapped:
        log_scale, shift, log_det = spread(params, y)
        return y * jnp.exp(-log_scale) - shift, -log_det

    return Bijector(init, forward, inverse)


class Rotation(NamedTuple):
    """A rotation P L U: an order of rows, and what :func:`linear` starts from.

    All fields may have a first axis, of several rotations.
    """

    order: Any  # y = (L U x)[order]
    lower: Any  # below the diagonal; on it ones
    upper: Any  # above the diagonal
    sign: Any  # of U's diagonal
    log_diagonal: Any


def rotations(num: int, size: int, seed: int = 0) -> Rotation:
    """Draw random rotations, decomposed: a NumPy array [num, ...] for each field."""
    generator = np.random.default_rng(seed)
    made = [_rotation(generator, size) for _ in range(num)]
    return Rotation(*(np.stack(part) for part in zip(*made, strict=True)))


def _rotation(generator: np.random.Generator, size: int) -> Rotation:
    from scipy.linalg import lu

    matrix, _ = np.linalg.qr(generator.normal(size=(size, size)))
    rows, lower, upper = lu(matrix, p_indices=True)  # matrix = (L U)[rows]
    diagonal = np.diag(upper)
    float32 = np.float32
    return Rotation(
        rows.astype(np.int32),
        np.tril(lower, -1).astype(float32),
        np.triu(upper, 1).astype(float32),
        np.sign(diagonal).astype(float32),
        np.log(np.abs(diagonal)).astype(float32),
    )


def linear(start: Rotation) -> Bijector:
    """Multiply the last axis by a matrix P L U (Kingma & Dhariwal 2018, Eq. 10).

    P and the signs of U's diagonal are constants, so that the matrix always has an inverse and its
    log-determinant is a sum. Over an image it is the invertible 1x1 convolution.

    Args:
        start: of :func:`rotations`, one of them.
    """
    order, sign = jnp.asarray(start.order), jnp.asarray(start.sign)
    size = start.lower.shape[-1]

    def init(key: Array, x: Array, told: Told) -> PyTree:
        del key, told
        if x.shape[-1] != size:
            raise ValueError(f"x: the last axis is {x.shape[-1]}; {size} is required")
        names = ("lower", "upper", "log_diagonal")
        return {name: jnp.asarray(getattr(start, name)) for name in names}

    def factors(params: PyTree) -> tuple[Array, Array]:
        lower = jnp.tril(params["lower"], -1) + jnp.eye(size)
        diagonal = sign * jnp.exp(params["log_diagonal"])
        return lower, jnp.triu(params["upper"], 1) + jnp.diag(diagonal)

    def log_det(params: PyTree, x: Array) -> Array:
        return jnp.full(len(x), math.prod(x.shape[1:-1]) * jnp.sum(params["log_diagonal"]))

    def forward(params: PyTree, x: Array, told: Told) -> Mapped:
        lower, upper = factors(params)
        matrix = jnp.matmul(lower, upper, precision="highest")[order]
        y = jnp.einsum("ij,...j->...i", matrix, x, precision="highest")
        return y, log_det(params, x)

    def inverse(params: PyTree, y: Array, told: Told) -> Mapped:
        lower, upper = factors(params)
        solve = jax.scipy.linalg.solve_triangular
        matrix = solve(upper, solve(lower, jnp.eye(size), lower=True, unit_diagonal=True))
        y = jnp.take(y, jnp.argsort(order), axis=-1)
        x = jnp.einsum("ij,...j->...i", matrix, y, precision="highest")
        return x, -log_det(params, y)

    return Bijector(init, forward, inverse)


def logit(margin: float = 0.05) -> Bijector:
    """Stretch [-1, 1] over all numbers, by the log-odds of margin + (1 - 2 margin) (x + 1) / 2.

    RealNVP models images so (Dinh et al. 2017, section 4.1).
    """
    if not 0 < margin < 0.5:
        raise ValueError(f"margin: got {margin}; a number above 0, below 0.5 is required")
    span = (1 - 2 * margin) / 2

    def log_slope(y: Array) -> Array:
        # Of the logit at p: 1 / (p (1 - p)).
        return math.log(span) - jax.nn.log_sigmoid(y) - jax.nn.log_sigmoid(-y)

    def forward(params: PyTree, x: Array, told: Told) -> Mapped:
        p = margin + span * (x + 1)
        y = jnp.log(p) - jnp.log1p(-p)
        return y, _summed(log_slope(y))

    def inverse(params: PyTree, y: Array, told: Told) -> Mapped:
        return (jax.nn.sigmoid(y) - margin) / span - 1, -_summed(log_slope(y))

    return Bijector(_nothing, forward, inverse)


def affine(bound: float | None = None) -> Transform:
    """Scale and shift: y = (x + t) s.

    Args:
        bound: s = 2 sigmoid(raw), in (0, 2), for None (Kolesnikov et al. 2024, Jet); else
            s = exp(bound tanh(raw / bound)), as RealNVP's.
    """

    def log_scale(params: Array) -> Array:
        raw = params[..., 0]
        if bound is None:
            return math.log(2) + jax.nn.log_sigmoid(raw)
        return bound * jnp.tanh(raw / bound)

    def forward(params: Array, x: Array) -> tuple[Array, Array]:
        scale = log_scale(params)
        return (x + params[..., 1]) * jnp.exp(scale), scale

    def inverse(params: Array, y: Array) -> tuple[Array, Array]:
        scale = log_scale(params)
        return y * jnp.exp(-scale) - params[..., 1], -scale

    return Transform(2, forward, inverse)


def rational_quadratic(bins: int = 8, bound: float = 3.0) -> Transform:
    """Interpolate monotone points by ratios of quadratics (Durkan et al. 2019, Eq. 4 to 8).

    Outside of [-bound, bound] it is the identity, and with it the slope at both ends is 1.

    Args:
        bins: between points.
        bound: of the interval.
    """
    least = 1e-3  # of a bin's share and of a slope

    def points(params: Array) -> tuple[Array, Array, Array]:
        """Return the places of points along x and y [..., bins + 1], and the slopes there."""

        def placed(raw: Array) -> Array:
            shares = least + (1 - least * bins) * jax.nn.softmax(raw, axis=-1)
            ends = jnp.cumsum(shares, axis=-1)[..., :-1]
            ends = jnp.concatenate(
                [jnp.zeros_like(raw[..., :1]), ends, jnp.ones_like(raw[..., :1])], axis=-1
            )
            return bound * (2 * ends - 1)

        raw = params[..., 2 * bins :]
        # softplus of this is 1 - least: zeros are the identity.
        slopes = least + jax.nn.softplus(raw + math.log(math.expm1(1 - least)))
        ones = jnp.ones_like(slopes[..., :1])
        slopes = jnp.concatenate([ones, slopes, ones], axis=-1)
        return placed(params[..., :bins]), placed(params[..., bins : 2 * bins]), slopes

    def found(params: Array, value: Array, *, along_y: bool) -> tuple[Array, ...]:
        xs, ys, slopes = points(params)
        inner = (ys if along_y else xs)[..., 1:-1]
        index = jnp.sum(value[..., None] >= inner, axis=-1)[..., None]

        def at(array: Array, more: int = 0) -> Array:
            return jnp.take_along_axis(array, index + more, axis=-1)[..., 0]

        width, height = at(xs, 1) - at(xs), at(ys, 1) - at(ys)
        return at(xs), at(ys), width, height, at(slopes), at(slopes, 1)

    def log_slope(share: Array, steep: Array, low: Array, high: Array) -> Array:
        below = steep + (low + high - 2 * steep) * share * (1 - share)
        above = high * share**2 + 2 * steep * share * (1 - share) + low * (1 - share) ** 2
        return 2 * jnp.log(steep) + jnp.log(above) - 2 * jnp.log(below)

    def forward(params: Array, x: Array) -> tuple[Array, Array]:
        inside = jnp.abs(x) < bound
        held = jnp.clip(x, -bound, bound)
        x0, y0, width, height, low, high = found(params, held, along_y=False)
        steep, share = height / width, (held - x0) / width
        below = steep + (low + high - 2 * steep) * share * (1 - share)
        y = y0 + height * (steep * share**2 + low * share * (1 - share)) / below
        slope = log_slope(share, steep, low, high)
        return jnp.where(inside, y, x), jnp.where(inside, slope, 0.0)

    def inverse(params: Array, y: Array) -> tuple[Array, Array]:
        inside = jnp.abs(y) < bound
        held = jnp.clip(y, -bound, bound)
        x0, y0, width, height, low, high = found(params, held, along_y=True)
        steep, rise = height / width, held - y0
        bend = low + high - 2 * steep
        a = height * (steep - low) + rise * bend
        b = height * low - rise * bend
        c = -steep * rise
        # The stable root of a share^2 + b share + c.
        share = 2 * c / (-b - jnp.sqrt(jnp.maximum(b**2 - 4 * a * c, 0.0)))
        slope = log_slope(share, steep, low, high)
        return jnp.where(inside, x0 + share * width, y), jnp.where(inside, -slope, 0.0)

    return Transform(3 * bins - 1, forward, inverse)


def logistic_mixture(components: int = 8, reach: float = 60.0) -> Transform:
    """Take the logit of a mixture's distribution function, scaled and shifted (Ho et al. 2019).

    y = logit(sum_i pi_i sigmoid((x - m_i) / s_i)) exp(a) + b (Eq. 12 to 15); the inverse is found
    by bisection.

    Args:
        components: of the mixture; their means start between -1 and 1.
        reach: the inverse is looked for in [-reach, reach].
    """

    def parts(params: Array) -> tuple[Array, Array, Array, Array, Array]:
        k = components
        spread = jnp.linspace(-1, 1, k) if k > 1 else jnp.zeros(1)
        means = params[..., k : 2 * k] + jnp.reshape(spread, (1,) * (params.ndim - 1) + (k,))
        log_scales = jnp.maximum(params[..., 2 * k : 3 * k], -7.0)
        log_shares = jax.nn.log_softmax(params[..., :k], axis=-1)
        return log_shares, means, log_scales, jnp.tanh(params[..., 3 * k]), params[..., 3 * k + 1]

    def logit_of(params: Array, x: Array) -> tuple[Array, Array]:
        log_shares, means, log_scales, _, _ = parts(params)
        scaled = (x[..., None] - means) * jnp.exp(-log_scales)
        below, above = jax.nn.log_sigmoid(scaled), jax.nn.log_sigmoid(-scaled)
        cdf = jax.nn.logsumexp(log_shares + below, axis=-1)
        rest = jax.nn.logsumexp(log_shares + above, axis=-1)
        pdf = jax.nn.logsumexp(log_shares + below + above - log_scales, axis=-1)
        return cdf - rest, pdf - cdf - rest

    def forward(params: Array, x: Array) -> tuple[Array, Array]:
        *_, a, b = parts(params)
        y, slope = logit_of(params, x)
        return y * jnp.exp(a) + b, slope + a

    def inverse(params: Array, y: Array) -> tuple[Array, Array]:
        *_, a, b = parts(params)
        wanted = (y - b) * jnp.exp(-a)

        def half(ends: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
            low, high = ends
            middle = 0.5 * (low + high)
            under = logit_of(params, middle)[0] < wanted
            return (jnp.where(under, middle, low), jnp.where(under, high, middle)), None

        ends = (jnp.full_like(y, -reach), jnp.full_like(y, reach))
        (low, high), _ = jax.lax.scan(half, ends, None, length=40)
        x = 0.5 * (low + high)
        return x, -(logit_of(params, x)[1] + a)

    return Transform(3 * components + 2, forward, inverse)


def coupling(
    conditioner: Conditioner,
    transform: Transform,
    mask: np.ndarray | Array | None = None,
    *,
    axis: int = -1,
) -> Bijector:
    """Change one half of the numbers, each by a function that the other half decides.

    Dinh et al. 2017, Eq. 4 and 5. The first half along an axis is kept, and the others are changed;
    with a mask its ones are kept, and the network sees zeros in the others' places.

    Args:
        conditioner: the network. Along a first axis of tokens it is given the kept half and makes
            the parameters of the changed one, token by token.
        transform: of each number.
        mask: of the shape of one example, or one that broadcasts to it.
        axis: along which the halves lie; the last one, or 1 of tokens. An odd axis keeps fewer.
    """
    num = transform.num

    def halves(x: Array) -> tuple[Array, Array]:
        where = x.shape[axis] // 2
        if mask is None and axis != -1 and x.shape[axis] % 2:
            raise ValueError(f"x: axis {axis} is {x.shape[axis]}; an even one is required")
        if mask is not None:
            return x * jnp.asarray(mask, x.dtype)[None], x
        kept, changed = jnp.split(x, [where], axis=axis)
        return kept, changed

    def raw(params: PyTree, kept: Array, changed: Array, told: Told) -> Array:
        made = conditioner.apply(params, kept, changed.shape[-1] * num, told)
        return made.astype(jnp.float32).reshape(*changed.shape, num)

    def joined(kept: Array, changed: Array, old: Array, slope: Array) -> Mapped:
        if mask is None:
            return jnp.concatenate([kept, changed], axis=axis), _summed(slope)
        held = jnp.asarray(mask, jnp.float32)[None] > 0
        return jnp.where(held, old, changed), _summed(jnp.where(held, 0.0, slope))

    def init(key: Array, x: Array, told: Told) -> PyTree:
        kept, changed = halves(x)
        return conditioner.init(key, kept, changed.shape[-1] * num, told)

    def forward(params: PyTree, x: Array, told: Told) -> Mapped:
        kept, changed = halves(x)
        y, slope = transform.forward(raw(params, kept, changed, told), changed)
        return joined(kept, y, x, slope)

    def inverse(params: PyTree, y: Array, told: Told) -> Mapped:
        kept, changed = halves(y)
        x, slope = transform.inverse(raw(params, kept, changed, told), changed)
        return joined(kept, x, y, slope)

    return Bijector(init, forward, inverse)


class Autoregression(NamedTuple):
    """A causal network over tokens [batch, length, channels].

    ``init(key, x, told)``; ``apply(params, x, told)`` gives [batch, length, 2 channels], of each
    token from those before it. ``begin(params, batch, told)`` and ``step(params, state, token,
    index, told)``, which is given the token before, do the same one token after another.
    """

    init: Callable[[Array, Array, Told], PyTree]
    apply: Callable[[PyTree, Array, Told], Array]
    begin: Callable[[PyTree, int, Told], PyTree]
    step: Callable[[PyTree, PyTree, Array, Array, Told], tuple[Array, PyTree]]


def autoregressive(network: Autoregression) -> Bijector:
    """Scale and shift each token by what the tokens before it say (Zhai et al. 2024, Eq. 4 to 6).

    z_i = (x_i - mu(x_<i)) exp(-alpha(x_<i)). The inverse goes token by token; with ``jacobi`` among
    what is told, it is so many rounds of all tokens at once, exact for as many as there are tokens.
    """

    def parts(raw: Array) -> tuple[Array, Array]:
        log_scale, shift = jnp.split(raw.astype(jnp.float32), 2, axis=-1)
        return log_scale, shift

    def forward(params: PyTree, x: Array, told: Told) -> Mapped:
        log_scale, shift = parts(network.apply(params, x, told))
        return (x - shift) * jnp.exp(-log_scale), -_summed(log_scale)

    def at_once(params: PyTree, z: Array, told: Told, rounds: int) -> Mapped:
        def better(x: Array, _: None) -> tuple[Array, Array]:
            log_scale, shift = parts(network.apply(params, x, told))
            return z * jnp.exp(log_scale) + shift, _summed(log_scale)

        x, log_dets = jax.lax.scan(better, jnp.zeros_like(z), None, length=rounds)
        return x, log_dets[-1]

    def inverse(params: PyTree, y: Array, told: Told) -> Mapped:
        if told.get("jacobi"):
            return at_once(params, y, told, told["jacobi"])

        def one(carry: PyTree, given: tuple[Array, Array]) -> tuple[PyTree, Array]:
            state, token, log_det = carry
            index, z = given
            raw, state = network.step(params, state, token, index, told)
            log_scale, shift = parts(raw)
            token = z * jnp.exp(log_scale) + shift
            return (state, token, log_det + _summed(log_scale)), token

        start = (network.begin(params, len(y), told), jnp.zeros_like(y[:, 0]), _zeros(y))
        given = (jnp.arange(y.shape[1]), jnp.swapaxes(y, 0, 1))
        (_, _, log_det), made = jax.lax.scan(one, start, given)
        return jnp.swapaxes(made, 0, 1), log_det

    return Bijector(network.init, forward, inverse)


def inverted(bijector: Bijector) -> Bijector:
    """Swap the directions of a map whose parameters do not depend on a first batch."""
    return Bijector(bijector.init, bijector.inverse, bijector.forward)


def chain(*bijectors: Bijector) -> Bijector:
    """Apply one after another; each is initialized by what the others make of the first batch."""

    def init(key: Array, x: PyTree, told: Told) -> PyTree:
        made = []
        for number, bijector in enumerate(bijectors):
            made.append(bijector.init(jax.random.fold_in(key, number), x, told))
            x, _ = bijector.forward(made[-1], x, told)
        return tuple(made)

    def forward(params: PyTree, x: PyTree, told: Told) -> Mapped:
        total = _zeros(x)
        for own, bijector in zip(params, bijectors, strict=True):
            x, log_det = bijector.forward(own, x, told)
            total = total + log_det
        return x, total

    def inverse(params: PyTree, y: PyTree, told: Told) -> Mapped:
        total = _zeros(y)
        for own, bijector in zip(reversed(params), reversed(bijectors), strict=True):
            y, log_det = bijector.inverse(own, y, told)
            total = total + log_det
        return y, total

    return Bijector(init, forward, inverse)


def repeated(step: Callable[[Int[Array, ""]], Bijector], num: int) -> Bijector:
    """Apply ``num`` maps of one structure, each with parameters of its own, as one ``lax.scan``.

    A deep flow then compiles as fast as a shallow one.

    Args:
        step: from the number of a map to the map; constants that differ, as permutations do, are
            rows of a table at that number.
        num: of maps, from 1.
    """
    if num < 1:
        raise ValueError(f"num: got {num}; at least 1 is required")
    numbers = jnp.arange(num)

    def init(key: Array, x: PyTree, told: Told) -> PyTree:
        def one(x: PyTree, number: Array) -> tuple[PyTree, PyTree]:
            bijector = step(number)
            params = bijector.init(jax.random.fold_in(key, number), x, told)
            return bijector.forward(params, x, told)[0], params

        return jax.lax.scan(one, x, numbers)[1]

    def through(params: PyTree, x: PyTree, told: Told, *, back: bool) -> Mapped:
        def one(carry: Mapped, given: tuple[Array, PyTree]) -> tuple[Mapped, None]:
            (x, total), (number, own) = carry, given
            bijector = step(number)
            way = bijector.inverse if back else bijector.forward
            x, log_det = way(own, x, told)
            return (x, total + log_det), None

        start = (x, _zeros(x))
        return jax.lax.scan(one, start, (numbers, params), reverse=back)[0]

    return Bijector(
        init,
        lambda params, x, told: through(params, x, told, back=False),
        lambda params, y, told: through(params, y, told, back=True),
    )


def split(rest: Bijector) -> Bijector:
    """Let the second half of the last axis go, and map the first on: y = (rest(first), second).

    Dinh et al. 2017, section 3.6. What is let go is standard normal when a coupling before it made
    it so, which is Glow's learned prior.
    """

    def halves(x: Array) -> tuple[Array, Array]:
        first, second = jnp.split(x, [x.shape[-1] // 2], axis=-1)
        return first, second

    def init(key: Array, x: Array, told: Told) -> PyTree:
        return rest.init(key, halves(x)[0], told)

    def forward(params: PyTree, x: Array, told: Told) -> Mapped:
        first, second = halves(x)
        y, log_det = rest.forward(params, first, told)
        return (y, second), log_det

    def inverse(params: PyTree, y: PyTree, told: Told) -> Mapped:
        first, log_det = rest.inverse(params, y[0], told)
        return jnp.concatenate([first, y[1]], axis=-1), log_det

    return Bijector(init, forward, inverse)
