"""Weights of diffusers give diffusers' outputs, and come back as they were."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gen_jax.errors import CheckpointError
from gen_jax.interop import read_architecture, read_folder
from gen_jax.interop.diffusers import read_scheduler
from gen_jax.interop.safetensors import WEIGHTS
from gen_jax.launch.build.families.diffusion import make_network
from gen_jax.launch.cli.main import main
from gen_jax.launch.config.fields import flatten
from gen_jax.launch.runs.restore import load_weights
from gen_jax.ops import keys as rng
from gen_jax.protocols import LOCAL, Context
from tests.interop.diffusers_models import (
    CASES,
    description,
    inputs,
    load_with_diffusers,
    run_diffusers,
    stored,
    weights,
    write_pretrained,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_device")]

UNETS = [name for name in CASES if name.startswith(("unet", "condition", "dit"))]
# One of each kind of model; the other cases by night.
EVERY_DAY = ("unet_ddpm", "unet_adm", "kl_sd", "vq_embed_dim", "dit", "condition_sdxl")
BY_CASE = [
    pytest.param(name, marks=() if name in EVERY_DAY else pytest.mark.nightly) for name in CASES
]
LATENT = [name for name in UNETS if CASES[name][1].get("in_channels", 3) not in (1, 3)]


def last(x):
    return jnp.asarray(np.moveaxis(x, 1, -1))


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Import a case once, through the command line."""
    made = {}

    def make(name):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            write_pretrained(name, folder / "theirs")
            line = ["import", "--from", str(folder / "theirs"), "--workdir", str(folder / "w")]
            if name.startswith("condition") and CASES[name][1].get("in_channels", 4) != 3:
                # Of latents: any autoencoder with four channels, and 16 pixels for their 8.
                line += ["--stage1", str(first_stage(tmp_path_factory))]
            assert main(line) == 0, name
            made[name] = folder
        return made[name]

    def first_stage(factory):
        if "stage1" not in made:
            folder = factory.mktemp("stage1")
            write_pretrained("kl_sd", folder / "theirs")
            config = json.loads((folder / "theirs" / "config.json").read_text())
            # Three levels of 32 pixels make 8.
            (folder / "theirs" / "config.json").write_text(
                json.dumps({**config, "sample_size": 32})
            )
            work = folder / "w"
            assert main(["import", "--from", str(folder / "theirs"), "--workdir", str(work)]) == 0
            made["stage1"] = work
        return made["stage1"]

    return make


def ours(name, folder):
    """Compute what diffusers computed, with our own functions, from the work directory."""
    saved = load_weights(folder / "w")
    given, net = inputs(name), saved.weights.params["net"]
    if name in UNETS:
        x = last(given["sample"])
        values = flatten(saved.config)
        values = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items()}
        channels = {8: 4, 9: 4}.get(x.shape[-1], x.shape[-1])  # the others are beside x
        network = make_network(values, (*x.shape[1:3], channels))
        label = None if "class_labels" not in given else jnp.asarray(given["class_labels"])
        context = given.get("encoder_hidden_states")
        # Their step i, from zero, is our time (i + 1) / T.
        t = jnp.asarray((given["timestep"] + 1) / 1000, jnp.float32)
        names = {"pooled": "text_embeds", "sizes": "time_ids"}
        told = {ours: given[theirs] for ours, theirs in names.items() if theirs in given}
        apply = jax.jit(network.apply)
        output = apply({"params": net}, x, t, label, None, context, **told)
        return {"output": np.moveaxis(np.asarray(output), -1, 1)}
    if name.startswith("kl"):
        from gen_jax.launch.build import autoencoders
        from gen_jax.nn.autoencoder import Autoencoder
        from gen_jax.ops.likelihoods import gaussian

        halves = autoencoders.halves(flatten(saved.config), gaussian(), codes=2)
        network = Autoencoder(*halves)
        run = jax.jit(network.apply, static_argnames="method")
        encoded = run({"params": net}, last(given["sample"]), None, method="encode")
        mean, logvar = jnp.split(encoded, 2, axis=-1)
        decoded = run({"params": net}, last(given["z"]), None, method="decode")
        found = {"mean": mean, "logvar": jnp.clip(logvar, -30, 20), "decoded": decoded}
        return {key: np.moveaxis(np.asarray(x), -1, 1) for key, x in found.items()}
    model = saved.experiment.model
    x = last(given["sample"])
    # Through the model itself: codes of x, and what they decode to.

    network, codes = vq_parts(saved)
    (z,) = network(net, x, method="features")
    indices = codes(z)
    book = net["books"]["codes"]["codebook"][0]
    decoded = network(net, (book[indices],), method="decode")
    assert model.latents.num_codes == len(book)
    return {
        "latents": np.moveaxis(np.asarray(z), -1, 1),
        "codes": np.asarray(indices),
        "decoded": np.moveaxis(np.asarray(decoded), -1, 1),
    }


