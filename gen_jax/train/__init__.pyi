from gen_jax.train import (
    checkpoint as checkpoint,
    engines as engines,
    integrity as integrity,
    loop as loop,
    moments as moments,
    optimizers as optimizers,
    profiling as profiling,
    rules as rules,
    sharding as sharding,
    state as state,
    step as step,
    writer as writer,
)
