"""Codes of a whole dataset, written once; and priors that train on them."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.data import open_source
from gen_jax.errors import DataError
from gen_jax.launch.build.experiment import build
from gen_jax.launch.cli.main import main
from gen_jax.launch.commands import encode
from gen_jax.launch.commands.latents import _encode
from gen_jax.launch.config.files import load_config, to_json
from gen_jax.launch.runs.restore import load_codec, load_trained
from gen_jax.protocols import Weights
from gen_jax.train import checkpoint
from gen_jax.train.state import init_state
from gen_jax.train.step import make_train_step

CONFIGS = Path(__file__).parent.parent.parent / "configs"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.tiered,
    pytest.mark.usefixtures("one_device_by_day"),
]


def train(folder, config, *overrides):
    arguments = ["train", "--config", f"{CONFIGS / config}.py:tiny", "--workdir", str(folder)]
    assert main([*arguments, *overrides]) == 0
    return folder


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """A VQ-VAE, all codes of its data, and a prior that never saw an image."""
    folder = tmp_path_factory.mktemp("stages")
    first = train(folder / "first", "vqvae_mnist")
    codes = folder / "codes"
    assert main(["encode", f"--workdir={first}", f"--out={codes}"]) == 0
    prior = train(
        folder / "prior",
        "prior_mnist",
        f"--config.stage1={first}",
        f"--config.data.source=codes:{codes}",
    )
    return first, codes, prior


def fails(arguments, code, message, capsys):
    capsys.readouterr()
    assert main(arguments) == code
    error = capsys.readouterr().err
    assert message in error, error
    assert error.count("\n") == 1


def test_codes_are_those_of_the_model_in_the_order_of_the_data(stages):
    first, codes, _ = stages
    trained = load_trained(first)
    for split, size in (("train", 1500), ("test", 297)):
        images = open_source("digits", split, (8, 8, 1)).read(np.arange(size))
        source = open_source(f"codes:{codes}", split, (8, 8, 1))
        read = source.read(np.arange(size))
        assert read["codes"].dtype == np.int32
        np.testing.assert_array_equal(read["codes"], _encode(trained, images["image"], None))
        np.testing.assert_array_equal(read["label"], images["label"])
        assert source.size == size
        assert source.num_classes == 10
    # 16 codes fit into a byte.
    with np.load(codes / "test-00000.npz") as file:
        assert file["codes"].dtype == np.uint8


def test_the_encoder_is_skipped_and_nothing_else_changes(stages, tmp_path):
    """On images the same prior makes the codes at every step, and sees the same."""
    first, codes, prior = stages
    metrics = []
    for name, source in (("images", "digits"), ("codes", f"codes:{codes}")):
        work = train(
            tmp_path / name, "prior_mnist", f"--config.stage1={first}",
            f"--config.data.source={source}", "--config.model.dropout=0",
        )  # fmt: skip
        lines = (work / "metrics.jsonl").read_text().splitlines()
        metrics.append([json.loads(line)["likelihood/loss"] for line in lines])
    np.testing.assert_allclose(*metrics, rtol=1e-5)
    del prior


def test_a_prior_samples_images_without_its_first_stage(stages, tmp_path, capsys):
    first, _, prior = stages
    away = tmp_path / "away"
    shutil.move(first, away)
    try:
        base = ["sample", f"--workdir={prior}", "--num=4", f"--out={tmp_path / 'a.npz'}"]
        assert main([*base, "--guidance=2", "--temperature=0.9", "--top_p=0.9", "--label=3"]) == 0
        with np.load(tmp_path / "a.npz") as arrays:
            assert arrays["images"].shape == (4, 8, 8, 1)
            assert set(arrays["labels"]) == {3}
        fails([*base, "--guidance=-1"], 2, "--guidance: -1.0; a number from 0 is required", capsys)
    finally:
        shutil.move(away, first)


def test_evaluation_counts_bits_a_token(stages, capsys):
    _, _, prior = stages
    assert main(["evaluate", f"--workdir={prior}"]) == 0
    printed = capsys.readouterr().out
    assert "no Fréchet distance: the data holds codes" in printed
    results = json.loads((prior / "eval" / "2.json").read_text())
    bits = results["nats_test"] / (16 * np.log(2))
    assert results["bits_per_token_test"] == pytest.approx(bits, rel=1e-6)
    assert 3.5 < bits < 4.5  # 16 codes, hardly trained
    assert main(["evaluate", f"--workdir={prior}", "--data=digits", "--num=20"]) == 0
    again = json.loads((prior / "eval" / "2.json").read_text())
    assert again["nats_test"] == pytest.approx(results["nats_test"], rel=1e-5)
    assert "frechet_pixels_samples_to_test" in again


def test_an_interrupted_run_goes_on_and_rewrites_nothing(stages, tmp_path, monkeypatch, capsys):
    first, whole, _ = stages
    monkeypatch.setattr(encode, "ROWS", 400)
    out = tmp_path / "codes"
    command = ["encode", f"--workdir={first}", f"--out={out}"]
    write, written = encode.write_file, []

    def interrupt(path, data):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)
        write(path, data)

    monkeypatch.setattr(encode, "write_file", interrupt)
    assert main(command) == 130
    assert len(list(out.glob("*.npz"))) == 2
    prior = ["train", f"--config={CONFIGS}/prior_mnist.py:tiny", f"--workdir={tmp_path / 'w'}"]
    prior += [f"--config.stage1={first}", f"--config.data.source=codes:{out}"]
    fails(prior, 3, "train-00002.npz: missing; run the same `gen-jax encode` again", capsys)
    written.clear()
    monkeypatch.setattr(encode, "write_file", lambda *a: (written.append(a[0]), write(*a)))
    assert main(command) == 0
    assert "2 of 5 shards are there" in capsys.readouterr().out
    assert [path.name for path in written] == [
        "codes.json", "train-00002.npz", "train-00003.npz", "test-00000.npz",
    ]  # fmt: skip
    a, b = (open_source(f"codes:{folder}", "train", (8, 8, 1)) for folder in (out, whole))
    np.testing.assert_array_equal(
        a.read(np.arange(1500))["codes"], b.read(np.arange(1500))["codes"]
    )
    fails([*command, "--seed=1"], 3, "begun with another seed; choose a new folder", capsys)


def test_codes_of_another_first_stage_are_refused(stages, tmp_path, capsys):
    _, codes, _ = stages
    other = train(tmp_path / "other", "vqvae_mnist", "--config.seed=1")
    command = ["train", f"--config={CONFIGS}/prior_mnist.py:tiny", f"--workdir={tmp_path / 'w'}"]
    command += [f"--config.stage1={other}", f"--config.data.source=codes:{codes}"]
    fails(command, 3, "made by another first stage than stage1", capsys)
    assert not list(tmp_path.glob("w/checkpoints/*"))
    fails(
        ["encode", f"--workdir={other}", f"--out={codes}"], 3, "begun with another stage1", capsys
    )


def test_what_cannot_be_is_said(stages, tmp_path, capsys):
    first, codes, prior = stages
    fails(
        ["encode", f"--workdir={prior}", f"--out={tmp_path}"],
        2, "encode: not for 'autoregressive', ", capsys,
    )  # fmt: skip
    fails(
        ["interpolate", f"--workdir={first}", f"--out={tmp_path / 'a.png'}"],
        2, "interpolate: not for 'vqvae', whose codes", capsys,
    )  # fmt: skip
    fails(
        ["encode", f"--workdir={first}", f"--out={tmp_path}", "--splits=valid"],
        2, "--splits: 'valid'; train, test or both are required", capsys,
    )  # fmt: skip
    latent = ["train", f"--config={CONFIGS}/latent_mnist.py:tiny", f"--workdir={tmp_path / 'w'}"]
    fails(
        [*latent, f"--config.stage1={first}"],
        2, "its codes are whole numbers; family 'autoregressive' models these", capsys,
    )  # fmt: skip
    fails(
        ["encode", f"--workdir={first}", f"--out={tmp_path / 'x'}", f"--data=codes:{codes}"],
        3, "holds codes; images are required", capsys,
    )  # fmt: skip
    assert not (tmp_path / "x").exists()
    fails(
        ["reconstruct", f"--workdir={first}", f"--out={tmp_path}/a.png", f"--data=codes:{codes}"],
        3, "holds codes; --data names images", capsys,
    )  # fmt: skip


def test_what_is_damaged_is_named_and_mended(stages, tmp_path, capsys):
    first, codes, _ = stages
    damaged = tmp_path / "damaged"
    shutil.copytree(codes, damaged)
    shard = damaged / "train-00000.npz"
    whole = shard.read_bytes()

    def saved(**arrays):
        with np.load(codes / shard.name) as file:
            np.savez(shard, **{**file, **arrays})

    with np.load(codes / shard.name) as file:
        labels, grids = file["label"], file["codes"]
    for write, message in (
        (lambda: shard.write_bytes(b""), "cannot be read"),
        (lambda: shard.write_bytes(whole[: len(whole) // 2]), "cannot be read"),
        (lambda: np.save(shard.open("wb"), labels), "cannot be read"),
        (lambda: saved(codes=grids + 16), "codes: whole numbers from 0 to 15 are required"),
        (lambda: saved(codes=grids[:7]), "codes: 1500 examples are required"),
        (lambda: saved(codes=grids.astype("U3")), "codes: whole numbers from 0 to 15"),
        (lambda: saved(label=labels - 5), "label: whole numbers from 0 are required"),
        (lambda: saved(more=labels), "arrays codes are required"),
        (lambda: saved(origin=np.zeros(32, np.uint8)), "made of something else than codes.json"),
    ):
        write()
        with pytest.raises(DataError, match=message) as error:
            open_source(f"codes:{damaged}", "train", (8, 8, 1))
        assert "train-00000.npz" in str(error.value)
    assert main(["encode", f"--workdir={first}", f"--out={damaged}"]) == 0
    assert "1 of 2 shards are there" in capsys.readouterr().out
    read = open_source(f"codes:{damaged}", "train", (8, 8, 1)).read(np.arange(1500))
    np.testing.assert_array_equal(read["codes"], grids)
    # Another first stage's codes are not taken for this one's, with or without their index.
    (damaged / "codes.json").unlink()
    other = train(tmp_path / "other", "vqvae_mnist", "--config.seed=1")
    capsys.readouterr()
    assert main(["encode", f"--workdir={other}", f"--out={damaged}"]) == 0
    assert "shards are there" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rows", 0), ("rows", None), ("splits", []), ("splits", {"train": {"size": 0}}),
        ("splits", {"train": 3}), ("stage1", 7), ("image_shape", 8), ("image_shape", [8, 8]),
        ("num_codes", "16"), ("seed", None),
    ],
)  # fmt: skip
def test_an_index_that_is_none_is_refused(stages, tmp_path, name, value):
    index = json.loads((stages[1] / "codes.json").read_text())
    (tmp_path / "codes.json").write_text(json.dumps({**index, name: value}))
    with pytest.raises(DataError, match=f"codes.json: {name}: .*is not what is written there"):
        open_source(f"codes:{tmp_path}", "train", (8, 8, 1))


def test_splits_may_come_one_after_another(stages, tmp_path):
    command = ["encode", f"--workdir={stages[0]}", f"--out={tmp_path}"]
    for splits in ("test", "train", "test,train"):
        assert main([*command, f"--splits={splits}", "--batch_size=100"]) == 0
    for split in ("train", "test"):
        a, b = (open_source(f"codes:{f}", split, (8, 8, 1)) for f in (tmp_path, stages[1]))
        assert a.fingerprint == b.fingerprint


def test_reconstruct_counts_codes(stages, tmp_path, capsys):
    first, _, _ = stages
    assert main(["reconstruct", f"--workdir={first}", f"--out={tmp_path / 'a.png'}"]) == 0
    printed = capsys.readouterr().out
    assert "SSIM" in printed
    assert "of 16 codes used" in printed


@pytest.mark.nightly
def test_real_codes_can_be_written_too(tmp_path):
    first = train(tmp_path / "first", "klae_mnist")
    codes = tmp_path / "codes"
    assert main(["encode", f"--workdir={first}", f"--out={codes}", "--splits=train"]) == 0
    work = train(
        tmp_path / "latent", "latent_mnist", f"--config.stage1={first}",
        f"--config.data.source=codes:{codes}",
    )  # fmt: skip
    assert len((work / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.nightly
def test_a_plan_knows_that_the_encoder_does_not_run(stages, capsys):
    first, codes, _ = stages
    base = ["plan", f"--config={CONFIGS}/prior_mnist.py:tiny", f"--config.stage1={first}"]
    base += ["--topology=cpu:8", "--hardware=v5e", "--json"]
    flops = []
    for source in ("digits", f"codes:{codes}"):
        assert main([*base, f"--config.data.source={source}"]) == 0
        flops.append(json.loads(capsys.readouterr().out)["flops_per_device"])
    assert 0 < flops[1] < 0.95 * flops[0]


@pytest.mark.nightly
def test_codes_of_a_restored_first_stage_are_those_before_saving(tmp_path):
    """Bit for bit, with averaged weights and a codebook that learned from a few steps."""
    config = load_config(f"{CONFIGS}/vqvae2_cifar10.py:tiny", [])
    experiment = build(config)
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), np.uint8)
    batch, key = {"image": jnp.asarray(image)}, jax.random.key(0)
    state = jax.jit(lambda: init_state(experiment.model, experiment.optimizers, key, batch))()
    step = jax.jit(make_train_step(experiment.model, experiment.optimizers, ema_decay=0.5))
    for _ in range(3):
        state, _ = step(state, experiment.frozen, batch, key)
    (tmp_path / "config.json").write_bytes(to_json(config).encode())
    with checkpoint.open_checkpoints(tmp_path / "checkpoints") as manager:
        checkpoint.save(manager, state, {"config": config}, wait=True)
    encode = jax.jit(experiment.model.latents.encode)
    before = encode(Weights(state.ema_params, state.stats), batch["image"], {})
    first = load_codec(tmp_path)
    keys = jax.random.split(key, 8)
    after = jax.jit(first.codec.encode)(first.weights, batch["image"], keys)
    assert set(before) == {"top", "bottom"}
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert first.codec.num_categories == {"top": 16, "bottom": 16}
    assert first.code_shape == {"top": (2, 2), "bottom": (4, 4)}