def folder_of(name):
    """Give the folder of the network in what is exported."""
    if name not in UNETS:
        return ""
    return "transformer" if name.startswith("dit") else "unet"


def vq_parts(saved):
    from gen_jax.launch.build import autoencoders
    from gen_jax.nn.autoencoder import ConvDecoder, ConvEncoder, ConvGrid
    from gen_jax.ops.quantization import nearest_code

    values = flatten(saved.config)
    conv = {name: values[f"model.{name}"] for name in autoencoders.CONV}
    conv["multipliers"] = tuple(conv["multipliers"])
    side, _, channels = values["data.shape"]
    dim = values["model.embedding_dim"]
    network = ConvGrid(ConvEncoder(side, dim, **conv), ConvDecoder(side, channels, **conv), dim)

    def run(net, *arguments, method):
        return network.apply({"params": net["network"]}, *arguments, method=method)

    book = saved.weights.params["net"]["books"]["codes"]["codebook"][0]
    return run, lambda z: nearest_code(z.reshape(-1, dim), book).reshape(z.shape[:3])


@pytest.mark.parametrize("name", BY_CASE)
def test_outputs_are_those_of_diffusers(name, imported):
    theirs, found = stored(name), ours(name, imported(name))
    assert set(found) == set(theirs)
    for key, x in theirs.items():
        if key == "codes":
            np.testing.assert_array_equal(found[key], x)
        else:
            np.testing.assert_allclose(found[key], x, atol=1e-4, rtol=0, err_msg=key)
            assert np.abs(x).max() > 1e-2, "an output of nothing would prove nothing"


@pytest.mark.parametrize("name", BY_CASE)
def test_a_round_trip_loses_nothing(name, imported, tmp_path):
    folder = imported(name)
    line = ["export", "--workdir", str(folder / "w"), "--to", str(tmp_path / "again")]
    assert main(line) == 0
    again = tmp_path / "again" / folder_of(name)
    before, after = (load_file(path / WEIGHTS) for path in (folder / "theirs", again))
    assert set(before) == set(after)
    for key, x in before.items():
        np.testing.assert_array_equal(after[key], x, err_msg=key)
    config = json.loads((again / "config.json").read_text())
    theirs = description(name)["config"]
    assert {**config, "scaling_factor": 0} == {**theirs, "scaling_factor": 0}
    if "scaling_factor" in theirs and name.startswith("kl"):
        assert config["scaling_factor"] == pytest.approx(theirs["scaling_factor"], rel=1e-6)


def test_an_imported_model_samples_trains_on_and_evaluates(imported, tmp_path, capsys):
    work = imported("unet_defaults") / "w"
    out = tmp_path / "x.npz"
    line = ["--workdir", str(work), "--num", "8", "--steps", "2"]
    assert main(["sample", *line, "--out", str(out)]) == 0, capsys.readouterr().err
    with np.load(out) as arrays:
        assert arrays["images"].shape == (8, 8, 8, 3)


