"""What diffusers' image models compute, for tiny models whose weights NumPy draws.

``python -m tests.interop.diffusers_models`` writes ``diffusers_models.npz`` (the outputs) and
``diffusers_models.json`` (the shapes of the weights, and the config.json that diffusers saves); it
needs torch and diffusers, which ``make test-parity`` installs. The stored file holds their
versions. Everything is laid out as torch has it: channels first, kernels with the outputs first.
"""

import json
import math
import re
import tempfile
import zlib
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_suffix(".npz")
DESCRIPTIONS = Path(__file__).with_suffix(".json")
BATCH = 2
DENOISERS = {"UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel"}
TOKENS = 5  # the length of encoder_hidden_states
EMBEDDINGS = (
    "class_embedding.weight",
    "quantize.embedding.weight",
    "embedding_table.weight",
)  # looked up, not multiplied

# By how much kernels are scaled, beyond one over the root of their inputs. What adds up to what the
# norms see is small, so that the norms' epsilons show in the outputs; self-attention is sharp, so
# that its queries and keys do.
SMALL = 0.05
KERNELS = {
    r"(conv_in|conv2|attentions\.\d+\.to_out\.0|proj_out)": SMALL,
    r"proj_in": 2 * SMALL,
    r"attn\d\.to_out\.0": 0.2,
    r"attn\d\.to_[qk]": 2,
}
BIASES = {r"(conv_shortcut|samplers\.0\.conv)": SMALL}  # of what passes the small sum on

CASES: dict[str, tuple[str, dict]] = {
    # As google/ddpm-cifar10-32, whose attention has one head, and whose levels differ in width so
    # that no skip can be taken for another.
    "unet_ddpm": (
        "UNet2DModel",
        {
            "sample_size": 8,
            "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
            "block_out_channels": [8, 16, 24],
            "layers_per_block": 2,
            "norm_num_groups": 4,
            "norm_eps": 1e-6,
            "flip_sin_to_cos": False,
            "freq_shift": 1,
            "downsample_padding": 0,
            "attention_head_dim": None,
        },
    ),
    # The defaults for the time embedding and the padding; two to four heads, by the width.
    "unet_defaults": (
        "UNet2DModel",
        {
            "sample_size": 8,
            "in_channels": 3,
            "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
            "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
            "block_out_channels": [8, 16, 24],
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "attention_head_dim": 4,
        },
    ),
    "unet_classes": (
        "UNet2DModel",
        {
            "sample_size": 8,
            "in_channels": 1,
            "out_channels": 2,
            "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
            "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
            "block_out_channels": [8, 16],
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "attention_head_dim": 8,
            "num_class_embeds": 5,
        },
    ),
    # As guided diffusion, which resamples inside residual blocks; here too the attention in the
    # middle has no norm where the embedding is adaptive.
    "unet_adm": (
        "UNet2DModel",
        {
            "sample_size": 8,
            "out_channels": 6,
            "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
            "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
            "block_out_channels": [8, 16, 24],
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "attention_head_dim": 4,
            "resnet_time_scale_shift": "scale_shift",
            "downsample_type": "resnet",
            "upsample_type": "resnet",
        },
    ),
    # The time embedding's activation, and the last one, stay SiLU.
    "unet_convolutional": (
        "UNet2DModel",
        {
            "sample_size": 8,
            "down_block_types": ["DownBlock2D"] * 3,
            "up_block_types": ["UpBlock2D"] * 3,
            "block_out_channels": [8, 16, 16],
            "layers_per_block": 2,
            "norm_num_groups": 4,
            "act_fn": "gelu",
            "add_attention": False,
        },
    ),
    # As Stable Diffusion 1.5, where attention_head_dim is the number of heads.
    "condition_sd15": (
        "UNet2DConditionModel",
        {
            "sample_size": 8,
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
            "block_out_channels": [8, 16],
            "layers_per_block": 2,
            "norm_num_groups": 4,
            "cross_attention_dim": 12,
            "attention_head_dim": 2,
        },
    ),
    # As Stable Diffusion 2, with its number of heads for each level.
    "condition_sd2": (
        "UNet2DConditionModel",
        {
            "sample_size": 8,
            "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
            "block_out_channels": [8, 16, 24],
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "cross_attention_dim": 12,
            "attention_head_dim": [2, 4, 6],
            "use_linear_projection": True,
            "transformer_layers_per_block": 2,
        },
    ),
    "condition_classes": (
        "UNet2DConditionModel",
        {
            "sample_size": 8,
            "in_channels": 3,
            "out_channels": 3,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
            "block_out_channels": [8, 16],
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "cross_attention_dim": 12,
            "attention_head_dim": 4,
            "num_class_embeds": 5,
        },
    ),
    # As InstructPix2Pix, which sees the codes of the image that it changes beside the noisy ones.
    "condition_source": (
        "UNet2DConditionModel",
        {
            "sample_size": 8,
            "in_channels": 8,
            "down_block_types": ["CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D"],
            "block_out_channels": [8],
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "cross_attention_dim": 12,
            "attention_head_dim": 2,
        },
    ),
    # As Stable Diffusion's network for inpainting: the mask and the codes of what is known.
    "condition_masked": (
        "UNet2DConditionModel",
        {
            "sample_size": 8,
            "in_channels": 9,
            "down_block_types": ["CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D"],
            "block_out_channels": [8],
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "cross_attention_dim": 12,
            "attention_head_dim": 2,
        },
    ),
    # As SDXL, with layers by level and what it adds to the embedding of time.
    "condition_sdxl": (
        "UNet2DConditionModel",
        {
            "sample_size": 8,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
            "block_out_channels": [8, 12],
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "cross_attention_dim": 12,
            "attention_head_dim": [2, 3],
            "use_linear_projection": True,
            "transformer_layers_per_block": [1, 2],
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 10,
        },
    ),
    "dit": (
        "DiTTransformer2DModel",
        {
            "sample_size": 8,
            "in_channels": 3,
            "out_channels": 6,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "num_layers": 3,
            "num_embeds_ada_norm": 5,
        },
    ),
    "kl_sd": (
        "AutoencoderKL",
        {
            "sample_size": 16,
            "down_block_types": ["DownEncoderBlock2D"] * 3,
            "up_block_types": ["UpDecoderBlock2D"] * 3,
            "block_out_channels": [8, 16, 24],
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "latent_channels": 4,
        },
    ),
    "kl_plain": (
        "AutoencoderKL",
        {
            "sample_size": 8,
            "down_block_types": ["DownEncoderBlock2D"] * 2,
            "up_block_types": ["UpDecoderBlock2D"] * 2,
            "block_out_channels": [8, 16],
            "layers_per_block": 2,
            "norm_num_groups": 4,
            "latent_channels": 3,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
            "scaling_factor": 1.5,
            "shift_factor": 0.25,
            "mid_block_add_attention": False,
        },
    ),
    "vq_defaults": (
        "VQModel",
        {
            "sample_size": 8,
            "block_out_channels": [16],
            "norm_num_groups": 4,
            "latent_channels": 3,
            "num_vq_embeddings": 16,
        },
    ),
    "vq_embed_dim": (
        "VQModel",
        {
            "sample_size": 16,
            "down_block_types": ["DownEncoderBlock2D"] * 2,
            "up_block_types": ["UpDecoderBlock2D"] * 2,
            "block_out_channels": [8, 16],
            "layers_per_block": 2,
            "norm_num_groups": 4,
            "latent_channels": 4,
            "vq_embed_dim": 3,
            "num_vq_embeddings": 24,
        },
    ),
}


