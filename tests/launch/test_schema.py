"""What a config may not say is refused at once, all of it, by name."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from gen_jax.errors import CheckpointError, ConfigError
from gen_jax.launch.cli.main import main
from gen_jax.launch.config.files import from_json, load_config, to_json
from gen_jax.launch.config.schema import (
    defaults_of,
    families,
    fields_of,
    find_faults,
    frozen_changes,
)

ROOT = Path(__file__).parent.parent.parent
DIGITS = str(ROOT / "configs" / "ddpm_digits.py")

# One override, and what the message must contain beside the field's own name.
BAD = [
    ("train.stpes=5", "did you mean 'train.steps'?"),
    ("optimiser.learning_rate=1", "did you mean 'optimizer.learning_rate'?"),
    ("optimizer.lr=1", "did you mean 'optimizer.learning_rate'?"),
    ("train.epochs=1", "did you mean 'train.steps'?"),
    ("model.seed=1", "did you mean 'seed'?"),
    ("train.steps=abc", "'abc'; a whole number from 1 is required"),
    ("train.steps=5.5", "'5.5'; a whole number"),
    ("train.steps=True", "'True'; a whole number"),
    ("train.steps=0", "0; a whole number from 1"),
    ("train.steps=-3", "-3; a whole number from 1"),
    ("train.steps=None", "a whole number from 1"),
    ("train.log_every=0", "0; a whole number from 1"),
    ("train.save_every=0", "0; a whole number from 1"),
    ("train.sample_every=-1", "-1; a whole number from 0"),
    ("train.keep=0", "0; a whole number from 1"),
    ("train.max_bad_steps=0", "0; a whole number from 1"),
    ("train.microbatches=0", "0; a whole number from 1"),
    ("train.microbatches=7", "7 does not divide data.batch_size 64"),
    ("train.ema_decay=1.0", "1.0; a number from 0 to below 1"),
    ("train.ema_decay=-0.1", "-0.1; a number from 0"),
    ("seed=-1", "-1; a whole number from 0 to 4294967295"),
    ("seed=4294967296", "4294967296; a whole number"),
    ("optimizer.learning_rate=nan", "nan; a number above 0"),
    ("optimizer.learning_rate=inf", "inf; a number above 0"),
    ("optimizer.learning_rate=0", "0.0; a number above 0"),
    ("optimizer.learning_rate=fast", "'fast'; a number above 0"),
    ("optimizer.eps=0", "0.0; a number above 0"),
    ("optimizer.b1=1", "1.0; a number from 0 to below 1"),
    ("optimizer.b2=-1", "-1.0; a number from 0 to below 1"),
    ("optimizer.weight_decay=-0.1", "-0.1; a number from 0"),
    ("optimizer.clip_norm=-1", "-1.0; a number from 0"),
    ("optimizer.warmup_steps=-1", "-1; a whole number from 0"),
    ("optimizer.warmup_steps=100000", "100000; less than the 750 steps"),
    ("optimizer.decay=linear", "'linear'; 'constant' or 'cosine'"),
    ("data.source=minst", "'minst'; digits, mnist"),
    ("data.source=npz:", "'npz:'; digits, mnist"),
    ("data.shape=(8,8)", "(8, 8); a tuple of 3 whole numbers"),
    ("data.shape=(8,0,1)", "(8, 0, 1); a tuple of 3 whole numbers"),
    ("data.shape=(8,8,2)", "2 channels; 1, 3 or 4"),
    ("data.shape=(8,12,1)", "got 8x12; square images are required"),
    ("data.shape=(9,9,1)", "its side 9 is not a multiple of 2"),
    ("data.batch_size=0", "0; a whole number from 1"),
    ("data.flip=maybe", "'maybe'; True or False"),
    ("data.crop=-1", "-1; a whole number from 0"),
    ("data.crop=8", "8; less than the image's 8 pixels"),
    ("data.num_workers=-1", "-1; a whole number from 0 to 256"),
    ("model.channels=0", "0; a whole number from 4"),
    ("model.channels=33", "8 does not divide the 33 channels"),
    ("model.multipliers=()", "at least one level"),
    ("model.multipliers=(1,-2)", "(1, -2); a tuple"),
    ("model.multipliers=(1,2,2,2,2)", "5 levels halve the image 4 times"),
    ("model.num_res_blocks=0", "0; a whole number from 1"),
    ("model.attention_resolutions=(16,)", "16 never occurs: the network visits 8, 4"),
    ("model.num_heads=5", "5 does not divide the 64 channels of an attention layer"),
    ("model.groups=5", "5 does not divide the 32 channels"),
    ("model.dropout=1", "1.0; a number from 0 to below 1"),
    ("model.num_classes=-1", "-1; a whole number from 0"),
    ("model.dtype=float61", "'float61'; 'float32' or 'bfloat16'"),
    ("diffusion.schedule=sigmoid", "'sigmoid'; 'linear' or 'scaled_linear' or 'cosine' or 'flow'"),
    ("diffusion.num_steps=0", "0; a whole number from 1"),
    ("diffusion.beta_start=0", "0.0; a number above 0 to below 1"),
    ("diffusion.beta_end=1", "1.0; a number above 0 to below 1"),
    ("diffusion.beta_start=0.5", "0.5; at most beta_end 0.02"),
    ("diffusion.beta_end=0.5", "0.5; with 1000 steps nothing of the signal is left"),
    ("diffusion.prediction=noise", "'noise'; 'eps' or 'x_0' or 'v'"),
    ("diffusion.clip=2", "True or False"),
    ("mesh.data=0", "0; -1 or a whole number from 1"),
    (
        "mesh.data=7",
        "data 7 x fsdp 1 x 1 microbatches = 7 parts, which do not divide data.batch_size 64",
    ),
    ("mesh.data=-2", "-2; a whole number from -1"),
    ("mesh.fsdp=-1", "data -1 x fsdp -1 x tensor 1; it may stand for one"),
    ("mesh.tensor=0", "0; -1 or a whole number"),
    ("mesh.fsdp=3", "fsdp 3 x 1 microbatches = 3 parts"),
    ("mesh.expert=2", "unknown field"),
    ("mesh.min_size=0", "from 1"),
    ("mesh.overrides=('x',)", "a pattern; an axis or -"),
    ("mesh.overrides=('x=-,expert',)", "a pattern; an axis or -"),
    ("mesh.overrides=('(=fsdp',)", "no regular expression"),
    ("train.engine='xmap'", "'jit' or 'pmap' or 'shard_map'"),
    ("family=difusion", "'difusion'; one of adversarial_autoencoder, autoencoder, autoregressive,"),
]

BAD_VAE = [
    ("model.network=resnet", "'resnet'; 'mlp' or 'conv'"),
    ("model.widths=(0,)", "(0,); a tuple"),
    ("model.activation=gelu", "'gelu'; 'tanh' or 'relu' or 'silu'"),
    ("model.latent=grid", "'grid'; with model.network 'mlp' a code is a 'vector'"),
    ("model.latent_dim=0", "0; a whole number from 1"),
    ("model.likelihood=poisson", "'poisson'; 'bernoulli'"),
    ("model.binarize=maybe", "'maybe'; 'stochastic'"),
    ("model.sigma=free", "'free'; 'fixed'"),
    ("model.beta=-1", "-1.0; a number from 0"),
    ("model.num_importance=0", "0; a whole number from 1"),
    ("data.holdout=-1", "-1; a whole number from 0"),
]
BAD_PAIRS = [
    ("vae_mnist", ("model.num_importance=5", "model.beta=2"), "model.beta: got 2.0; 1 is required"),
    ("vae_mnist", ("model.num_importance=5", "model.kl_warmup=2"), "model.kl_warmup: got 2; 0 is"),
    (
        "vae_mnist",
        ("model.num_importance=5", "model.likelihood=gaussian"),
        "model.sigma: got 'optimal'; 'fixed' or 'learned'",
    ),
    ("klae_mnist", ("model.num_classes=10",), "model.num_classes: 0 is required for a 'grid'"),
    ("klae_mnist", ("model.groups=5",), "5 does not divide the 16 channels"),
    ("klae_mnist", ("model.multipliers=(1,1,1,1)",), "4 levels halve the image 3 times"),
    (
        "vqvae_cifar10",
        ("model.factors=(3,)",),
        "model.factors: got (3,); powers of two from 2 are required",
    ),
    (
        "vqvae_cifar10",
        ("model.factors=(4,2,2,2)",),
        "model.factors: got (4, 2, 2, 2); one to three are required",
    ),
    (
        "vqvae_cifar10",
        ("model.factors=(8,8)",),
        "model.factors: (8, 8) divide by 64, which 32x32 is no multiple of",
    ),
    ("vqvae_cifar10", ("model.quantizer=lookup",), "'lookup'; 'vector' or 'finite_scalar'"),
    (
        "vqvae_cifar10",
        ("model.quantizer=finite_scalar", "model.scalar_levels=()"),
        "model.scalar_levels: got (); some are required with finite_scalar",
    ),
    (
        "vqvae_cifar10",
        ("model.cosine=True", "model.levels=2"),
        "model.levels: got 2; with cosine 1 is required",
    ),
    ("dvae_cifar10", ("model.num_groups=8",), "8 groups divide by 128, which 32x32 is no"),
    ("dvae_cifar10", ("model.hidden=6",), "model.hidden: got 6; a multiple of 4 is required"),
    ("dvae_cifar10", ("model.temperature_end=0",), "0.0; a number above 0"),
    (
        "flow_mnist",
        ("diffusion.prediction=eps",),
        "diffusion.prediction: got 'eps'; at t = 1 of this schedule",
    ),
    (
        "flow_mnist",
        ("diffusion.objective=vlb",),
        "diffusion.objective: got 'vlb'; a discrete schedule",
    ),
    ("flow_mnist", ("diffusion.importance=True",), "diffusion.importance: got True; a discrete"),
    ("flow_mnist", ("model.num_classes=0",), "model.class_dropout: got 0.1; 0 is required without"),
    ("flow_mnist", ("model.head_dim=7",), "model.head_dim: 7 does not divide the 64 channels"),
    (
        "flow_mnist",
        ("model.low_res_factor=3",),
        "model.low_res_factor: got 3; 0, or from 2 a divisor",
    ),
    ("flow_mnist", ("model.network=dit", "model.patch=3"), "model.patch: 3 does not divide"),
    (
        "flow_mnist",
        ("model.network=dit", "model.context_dim=4"),
        "model.context_dim: got 4; 0 is required for dit",
    ),
    (
        "flow_mnist",
        ("model.context_dim=4", "model.attention_resolutions=()", "model.middle_attention=False"),
        "model.context_dim: got 4; without attention nothing looks at a sequence",
    ),
    ("ddpm_mnist", ("diffusion.objective=hybrid",), "learned_variance is required"),
    ("ddpm_mnist", ("diffusion.learned_variance=True",), "objective 'simple' never trains it"),
    (
        "ddpm_mnist",
        ("diffusion.objective=vlb", "diffusion.times=logit_normal"),
        "diffusion.times: must be uniform with objective 'vlb'",
    ),
    (
        "ddpm_mnist",
        ("diffusion.objective=vlb", "diffusion.weighting=p2"),
        "diffusion.weighting: must be none: the objective 'vlb'",
    ),
    (
        "ddpm_mnist",
        ("diffusion.antithetic=True", "diffusion.times=log_normal_noise"),
        "diffusion.antithetic: got True; such times have no mirror",
    ),
    (
        "ddpm_mnist",
        ("diffusion.importance=True", "diffusion.antithetic=True"),
        "diffusion.antithetic: got True; with importance the losses choose",
    ),
    ("flow_mnist", ("diffusion.times_mean=-0.5",), "diffusion.times_mean: got -0.5; it goes with"),
    (
        "ddpm_mnist",
        ("diffusion.times_std=1.0",),
        "diffusion.times_std: got 1.0; times 'uniform' has none",
    ),
    ("ddpm_mnist", ("diffusion.weighting_gamma=1.0",), "diffusion.weighting_gamma: got 1.0; of"),
    ("ddpm_mnist", ("diffusion.schedule=edm",), "'log_normal_noise' is required for 'edm'"),
    ("latent_cifar10", ("diffusion.clip=True",), "diffusion.clip: got True; with a stage1"),
    ("classifier_mnist", ("model.groups=5",), "5 does not divide the 16 channels"),
    ("classifier_mnist", ("diffusion.beta_start=0.5",), "diffusion.beta_start: got 0.5; at most"),
    (
        "klae_cifar10",
        ("model.latent=vector", "model.projected=4"),
        "model.projected: got 4; 0 is required",
    ),
    ("prior_cifar10", ("model.num_heads=32",), "heads of 4"),
    (
        "prior_cifar10",
        ("model.num_classes=0",),
        "model.class_dropout: got 0.1; 0 is required without",
    ),
    ("prior_mnist", ("model.kernel=4",), "model.kernel: got 4; an odd number from 3"),
    ("prior_mnist", ("model.depth=1",), "model.depth: got 1; at least 2 are required"),
    (
        "prior_mnist",
        ("data.source=codes:x", "stage1="),
        "data.source: 'codes:x' holds codes of a first stage, which this config has not",
    ),
    (
        "prior_mnist",
        ("data.source=codes:x", "data.flip=True"),
        "data.flip: got True; codes made beforehand are not moved",
    ),
    (
        "ae_mnist",
        ("model.corruption=masking", "model.corruption_level=1.5"),
        "model.corruption_level: got 1.5; a share of the pixels",
    ),
    (
        "latent_mnist",
        ("diffusion.prediction=eps",),
        "diffusion.prediction: got 'eps'; without clip the first step of sampling makes",
    ),
    ("latent_mnist", ("diffusion.clip=True",), "diffusion.clip: got True; with a stage1"),
]

# Where a relation fails, the message stands at the field that can be changed.
ELSEWHERE = {
    "data.shape=(9,9,1)": "model.multipliers",
    "model.channels=33": "model.groups",
}


@pytest.mark.parametrize(("override", "message"), BAD, ids=[bad for bad, _ in BAD])
def test_impossible_values_are_refused_by_name(override, message):
    with pytest.raises(ConfigError) as error:
        load_config(DIGITS, [override])
    field = ELSEWHERE.get(override, override.partition("=")[0])
    assert f"{field}: " in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize(("override", "message"), BAD_VAE, ids=[bad for bad, _ in BAD_VAE])
def test_impossible_autoencoders_are_refused_by_name(override, message):
    with pytest.raises(ConfigError) as error:
        load_config(str(ROOT / "configs" / "vae_mnist.py"), [override])
    assert f"{override.partition('=')[0]}: " in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize(("config", "overrides", "message"), BAD_PAIRS)
def test_what_does_not_go_together_is_refused(config, overrides, message):
    with pytest.raises(ConfigError) as error:
        load_config(str(ROOT / "configs" / f"{config}.py"), list(overrides))
    assert message in str(error.value)


def test_all_faults_are_told_together():
    names = ["train.steps=x", "seed=-1", "model.groups=0", "optimizer.lr=1", "data.flip=2"]
    with pytest.raises(ConfigError, match="5 faults") as error:
        load_config(DIGITS, names)
    lines = str(error.value).splitlines()[1:]
    assert sorted(line.split(":")[0].strip() for line in lines) == sorted(
        name.partition("=")[0] for name in names
    )


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.steps=70", 70),
        ("optimizer.learning_rate=1", 1.0),
        ("model.multipliers=(1, 2)", (1, 2)),
        ("model.attention_resolutions=()", ()),
        ("data.flip=true", True),
        ("data.source=npz:/some where/a=b.npz", "npz:/some where/a=b.npz"),
    ],
)
def test_good_overrides_are_taken(override, value):
    config = load_config(DIGITS, [override])
    section, field = override.partition("=")[0].split(".")
    assert config[section][field] == value
    assert type(config[section][field]) is type(value)


@pytest.mark.slow
def test_an_answer_takes_less_than_five_seconds_and_no_jax(tmp_path):
    start = time.perf_counter()
    command = [sys.executable, "-X", "importtime", "-m", "gen_jax", "train", "--config", DIGITS]
    command += ["--workdir", str(tmp_path / "w"), "--config.train.steps=no", "--config.seed=-1"]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert time.perf_counter() - start < 5
    assert answer.returncode == 2
    assert "train.steps: got 'no'" in answer.stderr
    assert "seed: got -1" in answer.stderr
    assert " jax\n" not in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise OSError('boom')", "boom"),
        ("def get_config(): return None", "get_config"),
        ("x = 1", "get_config"),
        ("import nothing_of_this_name", "nothing_of_this_name"),
        ("syntax error", "syntax"),
    ],
)
def test_broken_config_files_are_one_line(tmp_path, source, message):
    path = tmp_path / "configs" / "bad.py"
    path.parent.mkdir()
    path.write_text(source)
    with pytest.raises(ConfigError, match="bad.py") as error:
        load_config(str(path), [])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_config_file_is_named():
    with pytest.raises(ConfigError, match="nowhere.py: no such file"):
        load_config("nowhere.py", [])


def test_unknown_and_missing_fields_are_found():
    config = load_config(DIGITS, [])
    config["model"]["dept"] = 3
    del config["train"]["keep"]
    assert [str(fault) for fault in find_faults(config)] == [
        "train.keep: missing; a whole number from 1 is required",
        "model.dept: unknown field; did you mean 'model.depth'?",
    ]


def test_a_rule_is_followed_as_far_as_what_it_asks_for_is_right():
    """A value that does not parse hides neither other values nor rules that do not need it."""
    bad = ["train.steps=abc", "model.groups=5", "diffusion.schedule=flow", "data.crop=x"]
    with pytest.raises(ConfigError, match="4 faults") as error:
        load_config(DIGITS, bad)
    lines = [line.split(":")[0].strip() for line in str(error.value).splitlines()[1:]]
    assert lines == ["train.steps", "data.crop", "model.groups", "diffusion.prediction"]


def test_a_file_may_say_only_what_differs(tmp_path):
    path = tmp_path / "configs" / "mine.py"
    path.parent.mkdir()
    path.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict({'family': 'vae', 'model': {'latent_dim': 7}})\n"
    )
    config = load_config(str(path), ["model.beta=2", "train.steps=9"])
    assert (config["model"]["latent_dim"], config["model"]["beta"]) == (7, 2.0)
    assert config == {
        **defaults_of("vae"),
        "model": {**defaults_of("vae")["model"], "latent_dim": 7, "beta": 2.0},
        "train": {**defaults_of("vae")["train"], "steps": 9},
    }


def test_overrides_of_a_short_file_have_the_types_of_their_fields(tmp_path):
    path = tmp_path / "configs" / "mine.py"
    path.parent.mkdir()
    path.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict({'family': 'vae', 'optimizer': {'learning_rate': 1},"
        " 'model': {'widths': [20, 10]}})\n"
    )
    config = load_config(str(path), ["optimizer.learning_rate=0.5", "model.widths=(5,5)"])
    assert config["optimizer"]["learning_rate"] == 0.5
    assert config["model"]["widths"] == (5, 5)


def test_a_player_may_have_an_optimizer_of_its_own():
    path = str(ROOT / "configs" / "aae_mnist.py")
    assert load_config(path, [])["optimizer"]["disc"]["learning_rate"] is None
    config = load_config(path, ["optimizer.disc.learning_rate=1e-5"])
    assert config["optimizer"]["disc"]["learning_rate"] == 1e-5
    with pytest.raises(ConfigError, match="optimizer.disc.b1: got 2.0; a number from 0 to below 1"):
        load_config(path, ["optimizer.disc.b1=2"])
    late = ["optimizer.disc.warmup_steps=5000", "train.steps=4000"]
    load_config(path, ["optimizer.decay=constant", *late])
    with pytest.raises(ConfigError, match="optimizer.disc.warmup_steps: got 5000; less than the"):
        load_config(path, ["optimizer.decay=cosine", *late])
    with pytest.raises(ConfigError, match="optimizer.disc.warmup_steps: got 5000; less than the"):
        load_config(path, ["optimizer.decay=constant", "optimizer.disc.decay=cosine", *late])


@pytest.mark.parametrize("family", families())
def test_every_field_says_what_it_means(family):
    for name, field in fields_of(family).items():
        assert field.doc, name
        assert name == "family" or field.takes(field.default), name
        assert field.change in ("frozen", "free")


def test_help_config_lists_every_field(capsys):
    assert main(["help-config", "vae"]) == 0
    out = capsys.readouterr().out
    for name, field in fields_of("vae").items():
        assert name == "family" or f"{name} = {field.default!r}" in out, name
    assert main(["help-config"]) == 0
    assert "vqvae" in capsys.readouterr().out
    assert main(["help-config", "vea"]) == 2
    assert "did you mean 'vae'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "hint"),
    [
        ("--steps=5", "--config.train.steps=5 sets that field"),
        ("--train.steps=5", "--config.train.steps=5 sets that field"),
        ("--lr=1", "--config.optimizer.learning_rate=1 sets that field"),
        ("--workdri=x", "did you mean 'workdir'?"),
    ],
)
def test_a_field_without_its_section_is_recognized(flag, hint, capsys):
    assert main(["train", "--config", DIGITS, "--workdir", "/nowhere", flag]) == 2
    assert hint in capsys.readouterr().err


def test_help_of_train_shows_examples(capsys):
    assert main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.count("gen-jax train --config configs/") == 3
    assert "gen-jax help-config" in out


def test_a_config_survives_json(tmp_path):
    config = load_config(DIGITS, ["train.steps=300"])
    path = tmp_path / "config.json"
    path.write_text(to_json(config))
    assert frozen_changes(from_json(path), config) == ([], [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "no object"),
        ("[" * 100_000, "not JSON"),
        ("{}", "family: missing"),
        ('{"family": "vae", "train": 5}', "json: train: unknown field"),
        ('{"family": "vae", "train": {"steps": {"x": 1}}}', "train.steps.x: unknown field"),
    ],
)
def test_damaged_json_is_a_checkpoint_error(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=message):
        from_json(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        from_json(tmp_path / "missing.json")


def test_changes_are_told_by_their_weight():
    old = load_config(DIGITS, [])
    new = load_config(DIGITS, ["train.steps=9000", "model.channels=64", "seed=3"])
    frozen, free = frozen_changes(old, new)
    assert frozen == [
        "model.channels: checkpoint 32, config 64",
        "seed: checkpoint 0, config 3",
    ]
    assert [line.split(":")[0] for line in free] == ["train.steps"]