@pytest.mark.nightly
def test_a_pipeline_of_latents_brings_its_first_stage(imported, tmp_path, capsys):
    pipe = tmp_path / "pipe"
    write_pretrained("condition_sd15", pipe / "unet")
    write_pretrained("kl_sd", pipe / "vae")
    config = json.loads((pipe / "vae" / "config.json").read_text())
    (pipe / "vae" / "config.json").write_text(json.dumps({**config, "sample_size": 32}))
    (pipe / "scheduler").mkdir()
    scheduler = {
        "_class_name": "DDIMScheduler",
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "prediction_type": "v_prediction",
    }
    (pipe / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    (pipe / "model_index.json").write_text("{}")
    work = tmp_path / "w"
    assert main(["import", "--from", str(pipe), "--workdir", str(work)]) == 0
    saved = json.loads((work / "config.json").read_text())
    assert saved["diffusion"]["schedule"] == "scaled_linear"
    assert saved["diffusion"]["prediction"] == "v"
    assert saved["data"]["shape"] == [32, 32, 3]
    context = tmp_path / "context.npz"
    np.savez(context, context=np.ones((1, 5, 12), np.float32))
    out = tmp_path / "x.npz"
    line = ["sample", "--workdir", str(work), "--num", "8", "--steps", "2", "--out", str(out)]
    assert main(line) == 2
    assert "--context: is required by this model" in capsys.readouterr().err
    assert main([*line, "--context", str(context)]) == 0, capsys.readouterr().err
    with np.load(out) as arrays:
        assert arrays["images"].shape == (8, 32, 32, 3)


def change(folder, name, **changes):
    write_pretrained(name, folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("unet_ddpm", {"_class_name": "UNet1DModel"}, "_class_name: 'UNet1DModel'; one of UNet2D"),
        (
            "unet_ddpm",
            {"center_input_sample": True},
            "center_input_sample: True; False is required",
        ),
        ("unet_ddpm", {"act_fn": "mish"}, "act_fn: 'mish'"),
        ("unet_ddpm", {"a_new_option": 3}, "a_new_option: 3; this option is not understood"),
        ("unet_ddpm", {"block_out_channels": None}, "options do not fit together"),
        ("kl_sd", {"scaling_factor": 0}, "scaling_factor: 0.0; a number above 0 is required"),
        ("unet_ddpm", {"sample_size": None}, "sample_size: None; one whole number is required"),
        ("unet_ddpm", {"block_out_channels": [8, 12, 16]}, "which does not make [3, 3, 8, 12]"),
        ("unet_ddpm", {"time_embedding_type": "fourier"}, "time_embedding_type: 'fourier'"),
        (
            "condition_sd15",
            {"addition_embed_type": "text_image"},
            "addition_embed_type: 'text_image'",
        ),
        ("dit", {"activation_fn": "geglu"}, "activation_fn: 'geglu'; 'gelu-approximate' is"),
        ("condition_sd15", {}, "in_channels: 4; a model of latents needs --stage1"),
        ("vq_defaults", {"norm_type": "spatial"}, "norm_type: 'spatial'; 'group' is required"),
        ("unet_ddpm", {"layers_per_block": 1}, "down_blocks.0.resnets.1.conv2.bias: not used"),
        ("unet_ddpm", {"layers_per_block": 3}, "down_blocks.0.resnets.2.norm1.weight: missing"),
        ("unet_ddpm", {"in_channels": 1, "out_channels": 1}, "conv_in.weight: shape [8, 3, 3, 3]"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(name, changes, message, tmp_path, capsys):
    change(tmp_path / "theirs", name, **changes)
    line = ["import", "--from", str(tmp_path / "theirs"), "--workdir", str(tmp_path / "w")]
    assert main(line) == 4
    err = capsys.readouterr().err
    assert message in err, err
    assert not (tmp_path / "w" / "config.json").exists()


def test_weights_that_are_not_there_or_damaged_are_refused(tmp_path, capsys):
    folder, work = tmp_path / "theirs", str(tmp_path / "w")
    line = ["import", "--from", str(folder), "--workdir", work]
    assert main(line) == 4
    assert "no such folder" in capsys.readouterr().err
    write_pretrained("kl_plain", folder)
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])
    assert main(line) == 4
    assert "cannot be read" in capsys.readouterr().err
    tensors = weights(description("kl_plain")["shapes"])
    tensors["decoder.conv_in.bias"][0] = np.nan
    save_file(tensors, folder / WEIGHTS)
    assert main(line) == 4
    assert "decoder.conv_in.bias: not all numbers are finite" in capsys.readouterr().err
    (folder / WEIGHTS).unlink()
    assert main(line) == 4
    assert "weights in pickle files (.bin) are never read" in capsys.readouterr().err
    assert not Path(work).exists() or not list(Path(work).glob("checkpoints/*"))


def test_nothing_is_written_over(imported, tmp_path, capsys):
    folder = imported("kl_plain")
    line = ["import", "--from", str(folder / "theirs"), "--workdir", str(folder / "w")]
    assert main(line) == 7
    assert "holds a run already" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["export", "--workdir", str(folder / "w"), "--to", str(tmp_path)]) == 7
    assert "an empty or new folder is required" in capsys.readouterr().err


