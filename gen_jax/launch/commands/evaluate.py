"""``gen-jax evaluate``."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gen_jax.data import Source, ordered_batches, spread_indices
from gen_jax.errors import ConfigError, DataError
from gen_jax.evals.classification import Judgment, judge
from gen_jax.evals.coverage import coverage, kernel_distance, nearest
from gen_jax.evals.features import INCEPTION, NETWORKS, features_of, inception_features
from gen_jax.evals.frechet import bytes_of_distance, frechet_between
from gen_jax.evals.likelihood import MeanLogProb, bits_per_dim, mean_log_prob
from gen_jax.evals.losses import mean_losses
from gen_jax.files import png_bytes, write_file
from gen_jax.launch.build.sources import check_source, open_split
from gen_jax.launch.commands.facts import (
    measure_edits,
    measure_facts,
    measure_films,
    measure_own_facts,
)
from gen_jax.launch.commands.matching import (
    measure_embeddings,
    measure_matching,
    measure_prompts,
)
from gen_jax.launch.report.writing import write_report
from gen_jax.launch.runs.restore import Trained, load_trained, load_weights
from gen_jax.launch.runs.tokens import with_text
from gen_jax.launch.sampling.draw import Draw, conditions_from_data, draw_samples
from gen_jax.launch.sampling.request import as_flags
from gen_jax.pictures import grid

__all__ = ["run_evaluation"]

# Small test sets are seen several times, each time with other noise, until so many numbers were
# seen: of 8x8 digits 4,096 images.
MIN_LOSS_DRAWS = 4096 * 64
# Neighborhoods reach to this neighbor (Kynkäänniemi et al. 2019 took 3, Naeem et al. 2020 5).
NEIGHBOR = 5
MOST_PROMPTS = 600  # of each group, whose pictures are judged
_BY_BAYES = 2000  # images that a generative classifier is measured on
# Keeps the noise of densities apart from that of losses, whose keys are folded with small numbers.
_DENSITY = 0x0DE51


def run_evaluation(
    trained: Trained,
    workdir: Path,
    *,
    num: int,
    seed: int,
    batch_size: int,
    options: Mapping[str, Any],
    split: str = "test",
    likelihood_num: int | None = None,
    classifier: Path | None = None,
    networks: Sequence[str] = (),
    clip: Path | None = None,
) -> dict[str, Any]:
    """Measure the averaged weights, print a table, and write ``eval/<step>.json``.

    The loss is the model's own, on training and on held-out images. ``nats`` is -log p(x) of the
    held-out images, or the bound on it, where the model has a density; ``bits_per_dim`` is the same
    for each dimension, where the density is over 8-bit pixels, and ``bits_per_token`` for each
    token, where it is over those of a first stage. The Fréchet distance is in raw-pixel
    space, between ``num`` samples and the held-out images; beside it the same distance between
    as many training images and the held-out images says what a perfect model would get.

    Args:
        trained: a work directory's model.
        workdir: the work directory.
        num: samples for the Fréchet distance.
        seed: of the samples and of the loss's noise.
        batch_size: examples at once.
        options: the model's, for sampling and for its density.
        split: which images are the held-out ones: ``"test"``, ``"validation"`` or ``"train"``.
        likelihood_num: how many held-out images the density is measured on; by default all, or none
            where each of them takes many runs of the network.
        classifier: a work directory; its features give a further Fréchet distance, and its labels
            the share of samples that are of their class.
        networks: pretrained ones, of :data:`gen_jax.evals.features.NETWORKS`, whose features give
            one each; ``inception:PATH``, with the weights of 2015, gives FID and sFID. In the
            features of either also stand precision, recall, density, coverage and the kernel
            distance, and a picture shows samples above the nearest training images.
        clip: a work directory of images and texts, for how well samples match their prompts.

    Returns:
        What the file holds.

    Raises:
        DataError: if a split cannot be opened, or has a single image.
    """
    model = trained.experiment.model
    chosen = _options(trained, options)
    splits = {
        name: with_text(open_split(trained.config, name), trained.tokenizer, trained.config)
        for name in ("train", split)
    }
    for source in splits.values():
        if source.size < 2:
            raise DataError(f"{source.name}: a covariance needs at least 2 images, got 1")
        check_source(source, trained.experiment, trained.config)
    judged = None if classifier is None else _judge(classifier, trained)
    matcher = None if clip is None else _matcher(clip, trained)
    spaces = {} if judged is None else {"features": lambda images: judged(images).features}
    for network in networks:
        kind, _, place = network.partition(":")
        if kind == INCEPTION:
            spaces |= _fid(Path(place).expanduser())
        else:
            spaces[network] = _features(network, trained)
    if model.sampler is not None:
        _check_memory(splits, split, num)
    results: dict[str, Any] = {"step": trained.step, "seed": seed}
    results |= {f"option_{name}": value for name, value in sorted(options.items())}
    path = _path(trained, workdir, split)
    _keep(path, results)  # a folder that cannot be written is told of now, and not in hours
    for measure in (
        lambda: _losses(trained, splits, split, seed, batch_size),
        lambda: _density(
            trained, workdir, splits[split], split, seed, batch_size, chosen["density"],
            likelihood_num,
        ),
        lambda: {} if model.predict is None else _accuracy(trained, splits),
        lambda: {} if model.matching is None else measure_matching(trained, splits[split]),
    ):  # fmt: skip
        results |= measure()
        _keep(path, results)  # what comes next may take hours, and not end
    if model.sampler is None:
        return _write(trained, workdir, results, split)
    if model.sampler.gives == "vectors":
        draw = Draw(seed, chosen["sampler"], batch_size=batch_size)
        seeing = load_trained(workdir / "clip")
        results |= measure_embeddings(trained, seeing, draw, splits[split], num)
        return _write(trained, workdir, results, split)
    if any(source.stage1 for source in splits.values()):
        print("no Fréchet distance: the data holds codes; --data names images", flush=True)
        return _write(trained, workdir, results, split)
    draw = Draw(seed, chosen["sampler"], batch_size=batch_size)
    results |= measure_facts(trained, draw, min(num, MOST_PROMPTS))
    results |= measure_edits(trained, draw, min(num, MOST_PROMPTS))
    results |= measure_films(trained, draw, min(num, MOST_PROMPTS))
    results |= measure_own_facts(trained, draw, splits[split], min(num, MOST_PROMPTS))
    results |= (
        {} if matcher is None else measure_prompts(trained, matcher, draw, splits[split], num)
    )
    _keep(path, results)
    near = _path(trained, workdir, split).with_suffix(".nearest.png") if spaces else None
    results |= _distances(trained, splits, split, draw, num, judged, spaces, near)
    return _write(trained, workdir, results, split)


def _check_memory(splits: Mapping[str, Source], split: str, num: int) -> None:
    """Refuse distances for which memory will not do, before hours of sampling."""
    num, held_out = min(num, splits["train"].size), splits[split].size
    dim = math.prod(splits[split].image_shape)
    pixels = (2 * num + held_out) * dim  # samples, as many examples, and what is held out
    needed, free = pixels + bytes_of_distance(num, held_out, dim), _free_memory()
    if free is not None and needed > free:
        what = f"{needed / 2**30:.1f} GiB for {num} samples and {held_out} held-out images"
        raise ConfigError(
            f"--num: got {num}; the Fréchet distance takes {what}, and {free / 2**30:.1f} GiB of "
            "memory are free; fewer are required"
        )


def _free_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that this process may still take; None where Linux does not tell."""
    found = []
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        found += [int(x.split()[1]) * 1024 for x in lines if x.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):
        pass
    try:  # of a container
        limit, used = (
            (root / "sys/fs/cgroup" / name).read_text().strip()
            for name in ("memory.max", "memory.current")
        )
        found += [max(0, int(limit) - int(used))] if limit != "max" else []
    except (OSError, ValueError):
        pass
    return min(found, default=None)


