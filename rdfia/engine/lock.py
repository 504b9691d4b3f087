"""One owner of a run folder at a time: two runs of one name would each lose what the other writes.

The owner is named in a file in the folder: host, process, time. It survives kill -9, after which it is stale
and taken over, and file systems of networks: what lives on another host is known by a file that it touches.
"""

import atexit
import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

FILE = ".lock"
TOUCHED_EVERY, STALE_AFTER = 20.0, 180.0  # seconds
_held: dict[Path, dict[str, Any]] = {}
_toucher: threading.Thread | None = None


def _started(pid: int) -> str | None:
    """Return when a process of this machine began, in the kernel's own unit; None if there is none."""
    try:
        # After the name, which may hold spaces and parentheses; field 22 of all.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        pass
    if Path("/proc/self/stat").exists():
        return None
    try:  # a system without /proc
        os.kill(pid, 0)
    except OSError:
        return None
    return ""


def _space() -> str:
    """Return what tells numbers of processes apart that look alike: the boot, and the container."""
    parts = []
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def owner() -> dict[str, Any]:
    """Return what names this process in a lock: plain types."""
    job = [os.environ.get(name, "") for name in ("SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID")]
    return {
        "host": socket.gethostname(),
        "space": _space(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "job": "_".join(job).strip("_"),
        "restart": os.environ.get("SLURM_RESTART_COUNT", "0"),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _age(path: Path) -> float:
    """Return the seconds since a file was touched, by the clock of the file system that holds it."""
    probe = path.with_name(f"{FILE}.{uuid.uuid4().hex[:8]}.part")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime
    except OSError:
        return time.time() - path.stat().st_mtime
    finally:
        with suppress(OSError):
            probe.unlink()


def _other(path: Path, mine: dict[str, Any]) -> tuple[dict[str, Any], bool] | None:
    """Return whom a lock names, if it is another, and whether that one lives; None if there is no lock."""
    try:
        found = dict(json.loads(path.read_text()))
        same_machine = found["space"] == mine["space"] and found["host"] == mine["host"]
        pid, started = int(found["pid"]), found["started"]
        if found["job"] and found["job"] == mine["job"] and found["restart"] != mine["restart"]:
            return found, False  # this job, before it was queued again
        lives = _started(pid) == started if same_machine else _age(path) < STALE_AFTER
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError):
        found = {"host": "?", "pid": "?", "since": "?"}  # of another version, or damaged
        try:
            lives = _age(path) < STALE_AFTER
        except OSError:
            return None
    if all(found.get(name) == mine[name] for name in ("host", "space", "pid", "started")):
        return None
    return found, lives


def _refuse(folder: Path, other: dict[str, Any]) -> ValueError:
    who = f"process {other['pid']} on {other['host']}, since {other['since']}"
    return ValueError(f"{folder} is in use by {who}; wait for it, or use another --name")


def check(folder: Path) -> None:
    """Check that no other process owns a folder.

    Raises:
        ValueError: One does.
    """
    found = _other(folder / FILE, owner())
    if found and found[1]:
        raise _refuse(folder, found[0])


def take(folder: Path) -> None:
    """Own a folder until this process ends, or gives it back; again, where it owns it already.

    Raises:
        ValueError: Another process owns it, and lives.
        OSError: The folder cannot be written.
    """
    path, mine = folder / FILE, owner()
    if path in _held and path.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    written = path.with_name(f"{FILE}.{uuid.uuid4().hex[:8]}.part")
    written.write_text(json.dumps(mine))
    try:
        for _ in range(100):
            try:
                os.link(written, path)  # whole or not at all, also where two come at once
                break
            except FileExistsError:
                pass
            except OSError:  # a file system without hard links
                with suppress(FileExistsError), path.open("x") as file:
                    json.dump(mine, file)
                    break
            found = _other(path, mine)
            if found is None:  # ours already, or gone just now
                if path.exists():
                    break
                continue
            if found[1]:
                raise _refuse(folder, found[0])
            _take_away(path, found[0], folder)
        else:
            raise ValueError(f"{path} cannot be taken; delete it if no other process writes there")
    finally:
        with suppress(OSError):
            written.unlink()
    found = _other(path, mine)  # who takes a stale lock over may have moved ours away, and another has it
    if found and found[1]:
        raise _refuse(folder, found[0])
    _held[path] = mine
    _touch_from_now_on()


def _take_away(path: Path, other: dict[str, Any], folder: Path) -> None:
    """Remove the lock of a process that has ended; of two that try, one does."""
    gone = path.with_name(f"{FILE}.{uuid.uuid4().hex[:8]}.part")
    with suppress(OSError):
        path.rename(gone)
        with suppress(OSError, ValueError):
            if dict(json.loads(gone.read_text())).get("pid") not in (other.get("pid"), None):
                with suppress(OSError):
                    os.link(gone, path)  # somebody was faster, and has it, unless a third one has it by now
                gone.unlink()
                return
        gone.unlink()
        who = f"process {other['pid']} on {other['host']}, since {other['since']}"
        print(f"{folder} was left by {who}, which has ended; taken over", flush=True)


def _touch_from_now_on() -> None:
    global _toucher

    def touch() -> None:
        while True:
            time.sleep(TOUCHED_EVERY)
            for path in list(_held):
                with suppress(OSError):
                    os.utime(path)

    if _toucher is None or not _toucher.is_alive():
        _toucher = threading.Thread(target=touch, daemon=True)
        _toucher.start()


def give_back() -> None:
    """Give back all folders that this process owns."""
    for path, mine in list(_held.items()):
        if mine["pid"] == os.getpid():  # not in a fork
            with suppress(OSError, ValueError):
                if json.loads(path.read_text())["pid"] == mine["pid"]:
                    path.unlink()
            del _held[path]


atexit.register(give_back)