@pytest.mark.nightly
def test_old_names_of_attention_are_understood(tmp_path):
    """Before 2023 attention layers were called otherwise, and were 1x1 convolutions."""
    folder = tmp_path / "theirs"
    write_pretrained("unet_ddpm", folder)
    tensors = load_file(folder / WEIGHTS)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for key, x in tensors.items():
        name = key
        for new, before in old.items():
            if "attentions" in key:
                name = name.replace(f".{new}.", f".{before}.")
        renamed[name] = x
    assert set(renamed) != set(tensors)
    save_file(renamed, folder / WEIGHTS)
    assert main(["import", "--from", str(folder), "--workdir", str(tmp_path / "w")]) == 0
    found = ours("unet_ddpm", tmp_path)
    np.testing.assert_allclose(found["output"], stored("unet_ddpm")["output"], atol=1e-4)


def test_several_files_with_an_index_are_one(tmp_path):
    folder = tmp_path / "theirs"
    write_pretrained("kl_plain", folder)
    whole = load_file(folder / WEIGHTS)
    names = sorted(whole)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, keys in parts.items():
        save_file({key: whole[key] for key in keys}, folder / file)
    index = {"weight_map": {key: file for file, keys in parts.items() for key in keys}}
    (folder / WEIGHTS).unlink()
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    _, tensors = read_folder(folder)
    assert set(tensors) == set(whole)
    outside = {"weight_map": dict.fromkeys(names, "../a.safetensors")}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(outside))
    with pytest.raises(CheckpointError, match="no weight_map of file names"):
        read_folder(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"beta_schedule": "sigmoid"}, "beta_schedule: 'sigmoid'"),
        ({"prediction_type": "flow"}, "prediction_type: 'flow'"),
        ({"trained_betas": [0.1]}, "trained_betas"),
        ({"num_train_timesteps": 0.5}, "num_train_timesteps: 0.5; a whole number"),
        ({"variance_type": "learned"}, "variance_type: 'learned'"),
        ({"use_flow_sigmas": True}, "use_flow_sigmas: True; False is required"),
        ({"clip_sample_range": 2.0}, "clip_sample_range: 2.0"),
        ({"_class_name": "EDMEulerScheduler"}, "_class_name: 'EDMEulerScheduler'; one of DDPM"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, "shift: 3.0"),
    ],
)
def test_schedulers_that_are_not_understood_are_refused(config, message):
    with pytest.raises(CheckpointError, match=message):
        read_scheduler({"_class_name": "DDIMScheduler", **config})


@pytest.mark.parametrize(
    ("name", "clip", "beta_start"),
    [
        ("DDPMScheduler", True, 1e-4),
        ("EulerDiscreteScheduler", False, 1e-4),
        ("HeunDiscreteScheduler", False, 0.00085),
    ],
)
def test_what_a_scheduler_does_not_say_is_its_own_default(name, clip, beta_start):
    found = read_scheduler({"_class_name": name})
    assert found["clip"] is clip
    assert found["beta_start"] == beta_start


