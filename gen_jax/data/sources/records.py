"""TFDS datasets, prepared as array_record."""

import numpy as np

from gen_jax.data.decode import fit_image, to_eight_bits
from gen_jax.data.sources.source import Examples, Source
from gen_jax.data.tfds import open_records
from gen_jax.errors import DataError

__all__ = ["open_tfds"]


_TEXTS = ("caption", "text")  # features that hold a text, by name


def open_tfds(
    dataset: str,
    split: str,
    image_shape: tuple[int, int, int],
    data_dir: str | None,
    *,
    sixteen_bit: bool = False,
) -> Source:
    """Open a split of a prepared TFDS dataset."""
    name = f"tfds:{dataset}/{split}"
    records, num_classes, fingerprint = open_records(dataset, split, data_dir)

    def read(indices: np.ndarray) -> Examples:
        from PIL import Image

        images, labels = [], []
        for index in indices:
            where = f"{name}[{index}]"
            try:
                record = records[int(index)]
            except Exception as error:  # whatever the reader of records or of images raises
                raise DataError(f"{where}: cannot be read: {error}") from error
            array = np.asarray(record["image"])
            if array.dtype == np.uint16 and sixteen_bit:
                array = to_eight_bits(array)
            channels = (1, 3, 4) if image_shape[-1] == 4 else (1, 3)
            if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] not in channels:
                known = "1, 3 or 4" if 4 in channels else "1 or 3"
                raise DataError(
                    f"{where}: image: got {array.dtype} {list(array.shape)}; uint8 "
                    f"[H, W, {known}] is required"
                )
            if array.shape != tuple(image_shape):
                picture = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
                array = fit_image(picture, image_shape, where)
            images.append(array)
            if num_classes is not None:
                label = np.asarray(record["label"])
                whole = label.shape == () and label.dtype.kind in "iu"
                if not (whole and 0 <= label < num_classes):
                    raise DataError(f"{where}: label: {label}; 0 to {num_classes - 1} is required")
                labels.append(label)
        examples = {"image": np.stack(images)}
        if num_classes is not None:
            examples["label"] = np.asarray(labels, np.int32)
        return examples

    told = next((key for key in _TEXTS if len(records) and key in records[0]), None)

    def captions(indices: np.ndarray) -> list[str]:
        texts = [records[int(index)][told] for index in indices]
        return [text.decode() if isinstance(text, bytes) else str(text) for text in texts]

    return Source(
        name=name,
        size=len(records),
        image_shape=image_shape,
        num_classes=num_classes,
        in_memory=False,
        fingerprint=fingerprint,
        read=read,
        captions=None if told is None else captions,
        captions_from=told or "",
    )
