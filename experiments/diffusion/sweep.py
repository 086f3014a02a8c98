"""The tables of this folder's README: samplers, targets, guidance and likelihoods of trained runs.

``python experiments/diffusion/sweep.py TABLE RUNS OUT.jsonl`` appends one JSON object a
measurement; TABLE is one of the functions below, RUNS the folder with the work directories that
the README's commands make.
"""

import json
import sys
import time
from pathlib import Path

import jax
import numpy as np

from gen_jax.data import ordered_batches
from gen_jax.evals.classification import judge
from gen_jax.evals.frechet import fit_gaussian, frechet_distance, raw_pixels
from gen_jax.evals.likelihood import bits_per_dim, mean_log_prob
from gen_jax.launch.build.sources import open_split
from gen_jax.launch.commands.evaluate import _read
from gen_jax.launch.runs.restore import load_trained, load_weights
from gen_jax.launch.sampling.draw import Draw, draw_samples

SEEDS = range(3)
NUM = 1000
FLOWS = ("flow_velocity", "flow_paired")


def trained_of(runs, *names):
    """Of the runs, those that are there."""
    return [name for name in names if (runs / name / "checkpoints").exists()]


def images_of(source, num=None):
    examples = _read(source, num)
    return examples["image"], examples["label"]


def held_out(trained):
    config = trained.config
    if not config["data"]["source"].endswith("mnist.npz"):  # pairs of a flow have no test split
        config = {**config, "data": {**config["data"], "source": "digits"}}
    images, labels = images_of(open_split(config, "test"))
    return fit_gaussian(raw_pixels(images)), images, labels


def draw(trained, seed, num=NUM, labels=None, **options):
    model = trained.experiment.model
    cond = {}
    if model.inputs.get("label") is not None:
        classes = np.arange(num, dtype=np.int32) % trained.experiment.num_classes
        cond["label"] = classes if labels is None else labels
    how = Draw(seed, options, cond, batch_size=250)
    return draw_samples(model, trained.weights, how, trained.mesh, num)


def spread(values):
    values = np.array(values)
    if len(values) == 1:
        return {"mean": round(float(values[0]), 4)}
    return {
        "mean": round(float(values.mean()), 4),
        "interval_95": round(float(4.303 * values.std(ddof=1) / np.sqrt(len(values))), 4),
    }


def measure(trained, reference, seeds=SEEDS, num=NUM, labels=None, judged=None, **options):
    """Give the Fréchet distance in pixels over seeds, Student's 95 % interval, and the accuracy."""
    begin, distances, accuracy = time.perf_counter(), [], []
    for seed in seeds:
        images = draw(trained, seed, num, labels, **options)
        distances.append(frechet_distance(fit_gaussian(raw_pixels(images)), reference))
        if judged is not None:
            accuracy.append(judged(images).accuracy(labels))
    found = {"frechet_pixels": spread(distances), "num": num, "seeds": len(list(seeds))}
    if accuracy:
        found["accuracy"] = spread(accuracy)
    return {**options, **found, "seconds": round(time.perf_counter() - begin, 1)}


def real(trained, reference, num=NUM):
    """What a perfect model would get: training images in place of samples."""
    images, _ = images_of(open_split(trained.config, "train"), num)
    return frechet_distance(fit_gaussian(raw_pixels(images)), reference)


def ddim(runs):
    trained = load_trained(runs / "linear_eps")
    reference, _, _ = held_out(trained)
    yield {"run": "training images", "frechet_pixels": round(real(trained, reference), 4)}
    for steps in (10, 20, 50, 100):
        options = {"solver": "ddim", "steps": steps}
        yield {"run": "linear_eps", **measure(trained, reference, **options)}


def thousand(runs, num=256):
    """All steps beside a tenth of them: fewer samples, from one seed, and so no interval."""
    trained = load_trained(runs / "linear_eps")
    reference, _, _ = held_out(trained)
    for steps in (100, 1000):
        options = {"solver": "ddim", "steps": steps}
        yield {"run": "linear_eps", **measure(trained, reference, range(1), num, **options)}


