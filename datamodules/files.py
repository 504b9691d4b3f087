"""Find, download, verify and write files: the one place that knows where data lives on disk.

Data is looked up in the folder that the user names, else in ``$RDFIA_DATA``, else in ``./data``.
The name ``sample`` stands for the small data set embedded in this package; it is never taken in
place of data that was asked for.
"""

import hashlib
import http.client
import os
import shlex
import shutil
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

# How a CSV file is opened: names of files may be of another encoding, and are written as they are.
AS_CSV: dict[str, Any] = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}
DAY = 86_400  # seconds; no file takes longer to write
SAMPLES = Path(__file__).parent / "samples"


def data_root(data_dir: str | Path | None = None) -> Path:
    """Return the folder to read data from: ``data_dir``, else ``$RDFIA_DATA``, else ``./data``.

    Raises:
        FileNotFoundError: The folder does not exist.
    """
    asked = str(data_dir or os.environ.get("RDFIA_DATA") or "data")
    if asked == "sample":
        return SAMPLES
    root = Path(asked).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(
            f"data folder {root} does not exist; get the data with: "
            f"python scripts/prepare_data.py all --data-dir {shlex.quote(str(root))} "
            "(or use the embedded sample: --data-dir sample)"
        )
    return root


def weights_root(data_dir: str | Path | None = None) -> Path | None:
    """Return the folder that ``weights/`` may lie in, as `data_root`; None if none is named nor there.

    Own pictures need no data folder, and embedded or downloaded weights neither.
    """
    named = data_dir or os.environ.get("RDFIA_DATA")
    return data_root(data_dir) if named or Path("data").is_dir() else None


def say(text: str) -> None:
    """Print once, whatever the number of processes and the level of logging."""
    # Imported here: where data lies can be looked up without torch.
    from lightning.pytorch.utilities import rank_zero_only

    if getattr(rank_zero_only, "rank", 0) == 0:
        print(text, flush=True)


def not_found(what: str, expected: str, root: Path, command: str) -> FileNotFoundError:
    """Build the one text for "not found": what, where it was looked for, the command to run."""
    if root == SAMPLES:
        return FileNotFoundError(f"{what} is not part of the embedded sample; name a folder as --data-dir")
    return FileNotFoundError(
        f"{what} not found in {root}: expected {expected}; on a machine with a network run: "
        f"python scripts/prepare_data.py {command} --data-dir {shlex.quote(str(root))}"
    )


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries, so that a rename in it survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Let the processes of one machine make a file one after the other: all but the first find it made.

    Where files cannot be locked each makes it, which costs time and nothing else.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    digest = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:24]
    place = Path(tempfile.gettempdir()) / f"rdfia_{os.getuid()}_{digest}.lock"
    with ExitStack() as held:
        with suppress(OSError):
            file = held.enter_context(place.open("w"))
            held.callback(place.unlink, missing_ok=True)  # those who wait have it open
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that becomes ``path`` if the block succeeds.

    A crash, a full disk or a kill at any moment leaves either the old file or the new one, never a
    part of it. (What a kill leaves beside it is cleared by the next that writes there, a day later.)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(".*.part"):
        with suppress(OSError):  # another process was faster
            if left.is_file() and time.time() - left.stat().st_mtime > DAY:
                left.unlink()
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        # mkstemp makes files private; shared data folders want the ordinary permissions.
        mask = os.umask(0)
        os.umask(mask)
        part.chmod(0o666 & ~mask)
        part.replace(path)
        _sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that becomes ``path`` if the block succeeds.

    Where another process made ``path`` first, its folder stays and ours is dropped.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
    try:
        yield part
        part.chmod(0o755)
        try:
            part.rename(path)
        except OSError:
            if not path.is_dir():
                raise
        _sync_folder(path.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """Return the hexadecimal hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def download(url: str, path: Path, md5: str | None = None) -> None:
    """Download ``url`` to ``path`` atomically and check its md5.

    Raises:
        ConnectionError: No network, or the address does not answer.
        ValueError: The bytes that came are not the expected ones; nothing is kept.
    """
    with atomic_file(path) as part:
        try:
            with urllib.request.urlopen(url, timeout=30) as response, part.open("wb") as file:
                shutil.copyfileobj(response, file)
                promised = response.headers.get("Content-Length")
        except (http.client.HTTPException, OSError) as error:
            raise ConnectionError(
                f"could not download {url} ({error}); run this on a machine with a network, "
                f"or copy the file to {path} by hand"
            ) from error
        if promised and part.stat().st_size != int(promised):
            size = part.stat().st_size
            raise ConnectionError(f"{url} broke off after {size} of {promised} bytes; nothing was kept")
        if md5 and (got := file_hash(part, "md5")) != md5:
            raise ValueError(f"{url} has md5 {got}, expected {md5}; nothing was kept")