def test_what_is_imported_has_its_family_s_own_defaults(imported):
    for case, decay in (("vq_embed_dim", 0.99), ("unet_ddpm", 0.999)):
        config = json.loads((imported(case) / "w" / "config.json").read_text())
        assert config["train"]["ema_decay"] == decay


def test_an_autoencoder_that_does_not_say_has_the_scale_of_before(imported, tmp_path):
    write_pretrained("kl_plain", tmp_path / "theirs")
    path = tmp_path / "theirs" / "config.json"
    config = json.loads(path.read_text())
    config.pop("scaling_factor", None)
    path.write_text(json.dumps(config))
    line = ["import", "--from", str(tmp_path / "theirs"), "--workdir", str(tmp_path / "w")]
    assert main(line) == 0
    assert main(["export", "--workdir", str(tmp_path / "w"), "--to", str(tmp_path / "back")]) == 0
    back = json.loads((tmp_path / "back" / "config.json").read_text())
    assert back["scaling_factor"] == pytest.approx(0.18215)
    assert back["shift_factor"] == 0.25


def test_codes_of_another_first_stage_are_not_taken_for_pixels(tmp_path, capsys):
    pipe = tmp_path / "pipe"
    write_pretrained("unet_ddpm", pipe / "unet")
    (pipe / "vqvae").mkdir()
    assert main(["import", "--from", str(pipe), "--workdir", str(tmp_path / "w")]) == 4
    assert "vqvae: the model is of its codes" in capsys.readouterr().err


def test_another_number_of_steps_comes_and_goes(tmp_path):
    """Improved DDPM counts 4,000 of them; the network is told the number of the step."""
    pipe, work = tmp_path / "pipe", tmp_path / "w"
    write_pretrained("unet_ddpm", pipe / "unet")
    (pipe / "scheduler").mkdir()
    scheduler = {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": 4000,
        "beta_schedule": "squaredcos_cap_v2",
    }
    path = pipe / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(scheduler))
    assert main(["import", "--from", str(pipe), "--workdir", str(work)]) == 0
    config = json.loads((work / "config.json").read_text())
    assert config["diffusion"]["num_steps"] == 4000
    assert config["model"]["time_scale"] == 4000
    # What the network is told at the time (i + 1) / T is what theirs is told at the step i.
    given = inputs("unet_ddpm")
    values = {name: tuple(x) if isinstance(x, list) else x for name, x in flatten(config).items()}
    x, t = last(given["sample"]), jnp.asarray((given["timestep"] + 1) / 4000, jnp.float32)
    network = make_network(values, x.shape[1:])
    output = network.apply({"params": load_weights(work).weights.params["net"]}, x, t)
    expected = stored("unet_ddpm")["output"]
    np.testing.assert_allclose(np.moveaxis(np.asarray(output), -1, 1), expected, atol=1e-4)
    assert main(["export", "--workdir", str(work), "--to", str(tmp_path / "again")]) == 0
    again = json.loads((tmp_path / "again/scheduler/scheduler_config.json").read_text())
    assert {name: again[name] for name in scheduler} == scheduler


