"""Make npz files of emoji in two styles from packages of npm, split by base emoji.

    npm pack emoji-datasource-twitter@16.0.0 emoji-datasource-google@16.0.0
    python experiments/translation/emoji.py --from . --out . --size 32

``emoji_google.npz`` holds Google's as images and Twitter's as their sources, for pix2pix;
``emoji_twitter.npz`` Twitter's alone, for CycleGAN. Captions are the names in Unicode. Skin tones
of one emoji are on one side of the split: else what is tested would have been seen in training.
Licenses: Twemoji CC-BY 4.0, Noto Emoji Apache-2.0; the pictures are not ours to ship.
"""

import argparse
import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

PACKAGES = {
    "twitter": "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
    "google": "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
}
HELD_OUT = 190  # base emoji


def read(folder, style):
    path = folder / f"emoji-datasource-{style}-16.0.0.tgz"
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != PACKAGES[style]:
        raise SystemExit(f"{path}: sha256 {digest}; {PACKAGES[style]} is required")
    prefix, pictures, table = f"package/img/{style}/64/", {}, None
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            if member.name == "package/emoji.json":
                table = json.load(tar.extractfile(member))
            elif member.name.startswith(prefix):
                pictures[member.name.removeprefix(prefix)] = tar.extractfile(member).read()
    return pictures, table


def pixels(data, size):
    """Put a picture on white."""
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    return np.asarray(white.convert("RGB").resize((size, size), Image.Resampling.LANCZOS))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--from", dest="folder", type=Path, default=Path())
    parser.add_argument("--out", type=Path, default=Path())
    parser.add_argument("--size", type=int, default=32)
    given = parser.parse_args()
    (twitter, table), (google, _) = (read(given.folder, style) for style in ("twitter", "google"))
    rows, names = [], []
    for base, emoji in enumerate(table):
        skins = emoji.get("skin_variations", {}).values()
        for name in (emoji["image"], *(skin["image"] for skin in skins)):
            if name in twitter and name in google:
                rows.append((base, name, emoji["category"]))
                names.append(emoji["name"].lower())
    categories = sorted({category for *_, category in rows})
    bases = np.array([base for base, *_ in rows])
    held = np.random.default_rng(0).permutation(np.unique(bases))[:HELD_OUT]
    test = np.isin(bases, held)
    labels = np.array([categories.index(category) for *_, category in rows], np.int32)
    images = {
        style: np.stack([pixels(found[name], given.size) for _, name, _ in rows])
        for style, found in (("twitter", twitter), ("google", google))
    }
    parts = {"train": ~test, "test": test}
    both = {}
    for split, part in parts.items():
        both |= {f"x_{split}": images["google"][part], f"source_{split}": images["twitter"][part]}
        both |= {f"y_{split}": labels[part], f"captions_{split}": np.array(names)[part]}
    np.savez_compressed(given.out / "emoji_google.npz", **both)
    alone = {f"x_{split}": images["twitter"][part] for split, part in parts.items()}
    np.savez_compressed(given.out / "emoji_twitter.npz", **alone)
    print(f"{(~test).sum()} training and {test.sum()} test images, {len(categories)} categories")


if __name__ == "__main__":
    main()
