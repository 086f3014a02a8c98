"""``gen-jax compare``: one table of several work directories, each cell a number and its spread."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.data import Source, ordered_batches, spread_indices
from gen_jax.errors import ConfigError
from gen_jax.evals.classification import Judgment, judge
from gen_jax.evals.coverage import coverage, nearest
from gen_jax.evals.disentanglement import dci, mutual_information_gap
from gen_jax.evals.frechet import frechet_between
from gen_jax.evals.likelihood import bits_per_dim, mean_log_prob
from gen_jax.files import png_bytes, write_file
from gen_jax.launch.build.sources import open_split
from gen_jax.launch.planning.cost import count_flops
from gen_jax.launch.runs.restore import Trained, load_trained, load_weights
from gen_jax.launch.runs.tokens import with_text
from gen_jax.launch.sampling.draw import (
    Draw,
    conditions_from_data,
    decode,
    draw_prior,
    draw_samples,
    encode,
    interpolate,
)
from gen_jax.ops import keys as rng
from gen_jax.pictures import grid

__all__ = ["run_comparison"]

NEIGHBOR = 5  # to which neighborhoods reach
_STEPS = 9  # points of a way through the latent space
_RUNS = 50_000  # of a network, for a row's likelihood
_DENSITY = 0x0DE51

Judge = Callable[[np.ndarray], Judgment]
Cell = Mapping[str, float | None]


class _Row(NamedTuple):
    """One work directory, and what it is measured with."""

    workdir: Path
    trained: Trained
    train: Source
    test: Source
    judged: Judge
    num: int
    seeds: int
    likelihood_num: int
    batch_size: int

    def draw(self, seed: int, cond: Mapping[str, np.ndarray]) -> Draw:
        return Draw(seed, {}, cond, self.batch_size)


def run_comparison(
    workdirs: Sequence[Path],
    classifier: Path,
    out: Path,
    *,
    num: int = 1000,
    seeds: int = 3,
    likelihood_num: int = 500,
    batch_size: int = 250,
) -> list[dict[str, Any]]:
    """Measure work directories of one data set alike, and write a table.

    Each row is kept beside the table, in ``<out>.json``, as soon as it is measured: a comparison
    that was stopped goes on, and a run that was trained on is measured again.

    Args:
        workdirs: one for each row.
        classifier: work directory of a classifier of the same images, whose features quality,
            coverage and latent spaces are measured in.
        out: ``.md``; pictures of samples and of ways through latent spaces go beside it.
        num: samples and images for each number.
        seeds: how often samples are drawn; a spread is the deviation over these.
        likelihood_num: images whose likelihood is measured.
        batch_size: images at once.

    Returns:
        The rows.

    Raises:
        ConfigError: if two runs have other data, or the classifier is none.
    """
    if out.suffix != ".md":
        raise ConfigError(f"--table: got {str(out)!r}; a name ending in .md is required")
    judged, shape = _classifier(classifier)
    kept = out.with_suffix(".json")
    known = {row["key"]: row for row in json.loads(kept.read_text())} if kept.is_file() else {}
    rows: list[dict[str, Any]] = []
    data: tuple[str, Any] | None = None
    for workdir in workdirs:
        trained = load_trained(workdir)
        own = trained.config["data"]["source"], tuple(trained.config["data"]["shape"])
        data = data or own
        if own != data or own[1] != shape:
            raise ConfigError(
                f"{workdir}: data {own}; {data} of {shape} is required, as of the others"
            )
        settings = f"{num}-{seeds}-{likelihood_num}"
        key = f"{workdir.resolve()} {trained.digest} {settings}"
        if key not in known:
            print(f"{workdir}: measuring", flush=True)
            train, test = (
                with_text(open_split(trained.config, name), trained.tokenizer, trained.config)
                for name in ("train", "test")
            )
            row = _Row(
                workdir, trained, train, test, judged, num, seeds, likelihood_num, batch_size
            )
            known[key] = {"key": key, **_measured(row, out)}
            write_file(kept, (json.dumps(list(known.values()), indent=1) + "\n").encode())
        rows.append(known[key])
    write_file(out, table(rows).encode())
    print(table(rows), flush=True)
    return rows


def _classifier(workdir: Path) -> tuple[Judge, tuple[int, ...]]:
    saved = load_weights(workdir)
    model = saved.experiment.model
    if saved.config["family"] != "classifier":
        raise ConfigError(f"--classifier: {workdir}: family {saved.config['family']!r}")
    shape = tuple(saved.config["data"]["shape"])
    return lambda images: judge(model, saved.weights, images), shape


def _measured(row: _Row, out: Path) -> dict[str, Any]:
    model = row.trained.experiment.model
    result: dict[str, Any] = {"name": row.workdir.name, "step": row.trained.step}
    result |= _training(row)
    if model.sampler is not None:
        result |= _samples(row, out)
    if model.latents is not None:
        result |= _latents(row, out)
    result |= _likelihood(row)
    return result


def _training(row: _Row) -> dict[str, Any]:
    """Read from the run's own record how long it was trained."""
    config = row.trained.config
    sizes = [math.prod(x.shape) for x in jax.tree.leaves(row.trained.weights.params)]
    found = {"parameters": sum(sizes), "family": config["family"]}
    seconds = _seconds(row.workdir / "metrics.jsonl")
    if seconds is not None:
        images = row.trained.step * config["data"]["batch_size"]
        found |= {"train_seconds": seconds, "train_images_per_second": images / seconds}
    return found


