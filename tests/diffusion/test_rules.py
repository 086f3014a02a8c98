"""A borrower is refused what the command line refuses, with the same words."""

import jax.numpy as jnp
import pytest

from gen_jax import diffusion
from gen_jax.diffusion import rules
from gen_jax.diffusion.options import sampler_faults
from gen_jax.errors import ConfigError
from gen_jax.launch.config.files import load_config
from gen_jax.models.diffusion import diffusion_model
from gen_jax.models.vae import vae_model
from gen_jax.ops import likelihoods
from gen_jax.ops.quantizers import vector
from gen_jax.train.optimizers import learning_rate
from tests.models.small import Small


def model(schedule, prediction, **options):
    return diffusion_model(Small(), schedule, prediction, shape=(8, 8, 1), **options)


CASES = {
    "eps on a flow": (
        lambda: model(diffusion.rectified_flow(), diffusion.epsilon),
        "flow_mnist",
        ("diffusion.prediction=eps",),
    ),
    "cosine and eps without clipping": (
        lambda: model(diffusion.cosine(1000), diffusion.epsilon, num_steps=1000, clip=False),
        "latent_mnist",
        ("diffusion.prediction=eps",),
    ),
    "a hybrid loss without variances": (
        lambda: model(
            diffusion.linear_beta(), diffusion.epsilon, num_steps=1000, objective="hybrid"
        ),
        "ddpm_mnist",
        ("diffusion.objective=hybrid",),
    ),
    "nothing to leave out": (
        lambda: model(
            diffusion.linear_beta(), diffusion.epsilon, num_steps=1000, class_dropout=0.1
        ),
        "ddpm_mnist",
        ("model.class_dropout=0.1",),
    ),
    "importance samples and beta": (
        lambda: vae_model(
            Small(), Small(), likelihoods.bernoulli(), (2,), num_importance=5, beta=2.0
        ),
        "vae_mnist",
        ("model.num_importance=5", "model.beta=2"),
    ),
    "cosine codes in levels": (
        lambda: vector(16, 4, cosine=True, levels=2),
        "vqvae_cifar10",
        ("model.cosine=True", "model.levels=2"),
    ),
    "a warm-up longer than training": (
        lambda: learning_rate(1.0, warmup_steps=5000, decay="cosine", total_steps=4000),
        "latent_mnist",
        ("optimizer.warmup_steps=5000",),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_factory_and_schema_say_the_same(case):
    make, config, overrides = CASES[case]
    with pytest.raises(ValueError, match=": ") as borrowed:
        make()
    with pytest.raises(ConfigError) as asked:
        load_config(f"configs/{config}.py", list(overrides))
    _, _, words = str(borrowed.value).partition(": ")
    assert words in str(asked.value)


def test_long_tables_without_clipping_are_taken():
    """Little of the signal is left at t = 1, but no step of sampling is long."""
    model(diffusion.linear_beta(2000), diffusion.epsilon, num_steps=2000, clip=False)
    load_config("configs/ddpm_mnist.py", ["diffusion.num_steps=2000", "diffusion.clip=False"])


def test_a_mask_needs_a_solver_without_memory():
    x = jnp.zeros((1, 2, 2, 1))
    with pytest.raises(ValueError, match="solver: one of a single step is required with a mask"):
        diffusion.inpainting(diffusion.dpmpp_2m(), x, x)
    diffusion.inpainting(diffusion.ddim(), x, x)
    process = diffusion.make_process(diffusion.rectified_flow(), diffusion.velocity)
    faults = sampler_faults(process, {"solver": "dpmpp_2m"}, {"image", "mask"})
    assert faults == {"mask": "goes with solvers of one step, not with dpmpp_2m"}


def test_settings_of_a_churn_that_is_not_there_are_refused():
    with pytest.raises(ValueError, match="churn_from: has a meaning only with churn"):
        diffusion.make_solver("heun", 10, churn_from=0.1)
    diffusion.make_solver("heun", 10, churn=1.0, churn_from=0.1)


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("linear", diffusion.linear_beta(1000)),
        ("cosine", diffusion.cosine(1000)),
        ("flow", diffusion.rectified_flow()),
        ("edm", diffusion.variance_exploding()),
    ],
)
def test_the_rules_arithmetic_is_that_of_the_schedules(name, schedule):
    assert schedule.end is not None
    last = rules.last_beta(name, 0.02)
    assert schedule.last_beta == (None if last is None else pytest.approx(last))
    assert float(schedule.alpha(1.0)) == pytest.approx(schedule.end[0], rel=1e-6)
    assert float(schedule.sigma(1.0)) == pytest.approx(schedule.end[1], rel=1e-6)
