"""What transformers' and diffusers' text models compute, for tiny ones whose weights NumPy draws.

``python -m tests.interop.text_models`` writes ``text_models.npz`` (outputs) and
``text_models.json`` (the shapes of the weights, and the configs that the libraries save); it needs
torch, transformers and diffusers. Shapes are torch's.
"""

import json
import re
import tempfile
from pathlib import Path

import numpy as np

from tests.interop.diffusers_models import CASES, description, draw, weights, write_pretrained

FILE = Path(__file__).with_suffix(".npz")
DESCRIPTIONS = Path(__file__).with_suffix(".json")
SIGNS = [chr(i) for i in [*range(33, 127), *range(161, 173), *range(174, 256)]]
SIGNS += [chr(256 + i) for i in range(256 - len(SIGNS))]
MERGES = [("r", "e"), ("re", "d</w>"), ("c", "i"), ("ci", "r"), ("cir", "c"), ("l", "e</w>")]
PIECES = [
    *SIGNS,
    *(f"{sign}</w>" for sign in SIGNS),
    *(first + second for first, second in MERGES),
    "<|startoftext|>",
    "<|endoftext|>",
]
LENGTH = 9
PROMPTS = ["a red circle", ""]
STEPS = 5
TEXT = {
    "vocab_size": len(PIECES),
    "hidden_size": 12,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": LENGTH,
    "bos_token_id": len(PIECES) - 2,
    "eos_token_id": len(PIECES) - 1,
    "pad_token_id": len(PIECES) - 1,
}
IMAGE = {
    "hidden_size": 16,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}


def noise():
    return draw("text/latents", (2, 4, 8, 8)).astype(np.float32)


def pixels():
    return np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)


def write_tokenizer(folder):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({p: i for i, p in enumerate(PIECES)}))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in MERGES)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")


def write_model(name, folder):
    """Write a case as transformers does, without transformers."""
    from safetensors.numpy import save_file

    folder, case = Path(folder), json.loads(DESCRIPTIONS.read_text())[name]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(case["config"]))
    save_file(drawn(case["shapes"]), folder / "model.safetensors")


def drawn(shapes):
    """Draw weights; scalars are as large as they usually are."""
    some = {name: shape for name, shape in shapes.items() if "position_ids" not in name}
    made = weights({name: shape for name, shape in some.items() if shape})
    return made | {n: np.array(2.0, np.float32) for n, shape in some.items() if not shape}


def write_pipeline(folder):
    """Write a pipeline as Stable Diffusion 1's."""
    folder = Path(folder)
    write_pretrained("condition_sd15", folder / "unet")
    write_pretrained("kl_sd", folder / "vae")
    path = folder / "vae" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sample_size": 32}))
    write_model("text", folder / "text_encoder")
    write_tokenizer(folder / "tokenizer")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))


def stored():
    with np.load(FILE) as file:
        return dict(file)


def ids_of(prompts):
    """Encode with the tokenizer of transformers."""
    from transformers import CLIPTokenizer

    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(folder)
        tokenizer = CLIPTokenizer.from_pretrained(folder)
        ends = {"padding": "max_length", "truncation": True, "max_length": LENGTH}
        return np.asarray(tokenizer(list(prompts), **ends)["input_ids"])


def load(model):
    import torch

    shapes = {key: tuple(x.shape) for key, x in model.state_dict().items()}
    state = {key: torch.from_numpy(np.asarray(x)) for key, x in drawn(shapes).items()}
    missing = model.load_state_dict(state, strict=False)
    assert all("position_ids" in key for key in missing.missing_keys), missing
    return model.eval(), shapes


def main():
    import diffusers
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel

    descriptions, arrays = {}, {}
    text, shapes = load(CLIPTextModel(CLIPTextConfig(**TEXT)))
    config = {**text.config.to_dict(), "model_type": "clip_text_model"}
    descriptions["text"] = {"shapes": shapes, "config": plain(config)}
    ids = torch.from_numpy(ids_of(PROMPTS))
    clip, shapes = load(CLIPModel(CLIPConfig(text_config=TEXT, vision_config=IMAGE,
                                             projection_dim=8)))  # fmt: skip
    descriptions["clip"] = {"shapes": shapes, "config": plain(clip.config.to_dict())}
    mean = torch.tensor((0.48145466, 0.4578275, 0.40821073))[None, :, None, None]
    std = torch.tensor((0.26862954, 0.26130258, 0.27577711))[None, :, None, None]
    x = (torch.from_numpy(pixels()).permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.no_grad():
        vectors = text(ids).last_hidden_state
        made = clip(input_ids=ids, pixel_values=x)
        arrays |= {
            "ids": ids.numpy(),
            "vectors": vectors.numpy(),
            "image": made.image_embeds.numpy(),
            "text": made.text_embeds.numpy(),
            "logits": made.logits_per_image.numpy(),
        }
        kind, options = CASES["condition_sd15"]
        unet = getattr(diffusers, kind)(**options)
        case = description("condition_sd15")
        unet.load_state_dict({k: torch.from_numpy(v) for k, v in weights(case["shapes"]).items()})
        scheduler = diffusers.DDIMScheduler(
            **{k: v for k, v in SCHEDULER.items() if not k.startswith("_")}
        )
        scheduler.set_timesteps(STEPS)
        z = torch.from_numpy(noise())
        both = torch.cat([vectors[1:].expand(2, -1, -1), vectors[:1].expand(2, -1, -1)])
        for t in scheduler.timesteps:
            without, with_it = unet.eval()(torch.cat([z, z]), t, both).sample.chunk(2)
            z = scheduler.step(without + 7.5 * (with_it - without), t, z).prev_sample
        arrays["latents"] = z.numpy()
        arrays["times"] = scheduler.timesteps.numpy()
    np.savez_compressed(FILE, **arrays)
    DESCRIPTIONS.write_text(
        re.sub(r"\[[^][]*\]", lambda m: " ".join(m[0].split()), json.dumps(descriptions, indent=1))
        + "\n"
    )


def plain(config):
    """Leave what is a machine's own out of a config."""
    kept = (bool, int, float, str, list, dict, type(None))
    return {key: value for key, value in config.items() if isinstance(value, kept)}


if __name__ == "__main__":
    main()