def _seconds(path: Path) -> float | None:
    """Add up the seconds of a run, and of each part that went on from a checkpoint."""
    if not path.is_file():
        return None
    total = last = 0.0
    for line in path.read_text().splitlines():
        now = json.loads(line).get("time/seconds")
        if now is None:
            continue
        total += last if now < last else 0.0
        last = now
    return total + last or None


def _samples(row: _Row, out: Path) -> dict[str, Any]:
    """Draw samples of several seeds, and compare each with as many held-out images."""
    model, weights, mesh = row.trained.experiment.model, row.trained.weights, row.trained.mesh
    num = min(row.num, row.test.size, row.train.size)
    examples = row.train.read(spread_indices(row.train, num))
    cond = conditions_from_data(model, examples, every_class=False)
    real = row.judged(row.test.read(spread_indices(row.test, num))["image"])
    known = row.judged(examples["image"])
    all_train = row.judged(
        row.train.read(spread_indices(row.train, min(row.train.size, 10 * num)))["image"]
    )
    usual = np.median(nearest(real.features, all_train.features)[1])
    classes = np.bincount(known.labels) / num
    measured: list[dict[str, float]] = []
    seconds = []
    draw_samples(model, weights, row.draw(0, cond), mesh, min(num, row.batch_size))  # compile
    for seed in range(row.seeds):
        began = time.perf_counter()
        images = draw_samples(model, weights, row.draw(seed, cond), mesh, num, progress=True)
        seconds.append(time.perf_counter() - began)
        if seed == 0:
            write_file(_beside(out, row, "samples"), png_bytes(grid(images[:64])))
        found = row.judged(images)
        each = coverage(real.features, found.features, NEIGHBOR)._asdict()
        each["frechet"] = frechet_between(found.features, real.features)
        shares = np.bincount(found.labels, minlength=len(classes))[: len(classes)] / num
        some = shares > 0
        each["class_kl"] = float(
            np.sum(shares[some] * np.log(shares[some] / np.maximum(classes[some], 1e-12)))
        )
        near = np.median(nearest(found.features, all_train.features)[1])
        each["nearest"] = float(near / max(usual, 1e-12))
        if "label" in cond:
            each["class_accuracy"] = found.accuracy(cond["label"])
        measured.append({name: float(value) for name, value in each.items()})
    result: dict[str, Any] = {}
    for name in measured[0]:
        result |= _cell(name, [each[name] for each in measured])
    perfect = coverage(real.features, known.features, NEIGHBOR)._asdict()
    perfect["frechet"] = frechet_between(known.features, real.features)
    result |= {f"{name}_of_training_images": float(value) for name, value in perfect.items()}
    result |= _cell("samples_per_second", [num / each for each in seconds])
    result["gflop_per_sample"] = _work(row, cond) / 1e9
    return result