def draw(key, shape):
    """Draw normal numbers that depend on a name and on nothing else."""
    return np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Draw the weights of a model, on scales that let every one of them show in the outputs."""
    values = {}
    for name, shape in shapes.items():
        # Of what every layer has a copy of, all are the first's.
        key = re.sub(r"transformer_blocks\.\d+\.norm1\.emb", "transformer_blocks.0.norm1.emb", name)
        layer, _, kind = key.rpartition(".")
        value = draw(key, tuple(shape))
        if kind == "bias":
            value = min(0.1, scale_of(layer, KERNELS | BIASES)) * value
        elif len(shape) == 1:  # of a norm
            value = 1 + 0.1 * value
        elif key.endswith(EMBEDDINGS):
            value = 0.5 * value
        else:
            value = scale_of(layer, KERNELS) * value / math.sqrt(math.prod(shape[1:]))
            if lacks_norm(layer, shapes):
                value = value / SMALL
        values[name] = value.astype(np.float32)
    return values


def scale_of(layer, scales):
    return next((by for ending, by in scales.items() if re.search(ending + "$", layer)), 1)


def lacks_norm(layer, shapes):
    """Tell whether this is a projection of an attention block without a norm of its own."""
    block, _, name = layer.rpartition(".")
    of_block = name in {"to_q", "to_k", "to_v"} and f"{layer}.bias" in shapes
    return of_block and f"{block}.group_norm.weight" not in shapes


def inputs(name: str) -> dict[str, np.ndarray]:
    """Give what a case's model is called with."""
    kind, options = CASES[name]
    size, channels = options["sample_size"], options.get("in_channels")
    given = {}
    if kind in DENOISERS:
        channels = channels or {"UNet2DModel": 3, "UNet2DConditionModel": 4}[kind]
        given["timestep"] = np.array([7, 613])
        if "num_class_embeds" in options or "num_embeds_ada_norm" in options:
            given["class_labels"] = np.array([3, 1])
        if kind == "UNet2DConditionModel":
            shape = (BATCH, TOKENS, options["cross_attention_dim"])
            given["encoder_hidden_states"] = draw(f"{name}/tokens", shape).astype(np.float32)
        if "addition_embed_type" in options:
            given["text_embeds"] = draw(f"{name}/text", (BATCH, 10)).astype(np.float32)
            given["time_ids"] = np.array([[8, 8, 0, 0, 8, 8], [16, 12, 2, 4, 8, 8]], np.float32)
    elif kind == "AutoencoderKL":
        small = size // 2 ** (len(options["block_out_channels"]) - 1)
        shape = (BATCH, options["latent_channels"], small, small)
        given["z"] = draw(f"{name}/z", shape).astype(np.float32)
    shape = (BATCH, channels or 3, size, size)
    return {"sample": draw(f"{name}/sample", shape).astype(np.float32)} | given


