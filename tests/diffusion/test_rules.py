"""A borrower is refused what the command line refuses, with the same words."""

import jax.numpy as jnp
import pytest

from gen_jax import diffusion
from gen_jax.diffusion import rules
from gen_jax.diffusion.options import sampler_faults
from gen_jax.errors import ConfigError
from gen_jax.launch.build.experiment import build
from gen_jax.launch.config.files import from_json, load_config, to_json
from gen_jax.models.diffusion import diffusion_model
from gen_jax.models.vae import vae_model
from gen_jax.ops import keys as rng, likelihoods
from gen_jax.ops.quantizers import vector
from gen_jax.train.optimizers import learning_rate
from tests.diffusion.oracles import gaussian_denoiser, keys_of
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
    "a bound of paired noise": (
        lambda: model(
            diffusion.linear_beta(),
            diffusion.epsilon,
            num_steps=1000,
            objective="vlb",
            pairing=True,
        ),
        "ddpm_mnist",
        ("diffusion.objective=vlb", "diffusion.pairing=True"),
    ),
    "noise paired under a continuous condition": (
        lambda: model(
            diffusion.rectified_flow(), diffusion.velocity, pairing=True, low_res_factor=2
        ),
        "flow_mnist",
        ("model.low_res_factor=2", "diffusion.pairing=True"),
    ),
    "weights of the smallest noise": (
        lambda: model(diffusion.rectified_flow(), diffusion.x_0, weighting=diffusion.simple()),
        "flow_mnist",
        ("diffusion.prediction=x_0", "diffusion.weighting=eps"),
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
    last = rules.last_beta(name, 1000, 0.02)
    assert schedule.last_beta == (None if last is None else pytest.approx(last))
    assert float(schedule.alpha(1.0)) == pytest.approx(schedule.end[0], rel=1e-6)
    assert float(schedule.sigma(1.0)) == pytest.approx(schedule.end[1], rel=1e-6)


@pytest.mark.parametrize("num_steps", [10, 20, 100, 1000, 4000])
def test_betas_go_with_the_number_of_steps(num_steps):
    """As much of the signal is left; with the betas of 1,000 steps alpha(1) of 100 is 0.60."""
    schedule = diffusion.linear_beta(num_steps)
    assert float(schedule.alpha(1.0)) < (0.01 if num_steps > 10 else 0.06)
    if num_steps < 100:  # a solver of so few steps errs by itself
        return
    x = diffusion.integrate(
        gaussian_denoiser(schedule, 0.7, 0.3), schedule, diffusion.ddim(),
        diffusion.uniform_times(num_steps, num_steps), rng.normal(keys_of(2000), (1,)),
        keys_of(2000, 1),
    )  # fmt: skip
    assert float(x.mean()) == pytest.approx(0.7, abs=0.03)
    assert float(x.std()) == pytest.approx(0.3, abs=0.02)


def test_a_table_that_leaves_signal_is_refused_where_an_experiment_begins(tmp_path):
    few = ["diffusion.num_steps=100"]
    assert load_config("configs/ddpm_mnist.py", few)["diffusion"]["beta_end"] is None
    papers = ["diffusion.beta_start=1e-4", "diffusion.beta_end=0.02"]
    load_config("configs/ddpm_mnist.py", papers)
    with pytest.raises(ConfigError, match=r"beta_end: got 0.02; with 100 steps alpha\(1\) is 0.6"):
        load_config("configs/ddpm_mnist.py", [*few, *papers])
    # A run that is there already loads, and says so.
    config = load_config("configs/ddpm_mnist.py:tiny", [])
    config["diffusion"] |= {"num_steps": 100, "beta_start": 1e-4, "beta_end": 0.02}
    (tmp_path / "config.json").write_text(to_json(config))
    with pytest.warns(UserWarning, match=r"schedule: alpha\(1\) is 0.6"):
        build(from_json(tmp_path / "config.json"))
