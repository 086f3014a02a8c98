import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.ops import keys as rng

KEY = jax.random.key(3)


def data(keys):
    return np.asarray(jax.random.key_data(keys))


def test_a_key_depends_on_its_global_index_alone():
    whole = data(rng.per_example(KEY, 0, 8))
    np.testing.assert_array_equal(whole[3:6], data(rng.per_example(KEY, 3, 3)))
    assert len(np.unique(whole, axis=0)) == 8


def test_draws_do_not_depend_on_the_batch_they_are_in():
    keys = rng.per_example(KEY, 0, 8)
    whole = rng.normal(keys, (2, 3))
    np.testing.assert_array_equal(whole[5:], rng.normal(keys[5:], (2, 3)))


def test_normal_is_standard_normal():
    x = rng.normal(rng.per_example(KEY, 0, 2000), (10,))
    assert abs(float(x.mean())) < 4 / np.sqrt(x.size)
    assert abs(float(x.std()) - 1) < 4 / np.sqrt(2 * x.size)


def test_split_and_fold_in_give_unrelated_keys():
    keys = rng.per_example(KEY, 0, 4)
    # From 3 on: JAX's split gives the keys folded with 0, 1, 2.
    derived = [keys, *rng.split(keys, 3), rng.fold_in(keys, 3), rng.fold_in(keys, 2**30)]
    assert len(np.unique(np.concatenate([data(k) for k in derived]), axis=0)) == 24
    assert jnp.issubdtype(derived[1].dtype, jax.dtypes.prng_key)
