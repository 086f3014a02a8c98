import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax import diffusion as process
from gen_jax.codecs import rgb, with_codec
from gen_jax.models.classifier import classifier_model
from gen_jax.nn.classifier import Classifier
from gen_jax.ops import keys as rng
from gen_jax.protocols import LOCAL, Context, Weights

pytestmark = pytest.mark.slow

KEYS = rng.per_example(jax.random.key(0), 0, 32)
NETWORK = Classifier(resolution=8, num_classes=2, channels=8, multipliers=(1,), groups=4)


@pytest.fixture(scope="module")
def trained():
    """A judge of bright and dark images, at any noise level."""
    model = classifier_model(NETWORK, 2, process.rectified_flow())
    label = jnp.arange(32) % 2
    x = (2.0 * label - 1)[:, None, None, None] * jnp.ones((32, 8, 8, 1))
    batch = {"x": x, "label": label}
    params, stats = jax.jit(model.init)(jax.random.key(0), batch, {})
    adam = optax.adam(1e-2)
    opt = adam.init(params)

    @jax.jit
    def step(params, opt, keys):
        def loss(params):
            context = Context(jnp.int32(0), LOCAL, train=True)
            return model.losses["classify"].fn(Weights(params, stats), batch, keys, context)

        (_, aux), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt = adam.update(grads, opt)
        return optax.apply_updates(params, updates), opt, aux.metrics["accuracy"]

    for number in range(60):
        params, opt, accuracy = step(params, opt, rng.fold_in(KEYS, number))
    return model, params, batch, float(accuracy)


def test_it_learns_and_is_less_sure_of_noise(trained):
    model, params, batch, accuracy = trained
    assert accuracy > 0.8
    t = jnp.full(32, 0.99)
    predict = jax.jit(lambda x, **cond: model.predict(Weights(params), x, cond))
    clean, noisy = predict(batch["x"]), predict(rng.normal(KEYS, (8, 8, 1)), t=t)
    np.testing.assert_allclose(jnp.exp(clean.log_probs).sum(1), 1.0, rtol=1e-5)
    assert (jnp.argmax(clean.log_probs, 1) == batch["label"]).mean() > 0.95
    assert (
        jnp.abs(clean.log_probs[:, 0] - clean.log_probs[:, 1]).mean()
        > jnp.abs(noisy.log_probs[:, 0] - noisy.log_probs[:, 1]).mean()
    )


def test_outside_of_training_the_loss_is_of_clean_images(trained):
    model, params, batch, _ = trained
    context = Context(jnp.int32(0), LOCAL, train=False)
    loss = jax.jit(
        lambda keys: model.losses["classify"].fn(Weights(params), batch, keys, context)[0]
    )
    losses = [loss(rng.fold_in(KEYS, i)) for i in (1, 2)]
    assert float(losses[0]) == float(losses[1])
    nats = -model.predict(Weights(params), batch["x"], {}).log_probs
    truth = jnp.take_along_axis(nats, batch["label"][:, None], axis=1).mean()
    assert float(losses[0]) == pytest.approx(float(truth), rel=1e-5)


def test_images_and_noisy_x_are_told_apart_by_their_type(trained):
    model, params, _, _ = trained
    wrapped = with_codec(model, rgb())
    image = jnp.full((2, 8, 8, 1), 255, jnp.uint8)
    a = wrapped.predict(Weights(params), image, {})
    b = wrapped.predict(Weights(params), jnp.ones((2, 8, 8, 1)), {})
    np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-6)
    assert wrapped.sampler is None