def _cell(name: str, values: Sequence[float]) -> dict[str, float | None]:
    """Give the mean of several measurements, and their deviation."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {name: float(np.mean(values)), f"{name}_spread": spread}


def _work(row: _Row, cond: Mapping[str, np.ndarray]) -> float:
    """Count the floating-point operations of one sample."""
    sampler = row.trained.experiment.model.sampler
    assert sampler is not None
    given = {name: jnp.asarray(x[:1]) for name, x in cond.items()}
    defaults = {name: option.default for name, option in sampler.options.items()}
    steps = {name: defaults[name] for name in ("steps",) if defaults.get(name) is not None}

    def one(weights: Any) -> Any:
        keys = rng.per_example(jax.random.key(0), 0, 1)
        return sampler.draw(weights, keys, given, **steps)

    return count_flops(jax.make_jaxpr(one)(row.trained.weights).jaxpr)


def _beside(out: Path, row: _Row, what: str) -> Path:
    return out.with_name(f"{out.stem}_{row.workdir.name}_{what}.png")


def _latents(row: _Row, out: Path) -> dict[str, Any]:
    """Measure what lies between codes, and whether codes lead back."""
    trained = row.trained
    model, weights = trained.experiment.model, trained.weights
    assert model.latents is not None
    num = min(200, row.test.size)
    examples = row.test.read(spread_indices(row.test, num))
    cond = conditions_from_data(model, examples, every_class=False)
    result: dict[str, Any] = {}
    if model.latents.encode is not None and "image" not in cond:
        z = encode(model, weights, row.draw(0, cond), examples["image"])
        again = decode(model, weights, row.draw(0, cond)._replace(z=z))
        error = np.abs(again.astype(np.float64) - examples["image"]) / 255
        result |= {"round_trip": float(error.mean())}
        labels = row.judged(again).labels
    elif model.latents.prior is not None:
        z = draw_prior(model, seed=0, num=num)
        labels = row.judged(decode(model, weights, row.draw(0, cond)._replace(z=z))).labels
    else:
        return result
    if model.latents.num_codes is None and isinstance(z, np.ndarray):
        result |= _ways(row, z, labels, cond, out)
        if "factors" in examples and model.latents.encode is not None:
            result |= _factors(row)
    return result


def _ways(
    row: _Row, z: np.ndarray, labels: np.ndarray, cond: Mapping[str, np.ndarray], out: Path
) -> dict[str, Any]:
    """Go between codes of one class: how often it stays, and how straight the way is."""
    first, second = (
        zip(*_pairs(labels), strict=True) if len(set(labels)) < len(labels) else ((), ())
    )
    if not first:
        return {}
    model, weights = row.trained.experiment.model, row.trained.weights
    begin, end = z[list(first)], z[list(second)]
    told = {name: x[list(first)] for name, x in cond.items()}
    draw = interpolate(row.draw(0, told), begin, end, _STEPS)
    images = decode(model, weights, draw)
    write_file(_beside(out, row, "ways"), png_bytes(grid(images[: 8 * _STEPS], _STEPS)))
    found = row.judged(images)
    features = found.features.reshape(len(begin), _STEPS, -1)
    steps = np.linalg.norm(np.diff(features, axis=1), axis=-1)
    whole = np.linalg.norm(features[:, -1] - features[:, 0], axis=-1)
    there = found.labels.reshape(len(begin), _STEPS)[:, 1:-1]
    same = there == labels[list(first)][:, None]
    return {
        "class_constancy": float(same.mean()),
        "class_constancy_spread": float(same.mean(axis=1).std(ddof=1) / math.sqrt(len(begin))),
        # 1 for a straight way in features.
        "detour": float(np.median(steps.sum(axis=1) / np.maximum(whole, 1e-9))),
    }


def _pairs(labels: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pair examples of one class, each once."""
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        yield from zip(rows[0 : len(rows) - 1 : 2].tolist(), rows[1::2].tolist(), strict=False)


