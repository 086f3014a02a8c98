"""Random augmentation of whole uint8 batches, a pure function of (seed, step, row)."""

import numpy as np

__all__ = ["augment"]


def augment(
    images: np.ndarray,
    *,
    seed: int,
    step: int,
    rows: np.ndarray,
    flip: bool,
    crop: int,
) -> np.ndarray:
    """Flip images left to right at random, and shift them by reflection padding and cropping.

    Args:
        images: uint8 [n, H, W, C], or films [n, F, H, W, C], whose frames are moved alike.
        seed: of the run.
        step: of the global batch.
        rows: int [n], where each of them stands in the global batch; a row's luck does not depend
            on which hosts share the batch.
        flip: whether each image is mirrored with probability one half.
        crop: largest shift in pixels, in each direction.

    Returns:
        uint8 of the same shape.
    """
    if not flip and not crop:
        return images
    height, width = images.shape[-3:-1]
    # Raw bits, because NumPy promises that these streams never change between versions.
    bits = np.random.Philox(key=np.array([seed, step], np.uint64)).random_raw((max(rows) + 1, 3))
    bits = bits[rows]
    if crop:
        shift = (bits[:, :2] % np.uint64(2 * crop + 1)).astype(np.int64).tolist()
        around = ((0, 0),) * (images.ndim - 3) + ((crop, crop), (crop, crop), (0, 0))
        padded = np.pad(images, around, mode="reflect")
        images = np.empty_like(images)
        for i, (row, column) in enumerate(shift):  # whole rows at a time: faster than one gather
            images[i] = padded[i, ..., row : row + height, column : column + width, :]
    if flip:
        mirrored = (bits[:, 2] >> np.uint64(63)).astype(bool)
        which = mirrored.reshape(-1, *(1 for _ in images.shape[1:]))
        images = np.where(which, images[..., ::-1, :], images)
    return images