@pytest.mark.nightly
def test_each_channel_s_own_scale_comes_and_goes(imported, tmp_path):
    """As a first stage that was trained here has it, and diffusers' pipelines understand."""
    change(
        tmp_path / "theirs",
        "kl_plain",
        scaling_factor=1.0,
        latents_mean=[0.5, -1.0, 0.0],
        latents_std=[2.0, 0.5, 1.0],
    )
    work = tmp_path / "w"
    assert main(["import", "--from", str(tmp_path / "theirs"), "--workdir", str(work)]) == 0
    saved = load_weights(work)
    image = jnp.zeros((1, 8, 8, 3), jnp.uint8)
    codes = saved.experiment.model.latents.encode(saved.weights, image, {})
    plain = load_weights(imported("kl_plain") / "w")
    own = description("kl_plain")["config"]
    before = plain.experiment.model.latents.encode(plain.weights, image, {})
    before = before / own["scaling_factor"] + own["shift_factor"]  # z = scale (codes - shift)
    mean, deviation = jnp.array([0.5, -1.0, 0.0]), jnp.array([2.0, 0.5, 1.0])
    expected = (before - mean[None, None, None]) / deviation[None, None, None]
    np.testing.assert_allclose(codes, expected, rtol=1e-4, atol=1e-4)
    assert main(["export", "--workdir", str(work), "--to", str(tmp_path / "again")]) == 0
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    np.testing.assert_allclose(config["latents_mean"], mean, atol=1e-6)
    np.testing.assert_allclose(config["latents_std"], deviation, rtol=1e-6)


def test_a_pipeline_that_cannot_be_imported_leaves_nothing_in_the_way(tmp_path, capsys):
    pipe = tmp_path / "pipe"
    write_pretrained("condition_sd15", pipe / "unet")
    write_pretrained("kl_sd", pipe / "vae")  # its codes are 4x4, and not the 8x8 that are modeled
    (pipe / "scheduler").mkdir()
    scheduler = pipe / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps({"_class_name": "PNDMScheduler"}))
    line = ["import", "--from", str(pipe), "--workdir", str(tmp_path / "w")]
    for _ in range(2):
        assert main(line) == 4
        assert "models latents of (8, 8, 4), but those of" in capsys.readouterr().err
    assert not (tmp_path / "w" / "stage1").exists()


def test_the_classes_are_the_five():
    assert {kind for kind, _ in CASES.values()} == {
        "UNet2DModel",
        "UNet2DConditionModel",
        "AutoencoderKL",
        "VQModel",
        "DiTTransformer2DModel",
    }
    with pytest.raises(CheckpointError, match="_class_name: 'None'"):
        read_architecture({})


@pytest.mark.nightly
def test_losses_and_gradients_go_through_imported_weights(imported):
    saved = load_weights(imported("unet_classes") / "w")
    model, shape = saved.experiment.model, tuple(saved.config["data"]["shape"])
    batch = {"image": jnp.zeros((2, *shape), jnp.uint8), "label": jnp.array([0, 4])}
    keys = rng.per_example(jax.random.key(0), 0, 2)
    context = Context(jnp.int32(0), LOCAL, train=False)
    value, _ = model.losses["diffusion"].fn(saved.weights, batch, keys, context)
    assert np.isfinite(value)


@pytest.mark.parity
@pytest.mark.parametrize("name", CASES)
def test_stored_outputs_are_what_diffusers_computes_today(name):
    for key, x in run_diffusers(name).items():
        np.testing.assert_allclose(x, stored(name)[key], atol=1e-5, err_msg=key)


@pytest.mark.parity
@pytest.mark.parametrize("name", CASES)
def test_diffusers_loads_what_was_exported(name, imported, tmp_path):
    from tests.interop.diffusers_models import call

    assert (
        main(["export", "--workdir", str(imported(name) / "w"), "--to", str(tmp_path / "x")]) == 0
    )
    folder = tmp_path / "x" / folder_of(name)
    for key, x in call(load_with_diffusers(folder), name).items():
        np.testing.assert_allclose(x, stored(name)[key], atol=1e-5, err_msg=key)


def test_weights_that_are_there_in_half_precision_alone_are_taken(tmp_path, capsys):
    write_pretrained("unet_ddpm", tmp_path / "theirs")
    (name,) = (tmp_path / "theirs").glob("*.safetensors")
    half = {key: x.astype(np.float16) for key, x in load_file(name).items()}
    save_file(half, name.with_name("diffusion_pytorch_model.fp16.safetensors"))
    name.unlink()
    line = ["import", "--from", str(tmp_path / "theirs"), "--workdir", str(tmp_path / "w")]
    assert main(line) == 0, capsys.readouterr().err
