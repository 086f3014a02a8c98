"""A whole Slurm on one machine: two emulated nodes on loopback, started and stopped."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scontrol", "scancel")
NODES = ("genjaxvm1", "genjaxvm2")

CONFIG = """
ClusterName=box
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/linear
MpiDefault=none
ReturnToService=2
JobRequeue=1
SchedulerParameters=batch_sched_delay=1,sched_interval=5
KillWait=60
NodeName={nodes[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 State=UNKNOWN
NodeName={nodes[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing():
    """Say what a machine lacks to run one; None if nothing."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)}: not installed (Debian: slurm-wlm, munge)"
    return None if os.getuid() == 0 else "Slurm's daemons need root here"


def free_ports(num):
    sockets = [socket.socket() for _ in range(num)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextlib.contextmanager
def running(folder: Path):
    """Run munge and Slurm in a folder, and give the environment in which its commands work."""
    for name in ("state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    config = folder / "slurm.conf"
    host = socket.gethostname().partition(".")[0]
    config.write_text(CONFIG.format(folder=folder, host=host, ports=free_ports(3), nodes=NODES))
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
    env = {**os.environ, "SLURM_CONF": str(config)}
    hosts = Path("/etc/hosts")
    names_before = hosts.read_text()
    processes = []

    def start(*command):
        log = open(folder / f"{command[0]}-{len(processes)}.out", "w")  # noqa: SIM115
        processes.append(subprocess.Popen(command, env=env, stdout=log, stderr=log))

    try:
        # Processes look for the coordinator by the name of its node.
        hosts.write_text(names_before + f"127.0.0.1 {' '.join(NODES)}\n")
        munge = [f"--{n}={folder}/munge.{n}" for n in ("socket", "pid-file", "log-file")]
        start("munged", "--foreground", "--force", f"--key-file={key}", *munge,
              f"--seed-file={folder}/munge.seed")  # fmt: skip
        wait((folder / "munge.socket").exists, 20)
        start("slurmctld", "-D", "-f", str(config))
        for node in NODES:
            start("slurmd", "-D", "-N", node, "-f", str(config))
        wait(lambda: ask(env, "sinfo", "-h", "-o", "%T").split() == ["idle"], 60)
        yield env
    finally:
        with contextlib.suppress(subprocess.SubprocessError):
            subprocess.run(["scancel", "--user=root"], env=env, timeout=10, check=False)
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
        hosts.write_text(names_before)


def ask(env, *command):
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    return result.stdout + result.stderr


def wait(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.25)
