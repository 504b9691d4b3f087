"""A private Slurm of two nodes on this machine: munge, slurmctld and two slurmd in a folder of their own."""

import getpass
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def two_nodes(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the environment in which sbatch reaches two nodes of one processor each; stop all in the end.

    Args:
        folder: For configuration, logs and state. Its path is short: munge's socket lies in it.
    """
    path = os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin"
    missing = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if missing:
        raise FileNotFoundError(
            f"no {', '.join(missing)}; apt-get install slurmctld slurmd slurm-client munge"
        )
    user, host = getpass.getuser(), socket.gethostname().split(".")[0]
    control, first, second = free_ports(3)
    for name in ("state", "node1", "node2"):
        (folder / name).mkdir()
    folder.chmod(0o755)  # munge refuses a key that others could replace
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    conf = folder / "slurm.conf"
    conf.write_text(
        f"""
        ClusterName=rdfia
        SlurmctldHost={host}(127.0.0.1)
        SlurmctldPort={control}
        SlurmUser={user}
        SlurmdUser={user}
        AuthType=auth/munge
        CredType=cred/munge
        AuthInfo=socket={folder}/munge.socket
        StateSaveLocation={folder}/state
        SlurmdSpoolDir={folder}/%n
        SlurmctldPidFile={folder}/slurmctld.pid
        SlurmdPidFile={folder}/%n.pid
        SlurmctldLogFile={folder}/slurmctld.log
        SlurmdLogFile={folder}/%n.log
        ProctrackType=proctrack/linuxproc
        TaskPlugin=task/none
        MpiDefault=none
        SelectType=select/cons_tres
        SelectTypeParameters=CR_Core
        SlurmdParameters=config_overrides
        ReturnToService=2
        KillWait=30
        SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=0,requeue_setup_env_fail
        NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=1
        NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=1
        PartitionName=main Nodes=node[1-2] Default=YES MaxTime=INFINITE State=UP
        """.replace("\n        ", "\n")
    )
    # Both nodes are this machine, so both processes meet on its loopback.
    meet = {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    environment = {**os.environ, "PATH": path, "SLURM_CONF": str(conf), **meet}
    munged = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"]
    munged += [f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log"]
    munged += [f"--seed-file={folder}/munge.seed"]
    commands = [munged, ["slurmctld", "-D"], ["slurmd", "-D", "-N", "node1"], ["slurmd", "-D", "-N", "node2"]]
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        for number, command in enumerate(commands):
            with (folder / f"daemon{number}.out").open("wb") as output:
                daemons.append(
                    subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
                )
            time.sleep(0.5)
        deadline = time.monotonic() + 60
        while states(environment) != ["IDLE", "IDLE"]:
            if time.monotonic() > deadline or any(daemon.poll() is not None for daemon in daemons):
                logs = "\n".join(log.read_text() for log in sorted(folder.glob("*.[lo][ou][gt]")))
                raise RuntimeError(f"Slurm did not start:\n{logs}")
            time.sleep(0.5)
        yield environment
    finally:
        # What still runs would outlive its daemon.
        for kill in (["--signal=KILL", "--full"], []):
            subprocess.run(["scancel", *kill, f"--user={user}"], env=environment, capture_output=True)
        deadline = time.monotonic() + 40
        while busy(environment) and time.monotonic() < deadline:
            time.sleep(0.5)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in reversed(daemons):
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def ask(environment: dict[str, str], *command: str) -> str:
    """Return what a command prints."""
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60).stdout


def busy(environment: dict[str, str]) -> bool:
    """Return whether a job waits, runs, or is being cleared away."""
    nodes = ask(environment, "scontrol", "show", "nodes", "--oneliner")
    return "COMPLETING" in nodes or bool(ask(environment, "squeue", "--noheader"))


def states(environment: dict[str, str]) -> list[str]:
    """Return the states of the nodes."""
    return re.findall(r" State=(\w+)", ask(environment, "scontrol", "show", "nodes", "--oneliner"))


def job(environment: dict[str, str], number: int) -> dict[str, str]:
    """Return what Slurm knows of a job, by its own names."""
    text = ask(environment, "scontrol", "show", "job", str(number), "--oneliner")
    return dict(re.findall(r"(\S+?)=(\S*)", text))


def wait_for(environment: dict[str, str], number: int, *wanted: str, seconds: float = 300) -> dict[str, str]:
    """Wait until a job is in one of the states, and return what Slurm knows of it then."""
    deadline = time.monotonic() + seconds
    while (found := job(environment, number)).get("JobState") not in wanted:
        if time.monotonic() > deadline:
            raise TimeoutError(f"job {number} is {found.get('JobState')}, not {' or '.join(wanted)}: {found}")
        time.sleep(0.5)
    return found
