"""F17, F18, F29: what the config alone decides, and what may change on the way."""

import itertools
import json
import re
import time

import pytest

from gen_jax.launch.cli.main import main
from gen_jax.launch.config.fields import flatten
from gen_jax.launch.config.files import load_config
from gen_jax.launch.config.schema import families, fields_of, frozen_changes
from tests.launch.test_schema import BAD, BAD_PAIRS, BAD_VAE, ELSEWHERE as BAD_ELSEWHERE
from tests.reliability.job import ROOT, VAE, record, run_code, train_line

CONFIGS = sorted((ROOT / "configs").glob("[!_c]*.py"))
DIGITS, MNIST = (str(ROOT / "configs" / f"{name}.py") for name in ("ddpm_digits", "vae_mnist"))
CASES = [
    *((DIGITS, (override,)) for override, _ in BAD),
    *((MNIST, (override,)) for override, _ in BAD_VAE),
    *((str(ROOT / "configs" / f"{name}.py"), overrides) for name, overrides, _ in BAD_PAIRS),
    (DIGITS, ("train.stpes=3",)),
    (DIGITS, ("data.timeout_s=0",)),
    (DIGITS, ("data.on_bad=ignore",)),
    (DIGITS, ("data.max_bad_fraction=2",)),
    (DIGITS, ("data.skip_steps=(0,)",)),
    (DIGITS, ("train.spike_sigma=-1",)),
    (DIGITS, ("train.spike_window=1",)),
    (DIGITS, ("seed=4294967296",)),
    (DIGITS, ("train.keep=0",)),
    (DIGITS, ("train.save_every=0",)),
    (DIGITS, ("train.ema_decay=1",)),
]


# Where a relation fails, the message stands at the field that can be changed.
ELSEWHERE = {(override,): f"{field}: " for override, field in BAD_ELSEWHERE.items()}
ELSEWHERE |= {overrides: message for _, overrides, message in BAD_PAIRS}


def test_every_bad_config_is_code_2_and_names_its_field(tmp_path, capsys):
    """In one process; that each takes less than five seconds and no JAX is tested below."""
    for config, overrides in CASES:
        line = ["train", f"--config={config}", f"--workdir={tmp_path / 'w'}"]
        assert main([*line, *(f"--config.{override}" for override in overrides)]) == 2, overrides
        err = capsys.readouterr().err
        assert err.startswith("gen_jax: config: "), overrides
        fields = [override.partition("=")[0] for override in overrides]
        # Where fields do not go together the one that can be changed is named, maybe another.
        others = ELSEWHERE.get(overrides, "?")
        assert any(f"{field}: " in err for field in fields) or others in err, (overrides, err)
    assert len(CASES) >= 60
    assert not (tmp_path / "w").exists()
    record("F17", configs=len(CASES), code_2=len(CASES))


WATCHED = """
import sys, time
begin = time.monotonic()
from gen_jax.launch.cli.main import main
code = main(sys.argv[1:])
print(code, time.monotonic() - begin, "jax" in sys.modules)
"""


def test_an_answer_comes_at_once_and_with_all_faults(tmp_path):
    overrides = ("model.channels=-1", "train.stpes=3", "seed=-1", "optimizer.learning_rate=nan")
    line = ["train", f"--config={DIGITS}", f"--workdir={tmp_path}"]
    line += [f"--config.{override}" for override in overrides]
    begin = time.monotonic()
    out = run_code(WATCHED, *line)
    assert time.monotonic() - begin < 5
    code, _, jax = out.stdout.split()
    assert (code, jax) == ("2", "False")
    assert "4 faults" in out.stderr
    for override in overrides:
        assert override.partition("=")[0] in out.stderr


