"""The batch script on a real Slurm: make test-slurm."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import slurm

ROOT = Path(__file__).parent.parent.parent
STEPS = 300

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


def test_a_preempted_job_saves_requeues_resumes_and_finishes(tmp_path):
    if reason := slurm.missing():
        pytest.fail(reason)  # who asks for this test wants to know
    folder, work = tmp_path / "slurm", tmp_path / "work"
    folder.mkdir()
    log = tmp_path / "job.out"
    with slurm.running(folder) as cluster:
        env = {
            **cluster,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "",
        }
        command = ["sbatch", "--parsable", f"--output={log}", "experiments/launch/slurm.sbatch"]
        command += ["--config", "configs/ddpm_digits.py:tiny", "--workdir", str(work)]
        command += [f"--config.train.steps={STEPS}", "--config.train.save_every=100000"]
        command += ["--config.optimizer.decay=constant"]
        job = subprocess.check_output(command, env=env, cwd=ROOT, text=True).strip()

        metrics = work / "metrics.jsonl"
        slurm.wait(lambda: metrics.exists() and metrics.read_text().count("\n") > 20, 240)
        slurm.ask(env, "scancel", "--signal=TERM", job)
        slurm.wait(lambda: "resuming at step" in log.read_text(), 400)
        slurm.wait(lambda: f"step {STEPS} of {STEPS}" in log.read_text(), 240)
        slurm.wait(lambda: "COMPLETED" in slurm.ask(env, "scontrol", "show", "job", job), 60)
        shown = slurm.ask(env, "scontrol", "show", "job", job)
    text = log.read_text()
    assert "2 processes (by Slurm)" in text
    assert "attempt 0" in text
    assert "attempt 1" in text
    assert "Restarts=1" in shown
    resumed = int(re.search(r"resuming at step (\d+)", text)[1])
    # Both ranks saved that step, or it could not have been restored on both.
    assert 20 < resumed < STEPS
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1)), "no step was lost and none was taken twice"
    assert text.count("resuming at step") == 1