def _factors(row: _Row) -> dict[str, Any]:
    """Measure disentanglement on images whose factors are known."""
    model, weights = row.trained.experiment.model, row.trained.weights
    examples = row.train.read(np.arange(row.train.size))
    cond = conditions_from_data(model, examples, every_class=False)
    z = encode(model, weights, row.draw(0, cond), examples["image"])
    z = z.reshape(len(z), -1)
    found = dci(z, examples["factors"])
    gap = mutual_information_gap(z, examples["factors"])
    return {**found._asdict(), "mutual_information_gap": gap}


def _likelihood(row: _Row) -> dict[str, Any]:
    density = row.trained.experiment.model.density
    if density is None:
        return {"likelihood": "none"}
    # Of a density that runs the network often fewer images: the spread says so.
    size = min(row.likelihood_num, row.test.size, max(20, _RUNS // density.cost))
    batch = min(row.batch_size, size)
    began = time.perf_counter()
    mean = mean_log_prob(
        density,
        row.trained.weights,
        ordered_batches(row.test, batch, size),
        jax.random.fold_in(jax.random.key(0), _DENSITY),
        {},
        num_batches=-(-size // batch),
    )
    seconds = time.perf_counter() - began
    dims = math.prod(row.test.image_shape)
    noise = mean.estimator_stderr if math.isfinite(mean.estimator_stderr) else 0.0
    found = {
        "likelihood": density.kind,
        "nats": -mean.nats,
        "nats_spread": math.hypot(mean.stderr, noise),
        "likelihood_seconds_per_image": seconds / size,
    }
    if density.over_pixels:
        found |= {
            "bits_per_dim": bits_per_dim(-mean.nats, dims),
            "bits_per_dim_spread": bits_per_dim(math.hypot(mean.stderr, noise), dims),
        }
    return found


# Header, and the cell's name; what is missing is left open.
_COLUMNS = (
    ("parameters", "parameters", "{:,.0f}"),
    ("seconds of training", "train_seconds", "{:.0f}"),
    ("images/s in training", "train_images_per_second", "{:,.0f}"),
    ("samples/s", "samples_per_second", "{:,.3g}"),
    ("GFLOP a sample", "gflop_per_sample", "{:.3g}"),
    ("Fréchet distance", "frechet", "{:.3g}"),
    ("precision", "precision", "{:.3f}"),
    ("density", "density", "{:.2f}"),
    ("recall", "recall", "{:.3f}"),
    ("coverage", "coverage", "{:.3f}"),
    ("KL of classes", "class_kl", "{:.3f}"),
    ("nearest training image, over held-out images'", "nearest", "{:.2f}"),
    ("round trip", "round_trip", "{:.4f}"),
    ("class stays between codes", "class_constancy", "{:.3f}"),
    ("detour between codes", "detour", "{:.2f}"),
    ("DCI: disentanglement", "disentanglement", "{:.2f}"),
    ("completeness", "completeness", "{:.2f}"),
    ("informativeness", "informativeness", "{:.2f}"),
    ("MIG", "mutual_information_gap", "{:.3f}"),
    ("bits/dim", "bits_per_dim", "{:.3f}"),
    ("nats", "nats", "{:.1f}"),
    ("likelihood", "likelihood", "{}"),
    ("s an image", "likelihood_seconds_per_image", "{:.2g}"),
)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows as Markdown, models across: there are more measures than models."""
    shown = [column for column in _COLUMNS if any(column[1] in row for row in rows)]
    lines = [
        "| | " + " | ".join(str(row["name"]) for row in rows) + " | training images |",
        "| --- |" + " --- |" * (len(rows) + 1),
    ]
    for header, name, form in shown:
        cells = [_written(row, name, form) for row in rows]
        perfect = next((row for row in rows if f"{name}_of_training_images" in row), None)
        cells.append("" if perfect is None else form.format(perfect[f"{name}_of_training_images"]))
        lines.append(f"| {header} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _written(row: Mapping[str, Any], name: str, form: str) -> str:
    if row.get(name) is None:
        return ""
    spread = row.get(f"{name}_spread")
    return form.format(row[name]) + (f" ± {spread:.1g}" if spread is not None else "")
