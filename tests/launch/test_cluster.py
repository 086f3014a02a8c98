"""Places, agreement, and real processes that train together."""

import http.server
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from gen_jax.errors import ConfigError
from gen_jax.launch.jobs import processes as cluster
from gen_jax.launch.jobs.local import environments
from gen_jax.launch.jobs.processes import find_place
from tests.reliability import job

ROOT = Path(__file__).parent.parent.parent
TINY = ["train", "--config", str(ROOT / "configs" / "ddpm_digits.py:tiny")]
# A cosine would end with the steps of the first part.
SAME = ["--config.optimizer.decay=constant", "--config.data.flip=True"]
SAME += ["--config.train.sample_every=6"]
NOTHING = {"coordinator_address": None, "num_processes": None, "process_id": None}
JAX = {
    "JAX_COORDINATOR_ADDRESS": "host:1234",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "3",
}
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
}
MPI = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_MCA_orte_hnp_uri": "1;tcp://10.0.0.1:99",
}


class TestPlace:
    def test_nothing_is_alone(self):
        assert find_place(NOTHING, {}) is None
        assert find_place(NOTHING, {**JAX, "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}) is None

    def test_flags_come_first_then_variables_then_schedulers(self):
        flags = {"coordinator_address": "a:1", "num_processes": 2, "process_id": 0}
        everything = {**SLURM, **MPI, **JAX}
        assert find_place(flags, everything)[:4] == ("a:1", 2, 0, "flags")
        assert find_place(NOTHING, everything)[:4] == ("host:1234", 4, 3, "environment")
        assert find_place(NOTHING, {**SLURM, **MPI})[:4] == (None, 2, 1, "Slurm")
        assert find_place(NOTHING, MPI)[:4] == (None, 2, 1, "Open MPI")

    @pytest.mark.parametrize(
        ("env", "message"),
        [
            ({"JAX_NUM_PROCESSES": "2"}, "JAX_COORDINATOR_ADDRESS and JAX_PROCESS_ID: missing"),
            ({**JAX, "JAX_COORDINATOR_ADDRESS": "host"}, "'host'; HOST:PORT is required"),
            ({**JAX, "JAX_NUM_PROCESSES": "0"}, "'0'; a whole number from 1"),
            ({**JAX, "JAX_NUM_PROCESSES": "x"}, "'x'; a whole number from 1"),
            ({**JAX, "JAX_PROCESS_ID": "4"}, "'4'; a whole number from 0 to 3"),
            ({**JAX, "JAX_PROCESS_ID": "-1"}, "'-1'; a whole number from 0 to 3"),
            ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, "names no coordinator"),
            (
                {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "1"},
                "started by torchrun, which names no coordinator to JAX",
            ),
            ({"PMIX_SIZE": "2", "PMIX_RANK": "1"}, "--process_id $PMIX_RANK"),
        ],
    )
    def test_halves_of_a_place_are_refused(self, env, message):
        with pytest.raises(ConfigError) as error:
            find_place(NOTHING, env)
        assert message in str(error.value)

    def test_flags_are_named_as_they_are_typed(self):
        with pytest.raises(ConfigError, match="--num_processes and --process_id: missing"):
            find_place({**NOTHING, "coordinator_address": "a:1"}, {})

    def test_a_batch_script_s_own_shell_is_alone(self):
        """It has SLURM_NTASKS, but no step: only srun starts tasks."""
        shell = {name: value for name, value in SLURM.items() if "STEP" not in name}
        assert find_place(NOTHING, shell) is None

    @pytest.mark.parametrize(
        ("visible", "per_node", "devices"),
        [
            (None, "8(x2)", None),  # JAX takes the device of the task's local number
            ("0,1,2,3", "1(x2)", (0, 1, 2, 3)),  # one task a node has all of the node's GPUs
            ("0,1,2,3", "1", (0, 1, 2, 3)),
            ("5", "4(x2)", (0,)),  # Slurm shows each task its own
            ("0,1,2,3", "4(x2)", None),
        ],
    )
    def test_slurm_tasks_get_their_gpus(self, visible, per_node, devices):
        env = {**SLURM, "SLURM_STEP_TASKS_PER_NODE": per_node}
        if visible:
            env["CUDA_VISIBLE_DEVICES"] = visible
        assert find_place(NOTHING, env).local_device_ids == devices

    def test_tpu_pods(self, monkeypatch):
        monkeypatch.setattr(cluster, "_has_tpu", lambda: True)
        pod = {"TPU_WORKER_HOSTNAMES": "a,b,c,d", "TPU_WORKER_ID": "2"}
        assert find_place(NOTHING, pod)[1:4] == (4, 2, "TPU pod")
        assert find_place(NOTHING, {"TPU_WORKER_HOSTNAMES": "a"}) is None
        slices = {"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "3"}
        assert find_place(NOTHING, slices).num_processes == 3
        third = {**pod, "MEGASCALE_NUM_SLICES": "3", "MEGASCALE_SLICE_ID": "2"}
        assert find_place(NOTHING, third)[1:4] == (12, 10, "TPU pod")

    def test_tpu_virtual_machines_ask_their_metadata(self, monkeypatch):
        class Answer(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                known = {"worker-network-endpoints": b"a:0:1,b:1:2", "agent-worker-number": b"1"}
                self.send_response(200)
                self.end_headers()
                self.wfile.write(known[self.path.rpartition("/")[2]])

            def log_message(self, *_):
                pass

        monkeypatch.setattr(cluster, "_has_tpu", lambda: True)
        with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            env = {"GCE_METADATA_IP": f"127.0.0.1:{server.server_address[1]}"}
            assert find_place(NOTHING, env)[1:4] == (2, 1, "TPU pod")
            server.shutdown()
        assert find_place(NOTHING, {"GCE_METADATA_IP": "127.0.0.1:1"}) is None

    def test_gpus_are_shared_out_by_launch_local(self):
        shown = {"CUDA_VISIBLE_DEVICES": "4,5,6,7"}
        envs = environments(2, "127.0.0.1:1", shown)
        assert [env["JAX_LOCAL_DEVICE_IDS"] for env in envs] == ["0,1", "2,3"]
        assert [find_place(NOTHING, env).process_id for env in envs] == [0, 1]
        assert "JAX_LOCAL_DEVICE_IDS" not in environments(8, "127.0.0.1:1", shown)[0]


def environment(**more):
    env = job.environment(**more)
    return {name: value for name, value in env.items() if not name.startswith("SLURM_")}


def run(*arguments, timeout=280, **more):
    command = [sys.executable, "-m", "gen_jax", *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def losses(work):
    lines = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
    return np.array([line["diffusion/loss"] for line in lines])


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Six steps in one process, which the others must repeat."""
    work = tmp_path_factory.mktemp("alone") / "work"
    result = run(*TINY, "--workdir", work, "--config.train.steps=6", *SAME)
    assert result.returncode == 0, result.stderr
    return work


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((2, ["--config.mesh.fsdp=2", "--config.mesh.min_size=1"]), (1, [])),
        pytest.param(
            (2, []),
            (4, ["--config.mesh.fsdp=2", "--config.mesh.min_size=1"]),
            marks=pytest.mark.nightly,
        ),
        pytest.param((4, []), (1, []), marks=pytest.mark.nightly),
        pytest.param(
            (2, ["--config.train.engine=shard_map"]),
            (2, ["--config.train.engine=pmap"]),
            marks=pytest.mark.nightly,
        ),
    ],
    ids=["2 over fsdp then 1", "2 then 4 over fsdp", "4 then 1", "shard_map then pmap"],
)
def test_processes_train_together_and_others_go_on(alone, tmp_path, first, second):
    """One global mesh, one global batch, the losses and the pictures of a single process."""
    work = tmp_path / "work"
    for steps, (num, options) in ((3, first), (6, second)):
        launcher = [] if num == 1 else ["launch", "local", "-n", num, "--"]
        more = [f"--config.train.steps={steps}", *SAME, *options]
        result = run(*launcher, *TINY, "--workdir", work, *more)
        assert result.returncode == 0, result.stdout + result.stderr
        assert f"step {steps} of {steps}" in result.stdout
        if num > 1:
            assert f"[0] {num} processes (by environment)" in result.stdout
            assert "[1]" not in result.stdout, "only the first process speaks"
    np.testing.assert_allclose(losses(work), losses(alone), rtol=1e-5)
    assert len(losses(work)) == 6
    name = "images/0000006_samples.png"
    assert (work / name).exists()


@pytest.mark.nightly
def test_a_signal_to_one_process_stops_all_at_one_step(tmp_path):
    """Also when it comes while a resumed job still compiles."""
    import psutil

    work, log = tmp_path / "work", tmp_path / "log"
    options = ["--config.train.steps=100000", "--config.train.save_every=100000"]
    options += ["--config.optimizer.decay=constant"]
    command = [sys.executable, "-m", "gen_jax", "launch", "local", "-n", "2", "--", *TINY]
    saved = 0
    for sign in ("step 3/100000", "resuming at step"):
        with open(log, "w") as file:
            process = subprocess.Popen(
                [*command, "--workdir", str(work), *options],
                cwd=ROOT,
                env=environment(),
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        try:
            end = time.monotonic() + 200
            while sign not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end
                time.sleep(0.05)
            children = psutil.Process(process.pid).children()
            second = next(c for c in children if c.environ()["JAX_PROCESS_ID"] == "1")
            addresses = {
                connection.laddr.ip
                for child in children
                for connection in child.net_connections()
                if connection.status == "LISTEN" and connection.laddr.port == port_of(child)
            }
            # The coordinator listens to this machine alone.
            assert {ip.removeprefix("::ffff:") for ip in addresses} == {"127.0.0.1"}
            second.send_signal(signal.SIGTERM)
            assert process.wait(120) == 143, log.read_text()
        finally:
            for _ in range(2):  # the second ends it on the spot
                process.terminate()
                time.sleep(0.2)
        before, saved = saved, max(int(path.name) for path in (work / "checkpoints").iterdir())
        assert saved == json.loads((work / "metrics.jsonl").read_text().splitlines()[-1])["step"]
        assert before < saved
    assert saved <= before + 3, "it stopped at once"


def port_of(child):
    return int(child.environ()["JAX_COORDINATOR_ADDRESS"].rpartition(":")[2])


@pytest.mark.slow
def test_an_error_of_one_process_ends_all_of_them(tmp_path):
    """Here of the first: the work directory is held by another job."""
    import fcntl

    work = tmp_path / "work"
    work.mkdir()
    with open(work / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = run("launch", "local", "-n", 2, "--", *TINY, "--workdir", work, timeout=100)
    assert result.returncode == 6, result.stdout
    for index in (0, 1):
        assert (
            f"[{index}] gen_jax: workdir: {work}: in use by another job (process 0)"
            in result.stdout
        )


@pytest.mark.slow
def test_a_missing_peer_is_explained_in_time(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    base = [*TINY, "--workdir", tmp_path / "w", "--num_processes=2", "--init_timeout=3"]
    for index, reason in ((0, f"listens at {address}"), (1, f"nothing answers at {address}")):
        start = time.monotonic()
        result = run(*base, f"--coordinator_address={address}", f"--process_id={index}")
        assert result.returncode == 8
        assert time.monotonic() - start < 13
        assert f"process {index} of 2: not all processes came within 3 s" in result.stderr
        assert reason in result.stderr
    result = run(*base, "--coordinator_address=no.such.host.invalid:1", "--process_id=1")
    assert "'no.such.host.invalid' does not resolve" in result.stderr
    assert not (tmp_path / "w").exists()


def test_launch_local_says_what_it_needs(capsys):
    from gen_jax.launch.cli.main import main

    for arguments, message in (
        (["launch"], "`launch local -n N -- train ...` is required"),
        (["launch", "local", "-n", "2"], "`launch local -n N"),
        (["launch", "local", "--", "train"], "--n: missing"),
        (["launch", "local", "-n", "0", "--", "train"], "n"),
        (["launch", "local", "-n", "2", "--", "sample"], "'sample'; train is required"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