def _options(trained: Trained, options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Share the options out between sampler and density, and see that they go together."""
    model = trained.experiment.model
    chosen: dict[str, dict[str, Any]] = {}
    for name, ability in (("sampler", model.sampler), ("density", model.density)):
        chosen[name] = {}
        if ability is None:
            continue
        chosen[name] = {key: x for key, x in options.items() if key in ability.options}
        told = {key for key, given in model.inputs.items() if given.needed}
        for key, fault in ability.faults(chosen[name], told).items():
            raise ConfigError(as_flags(f"--{key}: {fault}"))
    return chosen


def _losses(
    trained: Trained, splits: Mapping[str, Source], split: str, seed: int, batch_size: int
) -> dict[str, float]:
    results: dict[str, float] = {}
    for name, source in splits.items():
        size = min(source.size, splits[split].size)
        losses = mean_losses(
            trained.experiment.model,
            trained.weights,
            ordered_batches(source, min(batch_size, size), size),
            jax.random.key(seed),
            draws=max(1, MIN_LOSS_DRAWS // (size * math.prod(source.image_shape))),
        )
        results |= {f"{loss}_loss_{name}": value for loss, value in losses.items()}
    return results


def _distances(
    trained: Trained,
    splits: Mapping[str, Source],
    split: str,
    draw: Draw,
    num: int,
    judged: Callable[[np.ndarray], Judgment] | None,
    spaces: Mapping[str, Callable[[np.ndarray], np.ndarray]],
    near: Path | None,
) -> dict[str, Any]:
    """Draw samples, and measure how far they, and as many training images, are from the split."""
    model = trained.experiment.model
    results: dict[str, Any] = {}
    num = min(num, splits["train"].size)
    examples = _read(splits["train"], num)
    # As many samples of each class, and of each condition, as there are real images.
    cond = conditions_from_data(model, examples, every_class=False)
    samples = draw_samples(
        model, trained.weights, draw._replace(cond=cond), trained.mesh, num, progress=True
    )
    held_out = _read(splits[split])["image"]
    if judged is not None and "label" in cond:
        results["class_accuracy_samples"] = judged(samples).accuracy(cond["label"])
        results["class_accuracy_train"] = judged(examples["image"]).accuracy(cond["label"])
    results["frechet_num"] = num

    # Of pixels as they are, in units of a gray level: a byte a number, however many there are.
    def flat(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1)

    for space, read in {"pixels": flat, **spaces}.items():
        reference = read(held_out)
        made = {"samples": read(samples), "train": read(examples["image"])}
        unit = 1 / 255 if space == "pixels" else 1.0
        for name, features in made.items():
            distance = unit**2 * frechet_between(features, reference)
            what = space if space in ("fid", "sfid") else f"frechet_{space}"
            results[f"{what}_{name}_to_{split}"] = distance
        if space == "pixels":  # where neighbors say little
            continue
        # As many on both sides, or the larger set's neighborhoods would be the smaller.
        fewer = min(num, len(reference))
        for name, features in made.items():
            results[f"kernel_{space}_{name}_to_{split}"] = kernel_distance(features, reference)
            if fewer > NEIGHBOR:
                found = coverage(reference[:fewer], features[:fewer], NEIGHBOR)
                results |= {
                    f"{measure}_{space}_{name}": value for measure, value in found._asdict().items()
                }
        results |= _copies(made["samples"], made["train"], reference, space)
        if near is not None:
            shown = min(16, num)
            index, _ = nearest(made["samples"][:shown], made["train"])
            rows = np.concatenate([samples[:shown], examples["image"][index]])
            write_file(near, png_bytes(grid(rows, shown)))
            near = None  # of the first space
    return results


def _copies(
    samples: np.ndarray, train: np.ndarray, held_out: np.ndarray, space: str
) -> dict[str, float]:
    """Compare how near training images are to samples and to held-out ones: below 1 is copying."""
    near, usual = (np.median(nearest(x, train)[1]) for x in (samples, held_out))
    return {f"nearest_{space}_samples_over_held_out": float(near / max(usual, 1e-12))}


def _fid(path: Path) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Make the two spaces of Inception's weights of 2015; images run through it once for both."""
    run = inception_features(path)
    # With the images themselves, or another array could come to have the number of one.
    made: dict[int, tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]] = {}

    def both(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if id(images) not in made:
            made[id(images)] = images, run(images)
        return made[id(images)][1]

    return {"fid": lambda images: both(images)[0], "sfid": lambda images: both(images)[1]}


def _features(network: str, trained: Trained) -> Callable[[np.ndarray], np.ndarray]:
    if network not in NETWORKS:
        raise ConfigError(
            f"--features: got {network!r}; some of {', '.join(NETWORKS)} are required"
        )
    if trained.experiment.model.sampler is None:
        raise ConfigError("--features: has a meaning only for models that generate")
    return features_of(network)


def _path(trained: Trained, workdir: Path, split: str) -> Path:
    suffix = "" if split == "test" else f"_{split}"
    return workdir / "eval" / f"{trained.step}{suffix}.json"


def _keep(path: Path, results: Mapping[str, Any]) -> None:
    write_file(path, (json.dumps(results, indent=2) + "\n").encode())


def _write(trained: Trained, workdir: Path, results: dict[str, Any], split: str) -> dict[str, Any]:
    """Print a table and keep it."""
    path = _path(trained, workdir, split)
    _keep(path, results)
    width = max(map(len, results))
    for name, value in results.items():
        print(
            f"{name:<{width}}  {value:.6g}"
            if isinstance(value, float)
            else f"{name:<{width}}  {value}"
        )
    print(f"written to {path}", flush=True)
    write_report(workdir)
    return results


def _judge(workdir: Path, trained: Trained) -> Callable[[np.ndarray], Judgment]:
    saved = load_weights(workdir)
    if trained.experiment.model.sampler is None:
        raise ConfigError("--classifier: has a meaning only for models that generate")
    model = saved.experiment.model
    if model.predict is None:
        raise ConfigError(
            f"--classifier: {workdir}: family {saved.config['family']!r}; 'classifier' is required"
        )
    if tuple(saved.config["data"]["shape"]) != tuple(trained.config["data"]["shape"]):
        raise ConfigError(f"--classifier: {workdir}: was trained on images of another shape")
    return lambda images: judge(model, saved.weights, images)


def _matcher(workdir: Path, trained: Trained) -> Trained:
    matcher = load_trained(workdir)
    if "prompt" not in trained.experiment.model.inputs or trained.experiment.model.sampler is None:
        raise ConfigError("--clip: has a meaning only for models that generate from a text")
    if matcher.experiment.model.matching is None:
        raise ConfigError(
            f"--clip: {workdir}: family {matcher.config['family']!r}; 'clip' is required"
        )
    if tuple(matcher.config["data"]["shape"]) != tuple(trained.config["data"]["shape"]):
        raise ConfigError(f"--clip: {workdir}: was trained on images of another shape")
    return matcher


def _accuracy(trained: Trained, splits: Mapping[str, Source]) -> dict[str, float]:
    model, found = trained.experiment.model, {}
    # By Bayes' rule a model that generates runs once for each class.
    most = None if model.sampler is None else _BY_BAYES
    for name, source in splits.items():
        examples = _read(source, None if most is None else min(most, source.size))
        judged = judge(model, trained.weights, examples["image"])
        found[f"accuracy_{name}"] = judged.accuracy(examples["label"])
    return found


def _density(
    trained: Trained,
    workdir: Path,
    source: Source,
    split: str,
    seed: int,
    batch_size: int,
    options: Mapping[str, Any],
    num: int | None,
) -> dict[str, Any]:
    """Measure -log p(x), in nats an example, and its standard error over examples."""
    density = trained.experiment.model.density
    if density is None:
        return {}
    if num is None and density.cost > 1:
        cost = f"{density.cost} network runs an image"
        print(f"no likelihood: it takes {cost}; --likelihood_num chooses how many", flush=True)
        return {}
    known = density.options
    told = {name: options.get(name, option.default) for name, option in known.items()}
    size = min(source.size, num or source.size)
    mean = mean_log_prob(
        density,
        trained.weights,
        ordered_batches(source, min(batch_size, size), size),
        jax.random.fold_in(jax.random.key(seed), _DENSITY),
        options,
        num_batches=-(-size // min(batch_size, size)),
    )
    nats = mean.nats
    results: dict[str, Any] = {f"nats_{split}": -nats, f"nats_{split}_stderr": mean.stderr}
    if size < source.size:
        results["likelihood_num"] = size
    if mean.estimator_stderr > 0:
        results[f"nats_{split}_estimator_stderr"] = mean.estimator_stderr
    results["log_prob"] = f"{density.kind} {told or ''}".strip()
    if density.over_pixels:
        num_dims = math.prod(source.image_shape)
        results[f"bits_per_dim_{split}"] = bits_per_dim(-nats, num_dims)
        results[f"bits_per_dim_{split}_stderr"] = bits_per_dim(mean.stderr, num_dims)
        if mean.terms:
            results |= _terms(trained, workdir, mean, num_dims, split)
    elif trained.experiment.num_tokens:
        tokens = trained.experiment.num_tokens
        results[f"bits_per_token_{split}"] = bits_per_dim(-nats, tokens)
    return results


def _terms(
    trained: Trained, workdir: Path, mean: MeanLogProb, num_dims: int, split: str
) -> dict[str, float]:
    """Return what a bound consists of, in bits/dim, and keep every term."""
    steps = np.array([bits_per_dim(x, num_dims) for x in mean.terms["steps"]])
    prior = bits_per_dim(float(mean.terms["prior"]), num_dims)
    kept = {
        "step": trained.step,
        "prior_bits_per_dim": prior,
        "steps_bits_per_dim": steps.tolist(),  # from t = 1 down; the last is -log p(x_0 | x_1)
        **{name: mean.terms[name].tolist() for name in ("x_0_error", "eps_error")},
    }
    path = workdir / "eval" / f"{trained.step}_{split}_bound.json"
    write_file(path, (json.dumps(kept) + "\n").encode())
    return {
        f"bits_per_dim_{split}_prior": prior,
        f"bits_per_dim_{split}_between": float(steps[:-1].sum()),
        f"bits_per_dim_{split}_last": float(steps[-1]),
        f"x_0_error_{split}": float(mean.terms["x_0_error"].mean()),
        f"eps_error_{split}": float(mean.terms["eps_error"].mean()),
    }


def _read(source: Source, limit: int | None = None) -> dict[str, np.ndarray]:
    """Read examples, spread over the source, a thousand at a time."""
    indices = spread_indices(source, limit)
    parts = [source.read(part) for part in np.array_split(indices, -(-len(indices) // 1024))]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
