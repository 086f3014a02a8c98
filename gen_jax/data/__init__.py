"""Image sources and the input pipeline: uint8 in, uint8 out, in a stateless order."""

from gen_jax.data.feeding import feed, read_in_time
from gen_jax.data.pipeline import (
    batch_of,
    examples_of,
    ordered_batches,
    spread_indices,
    train_batches,
)
from gen_jax.data.sources import (
    Source,
    beside,
    hold_out,
    named_by,
    open_source,
    with_prompts,
)

__all__ = [
    "Source",
    "batch_of",
    "beside",
    "examples_of",
    "feed",
    "hold_out",
    "named_by",
    "open_source",
    "ordered_batches",
    "read_in_time",
    "spread_indices",
    "train_batches",
    "with_prompts",
]
