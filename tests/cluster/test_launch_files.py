"""Launch files: valid by their systems' own types, and their command lines really run."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
FILES = ROOT / "experiments" / "launch"
LINE = ["gen-jax", "train", "--config", "configs/ddpm_cifar10.py", "--workdir"]
LINE += ["/shared/runs/cifar10"]


def load(name):
    return yaml.safe_load((FILES / name).read_text())


def jobset_container():
    (job,) = load("jobset.yaml")["spec"]["replicatedJobs"]
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    return job, container


def test_all_call_the_same_line():
    assert jobset_container()[1]["command"] == LINE
    assert load("trainjob.yaml")["spec"]["trainer"]["command"] == LINE
    assert load("skypilot.yaml")["run"].strip().splitlines()[-1].split() == LINE
    assert 'gen-jax train "$@"' in (FILES / "slurm.sbatch").read_text()


def test_the_jobset_is_consistent_with_itself():
    jobset = load("jobset.yaml")
    job, container = jobset_container()
    spec = job["template"]["spec"]
    env = {entry["name"]: entry for entry in container["env"]}
    host, _, port = env["JAX_COORDINATOR_ADDRESS"]["value"].partition(":")
    name = jobset["metadata"]["name"]
    assert host == f"{name}-{job['name']}-0-0.{name}"
    assert {"containerPort": int(port)} in container["ports"]
    assert env["JAX_NUM_PROCESSES"]["value"] == str(spec["parallelism"]) == str(spec["completions"])
    assert spec["completionMode"] == "Indexed"


def environments_of_jobset(address):
    """What the cluster would put in place of names and annotations."""
    _, container = jobset_container()
    result = []
    for index in range(2):
        values = {}
        for entry in container["env"]:
            path = entry.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            if path == "metadata.annotations['batch.kubernetes.io/job-completion-index']":
                values[entry["name"]] = str(index)
            else:
                values[entry["name"]] = entry["value"]
        values["JAX_COORDINATOR_ADDRESS"] = address
        values["JAX_NUM_PROCESSES"] = "2"  # the test has room for two
        result.append(values)
    return result


def environments_of_trainjob(address):
    """Kubeflow's runtime jax-distributed sets these three."""
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    return [dict(zip(names, (address, "2", str(index)), strict=True)) for index in range(2)]


def environments_of_skypilot(address):
    host = address.partition(":")[0]
    return [
        {
            "SKYPILOT_NODE_IPS": f"{host}\n{host}",
            "SKYPILOT_NUM_NODES": "2",
            "SKYPILOT_NODE_RANK": str(index),
        }
        for index in range(2)
    ]


def script(name, address):
    """The command of a file as a shell would run it, on the tiny variant and a port of our own."""
    if name == "skypilot.yaml":
        text = load(name)["run"]
        text = re.sub(r":1234\b", f":{address.rpartition(':')[2]}", text)
    elif name == "jobset.yaml":
        text = " ".join(jobset_container()[1]["command"])
    else:
        text = " ".join(load(name)["spec"]["trainer"]["command"])
    return text


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("name", "environments"),
    [
        ("jobset.yaml", environments_of_jobset),
        ("trainjob.yaml", environments_of_trainjob),
        ("skypilot.yaml", environments_of_skypilot),
    ],
)
def test_the_command_of_a_file_runs_as_two_processes(name, environments, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    program = tmp_path / "gen-jax"  # the one of this interpreter, wherever it is installed
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m gen_jax "$@"\n')
    program.chmod(0o755)
    text = script(name, address).replace("/shared", str(tmp_path))
    text = text.replace("configs/ddpm_cifar10.py", "configs/ddpm_digits.py:tiny")
    base = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    processes = [
        subprocess.Popen(
            ["bash", "-euc", text],
            env={**base, **values},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for values in environments(address)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "2 processes (by environment)" in outputs[0]
    assert "step 2 of 2" in outputs[0]
    assert (tmp_path / "runs" / "cifar10" / "checkpoints" / "2").is_dir()


def dropped(given, understood, path=""):
    """Name what a lenient parser has thrown away."""
    if isinstance(given, dict):
        for key, value in given.items():
            if not isinstance(understood, dict) or key not in understood:
                yield f"{path}.{key}"
            else:
                yield from dropped(value, understood[key], f"{path}.{key}")
    elif isinstance(given, list):
        for index, value in enumerate(given):
            yield from dropped(value, understood[index], f"{path}[{index}]")


@pytest.mark.launchfiles
@pytest.mark.parametrize(
    ("name", "kind"),
    [("jobset.yaml", "JobsetV1alpha2JobSet"), ("trainjob.yaml", "TrainerV1alpha1TrainJob")],
)
def test_kubernetes_files_have_the_types_and_no_other_fields(name, kind):
    from kubeflow_trainer_api import models

    model, given = getattr(models, kind), load(name)
    assert not list(dropped(given, model.from_dict(given).to_dict()))
    spoilt = load(name)
    spoilt["spec"]["replicatedJob"] = []
    assert list(dropped(spoilt, model.from_dict(spoilt).to_dict())) == [".spec.replicatedJob"]


@pytest.mark.launchfiles
def test_the_skypilot_file_is_a_task(tmp_path):
    import sky

    task = sky.Task.from_yaml(str(FILES / "skypilot.yaml"))
    assert task.num_nodes == 2
    broken = (FILES / "skypilot.yaml").read_text().replace("num_nodes", "nun_nodes")
    (tmp_path / "broken.yaml").write_text(broken)
    with pytest.raises(ValueError, match="nun_nodes"):
        sky.Task.from_yaml(str(tmp_path / "broken.yaml"))