# What a run may change on its way, of each family; all else is frozen.
ADVERSARY = """
    model.disc_weight model.adaptive model.disc_from model.adversarial_from
    model.adversarial_ramp model.adversarial_game model.lecam model.perceptual_weight
"""
FREE = {
    "": """
        data.source data.other data.dir data.num_workers data.timeout_s data.on_bad
        data.max_bad_fraction
        data.max_pixels data.sixteen_bit data.skip_steps
        optimizer.learning_rate optimizer.warmup_steps optimizer.decay optimizer.b1
        optimizer.b2 optimizer.eps optimizer.weight_decay optimizer.clip_norm profile.start
        profile.steps train.steps train.microbatches train.ema_decay train.log_every
        train.validate_every train.sample_every train.save_every train.keep train.max_bad_steps
        train.spike_window train.spike_sigma train.engine train.init_from mesh.data mesh.fsdp
        mesh.tensor mesh.min_size mesh.overrides
    """,
    "adversarial_autoencoder": "model.dtype",
    "autoencoder": """
        model.corruption model.corruption_level model.sparsity_weight model.sparsity_target
        model.dtype
    """,
    "autoregressive": """
        stage1 model.remat model.dropout model.class_dropout model.dtype model.guidance
    """,
    "classifier": "model.dropout model.dtype model.remat",
    "diffusion": """
        stage1 stages.text stages.clip stages.prior stages.base model.embedding_dropout
        model.dropout model.dtype model.remat model.guidance diffusion.clip
        diffusion.objective
        diffusion.weighting diffusion.weighting_gamma diffusion.times diffusion.times_mean
        diffusion.times_std diffusion.antithetic diffusion.pairing diffusion.coupled
    """,
    "dvae": """
        model.temperature_start model.temperature_end model.temperature_steps model.kl_start
        model.kl_end model.kl_steps model.straight_through model.dtype
    """
    + ADVERSARY,
    "vae": """
        model.beta model.free_bits model.kl_warmup model.num_importance model.dtype
    """
    + ADVERSARY,
    "vqvae": """
        model.log_sigma model.decay model.revive_below model.commitment_cost model.dtype
    """
    + ADVERSARY,
}


@pytest.mark.parametrize("family", families())
def test_every_field_is_frozen_or_free(family):
    free = {name for name, field in fields_of(family).items() if field.change == "free"}
    free = {name for name in free if name.count(".") == 1 or "optimizer" not in name}  # of players
    if family in FREE:
        assert free == set(FREE[""].split()) | set(FREE[family].split())
    assert {field.change for field in fields_of(family).values()} == {"free", "frozen"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_leaf_of_every_config_is_known(path):
    for variant in ("", ":tiny"):
        values = flatten(load_config(f"{path}{variant}", []))
        assert set(values) == set(fields_of(values["family"]))


CHANGES = {
    "frozen": (
        "seed=1",
        "data.batch_size=16",
        "data.flip=True",
        "data.crop=1",
        "data.holdout=5",
        "model.channels=64",
        "model.multipliers=(1,1)",
        "model.num_res_blocks=2",
        "diffusion.num_steps=500",
        "diffusion.schedule=cosine",
        "optimizer.moments=16bit",
    ),
    "free": (
        "train.steps=7000",
        "train.log_every=7",
        "train.keep=7",
        "train.save_every=7",
        "optimizer.learning_rate=7e-4",
        "optimizer.clip_norm=7.0",
        "data.num_workers=3",
        "data.skip_steps=(7,)",
        "model.dropout=0.2",
        "train.ema_decay=0.5",
    ),
}


def test_changes_are_of_the_class_they_are_said_to_be():
    before = load_config(DIGITS, [])
    for kind, overrides in CHANGES.items():
        for override in overrides:
            frozen, free = frozen_changes(before, load_config(DIGITS, [override]))
            name = override.partition("=")[0]
            assert [line.partition(":")[0] for line in frozen] == [name] * (kind == "frozen")
            assert [line.partition(":")[0] for line in free] == [name] * (kind == "free")
    pairs = list(itertools.product(CHANGES["frozen"][:3], CHANGES["free"][:3]))
    for pair in pairs:
        frozen, free = frozen_changes(before, load_config(DIGITS, list(pair)))
        assert (len(frozen), len(free)) == (1, 1)
    record("F18", changes=sum(map(len, CHANGES.values())), right=sum(map(len, CHANGES.values())))


@pytest.mark.slow
def test_a_frozen_field_changes_only_when_told_to(tmp_path, capsys):
    line = train_line(VAE, tmp_path / "w", steps=2)
    assert main(line) == 0
    again = [*line, "--config.train.steps=4", "--config.data.flip=True"]
    capsys.readouterr()
    assert main(again) == 4
    err = capsys.readouterr().err
    assert "data.flip: checkpoint False, config True" in err
    assert "--allow_config_change=data.flip" in err
    assert main([*again, "--allow_config_change=data.filp"]) == 2
    assert "'data.filp': unknown field; did you mean 'data.flip'?" in capsys.readouterr().err
    assert main([*again, "--allow_config_change=data.flip"]) == 0
    out = capsys.readouterr().out
    assert "config changed: data.flip: checkpoint False, config True" in out
    assert "resuming at step 2" in out
    config = json.loads((tmp_path / "w" / "config.json").read_text())
    assert config["data"]["flip"] is True
    # Another network may be allowed, but does not come to fit.
    wider = [*again, "--config.model.widths=(7,)", "--config.train.steps=6"]
    assert main([*wider, "--allow_config_change=model.widths"]) == 4
    assert re.search(
        r"does not fit the config: .*\['.*: checkpoint float32", capsys.readouterr().err
    )
