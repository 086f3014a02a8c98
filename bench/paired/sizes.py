"""Sizes of the tasks, the same in both libraries."""

UNET = {"widths": (32, 64, 64), "blocks": 2, "groups": 8, "attention": (16,)}  # 1.6 M parameters
CIFAR = {
    "widths": (128, 256, 256, 256),
    "blocks": 2,
    "groups": 32,
    "attention": (16,),
}  # the paper's
DIT = {"patch": 2, "width": 192, "depth": 6, "heads": 3}
GPT = {"categories": 512, "width": 128, "depth": 6, "heads": 4}
VQVAE = {"channels": 128, "hidden": 32, "blocks": 2, "dim": 64, "codes": 512}
VAE_WIDTHS = (200, 200)


def decoding_of():
    """List lengths and batches of decoding."""
    return [(length, batch) for length in (64, 256, 784) for batch in (1, 8, 64)]