def build(name: str):
    """Give diffusers' model of a case, with the weights drawn here."""
    import diffusers
    import torch

    kind, options = CASES[name]
    model = getattr(diffusers, kind)(**options)
    drawn = weights(shapes_of(model))
    state = {key: torch.from_numpy(value) for key, value in drawn.items()}
    model.load_state_dict(state, strict=True)
    return model.eval()


def shapes_of(model):
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def call(model, name: str) -> dict[str, np.ndarray]:
    """Call a torch model on a case's inputs."""
    import torch

    kind, _ = CASES[name]
    given = {key: torch.from_numpy(value) for key, value in inputs(name).items()}
    with torch.no_grad():
        if kind in DENOISERS:
            added = {key: given.pop(key) for key in ("text_embeds", "time_ids") if key in given}
            more = {"added_cond_kwargs": added} if added else {}
            x = given.pop("sample")
            outputs = {"output": model(x, **given, **more).sample}
        elif kind == "AutoencoderKL":
            latent = model.encode(given["sample"]).latent_dist
            decoded = model.decode(given["z"]).sample
            outputs = {"mean": latent.mean, "logvar": latent.logvar, "decoded": decoded}
        else:
            latents = model.encode(given["sample"]).latents
            _, _, (_, _, codes) = model.quantize(latents)
            outputs = {
                "latents": latents,
                "codes": codes.reshape(len(latents), *latents.shape[2:]),
                "decoded": model.decode(latents).sample,
            }
    return {key: value.numpy() for key, value in outputs.items()}


def run_diffusers(name: str) -> dict[str, np.ndarray]:
    """Build a case's model with diffusers and call it."""
    return call(build(name), name)


def describe(model):
    """Give a model's class, the shapes of its weights, and the configuration diffusers saves."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        config = json.loads((Path(folder) / "config.json").read_text())
    return {"class": type(model).__name__, "shapes": shapes_of(model), "config": config}


def stored(name: str) -> dict[str, np.ndarray]:
    """Give the outputs that the file holds for a case."""
    with np.load(FILE) as file:
        start = f"{name}/"
        return {key.removeprefix(start): file[key] for key in file.files if key.startswith(start)}


def description(name: str) -> dict:
    """Give the class, the shapes and the config of a case from the stored file."""
    return json.loads(DESCRIPTIONS.read_text())[name]


def write_pretrained(name: str, folder) -> None:
    """Write a case's model into a folder as diffusers does, without diffusers."""
    from safetensors.numpy import save_file

    case, folder = description(name), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(case["config"], indent=2, sort_keys=True) + "\n")
    path = folder / "diffusion_pytorch_model.safetensors"
    save_file(weights(case["shapes"]), path, metadata={"format": "pt"})


def load_with_diffusers(folder):
    """Load a folder into the torch model that its config.json names."""
    import diffusers

    kind = json.loads((Path(folder) / "config.json").read_text())["_class_name"]
    return getattr(diffusers, kind).from_pretrained(folder, low_cpu_mem_usage=False).eval()


def main():
    import diffusers
    import torch

    arrays = {
        "versions": np.array([f"diffusers {diffusers.__version__}", f"torch {torch.__version__}"])
    }
    descriptions = {}
    for name in CASES:
        model = build(name)
        arrays |= {f"{name}/{key}": value for key, value in call(model, name).items()}
        descriptions[name] = describe(model)
    np.savez_compressed(FILE, **arrays)
    text = json.dumps(descriptions, indent=1)
    text = re.sub(r"\[[^][]*\]", lambda match: " ".join(match[0].split()), text)  # a list, a line
    DESCRIPTIONS.write_text(text + "\n")


if __name__ == "__main__":
    main()