def targets(runs):
    for name in trained_of(runs, "linear_eps", "cosine_eps", "cosine_v", *FLOWS, "edm"):
        trained = load_trained(runs / name)
        reference, _, _ = held_out(trained)
        options = {"solver": "ddim", "steps": 20}
        if name == "edm":
            options = {"solver": "heun", "steps": 11}
        yield {"run": name, **measure(trained, reference, **options)}


def solvers(runs):
    for name in ("linear_eps", "flow_velocity"):
        trained = load_trained(runs / name)
        reference, _, _ = held_out(trained)
        for evaluations in (4, 8, 16):
            for solver in ("euler", "heun", "dpmpp_2m"):
                # Heun's last step takes one evaluation, the others two.
                steps = (evaluations + 1) // 2 if solver == "heun" else evaluations
                options = {"solver": solver, "steps": steps}
                found = measure(trained, reference, **options)
                real = 2 * steps - 1 if solver == "heun" else steps
            yield {"run": name, "evaluations": real, **found}


def reflow(runs):
    for name in trained_of(runs, *FLOWS, "reflow"):
        trained = load_trained(runs / name)
        reference, _, _ = held_out(trained)
        for steps in (1, 2, 4, 8, 20):
            options = {"solver": "euler", "steps": steps}
            yield {"run": name, **measure(trained, reference, **options)}


def guidance(runs, name="flow_class", classifier="classifier", num=NUM, scales=None):
    trained, saved = load_trained(runs / name), load_weights(runs / classifier)
    model = saved.experiment.model
    reference, images, labels = held_out(trained)

    def judged(images):
        return judge(model, saved.weights, images)

    yield {"run": "test images", "accuracy": round(judged(images).accuracy(labels), 4)}
    wanted = np.arange(num, dtype=np.int32) % 10
    seeds = SEEDS if name == "flow_class" else range(1)
    for scale in scales or (0.0, 1.0, 2.0, 4.0):
        options = {"solver": "heun", "steps": 10, "guidance": scale}
        found = measure(trained, reference, seeds, num, wanted, judged, **options)
        yield {"run": name, **found}
    for low, high in ((0.2, 0.8),):
        options = {"solver": "heun", "steps": 10, "guidance": 4.0}
        options |= {"guidance_from": low, "guidance_to": high}
        found = measure(trained, reference, seeds, num, wanted, judged, **options)
        yield {"run": name, **found}


def mnist_guidance(runs):
    yield from guidance(runs, "flow_mnist", "classifier", scales=(0.0, 1.0, 2.0, 4.0))


def likelihood(runs):
    for name in trained_of(runs, "linear_eps", "cosine_eps", "cosine_v", "flow_velocity", "edm"):
        trained = load_trained(runs / name)
        source = open_split(trained.config, "test")
        num_dims = int(np.prod(source.image_shape))
        for options in ({"likelihood": "bound"}, {"likelihood": "flow", "probes": 2}):
            begin = time.perf_counter()
            mean = mean_log_prob(
                trained.experiment.model.density,
                trained.weights,
                ordered_batches(source, 99, 99),
                jax.random.key(0),
                options,
            )
            found = {
                "run": name,
                **options,
                "bits_per_dim": round(bits_per_dim(-mean.nats, num_dims), 4),
                "stderr": round(bits_per_dim(mean.stderr, num_dims), 4),
                "estimator_stderr": None  # of one draw nothing is known
                if np.isnan(mean.estimator_stderr)
                else round(bits_per_dim(mean.estimator_stderr, num_dims), 5),
                "seconds": round(time.perf_counter() - begin, 1),
            }
            if "steps" in mean.terms:
                steps = [bits_per_dim(x, num_dims) for x in mean.terms["steps"]]
                prior = bits_per_dim(float(mean.terms["prior"]), num_dims)
                found |= {"prior": round(prior, 5), "between": round(sum(steps[:-1]), 4)}
                found |= {"last": round(steps[-1], 4)}
                found["x_0_error"] = round(float(mean.terms["x_0_error"].mean()), 4)
                found["eps_error"] = round(float(mean.terms["eps_error"].mean()), 4)
            yield found


def main():
    table, runs, out = sys.argv[1:]
    with open(out, "a") as file:
        for row in globals()[table](Path(runs)):
            line = json.dumps({"table": table, **row})
            print(line, flush=True)
            file.write(line + "\n")
            file.flush()


if __name__ == "__main__":
    main()
