"""What commands compile: programs that are worth it, and none anew for a number that changes."""

import logging
import re

import jax
import numpy as np
import pytest

from gen_jax.launch.cli.main import main
from gen_jax.launch.runs.restore import load_trained
from gen_jax.launch.sampling.draw import Draw, draw_samples

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_device")]


@pytest.fixture
def compiled(caplog):
    """Call a function; name the programs that it compiled, in order."""
    jax.clear_caches()

    def run(function, *arguments, **named):
        caplog.clear()
        jax.config.update("jax_log_compiles", True)  # of all threads, as the context is not
        try:
            with caplog.at_level(logging.WARNING):
                function(*arguments, **named)
        finally:
            jax.config.update("jax_log_compiles", False)
        found = (re.match(r"Compiling (?:jit\()?([\w<>]+)", x) for x in caplog.messages)
        return sorted(match[1] for match in found if match)

    return run


def test_few_programs_none_of_a_single_operation_none_for_another_number(compiled, tmp_path):
    work = tmp_path / "w"
    train = ["train", "--config", "configs/ddpm_digits.py:tiny", "--workdir", str(work)]
    # The first makes the key, the second the state.
    assert compiled(main, train) == ["<lambda>", "init", "train_step"]

    sample = ["sample", "--workdir", str(work), "--out", str(tmp_path / "x.png"), "--num=3"]
    assert compiled(main, sample) == ["draw", "make"]  # and the keys

    trained = load_trained(work)
    model, weights, mesh = trained.experiment.model, trained.weights, trained.mesh

    def draw(num, **options):
        return draw_samples(model, weights, Draw(0, options), mesh, num)

    assert compiled(draw, 9, steps=4) == ["draw", "make"]
    for num, options in ((9, {"steps": 9}), (10, {"steps": 5, "grid": "quadratic"}), (9, {})):
        assert compiled(draw, num, **options) == []
    assert len(compiled(draw, 9, grid="karras")) < 8  # which find times by bisection; draw is none
    # What is walked is the grid that was asked for, and a sample is its key's in each of them.
    few, more = draw(9, steps=3), draw(10, steps=3)
    np.testing.assert_array_equal(few, more[:9])
    options = {"steps": 3, "solver": "ddim"}
    keys = jax.random.split(jax.random.key(0), 9)
    exact = jax.jit(lambda w, k: model.sampler.draw(w, k, {}, **options))(weights, keys)
    ahead = model.sampler.ahead(options, ())
    assert ahead["num_steps"] == 3
    made = jax.jit(
        lambda w, k, times, num: model.sampler.draw(
            w, k, {}, solver="ddim", times=times, num_steps=num
        )
    )(weights, keys, ahead["times"], ahead["num_steps"])
    np.testing.assert_allclose(np.int32(made), np.int32(exact), atol=1)
