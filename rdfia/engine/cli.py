"""The command line: flags are parsed, errors told in one line.

Imports neither torch nor Lightning, so that ``--help`` and a misspelt flag are answered at once.
"""

import contextlib
import dataclasses
import errno
import io
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import Any, TypeVar, get_args

import tyro

from rdfia.common.memory import keep_freed_memory
from rdfia.engine.args import RunArgs
from rdfia.engine.errors import Checked, Failed, Interrupted
from rdfia.engine.flag_groups import grouped, ungrouped
from rdfia.engine.lock import give_back
from rdfia.engine.slurm import requeue_job

Flags = TypeVar("Flags")


def fail(message: str) -> None:
    """Print an error in one line and leave with exit code 2."""
    line = " ".join(message.split())
    print(f"error: {line}", file=sys.stderr)
    raise Failed(line)


def parse(flags: type[Flags]) -> Flags:
    """Parse the command line; a wrong flag is one line of text and exit code 2."""
    complaint = io.StringIO()
    # Shorter help: INT without None; and the flags of a group as --lr, not --optimization.lr.
    config = (tyro.conf.DisallowNone, tyro.conf.OmitArgPrefixes)
    try:
        with contextlib.redirect_stderr(complaint):
            found: Flags = ungrouped(tyro.cli(grouped(flags), config=config))
            return found
    except SystemExit as stop:
        if not stop.code:
            raise
        # tyro draws a box: a title, the message, a rule, then help, sometimes with a suggestion.
        # Of other letters where the terminal has no Unicode.
        lines = [line.strip(" │|") for line in complaint.getvalue().splitlines()[1:]]
        rules = [number for number, line in enumerate(lines) if set(line) <= set("─╰╯-+")]
        first = 1 if 0 in rules else 0
        rule = next((number for number in rules if number >= first), len(lines))
        near = re.search(r"Perhaps you meant:\W*(--[\w-]+)", " ".join(lines))
        hint = f"did you mean {near[1]}? " if near else ""
        said = re.sub(r"'None', |, 'None'", "", " ".join(lines[first:rule])).rstrip(".")
        if "Expected one of {" in said and "subcommand" not in said:  # what each of them does is in the help
            sys.argv = [sys.argv[0], "--help"]
            with contextlib.redirect_stdout(sys.stderr), contextlib.suppress(SystemExit):
                tyro.cli(grouped(flags), config=config)
        fail(f"{said}; {hint}--help lists all flags")
        raise


def _terminated(number: int, frame: Any) -> None:
    """Leave on SIGTERM as on Ctrl-C, wherever no training saves itself first: what is begun can be kept."""
    raise Interrupted("terminated; what is complete is kept")


def _out_of_time(number: int, frame: Any) -> None:
    """Leave a Slurm job whose time is nearly over, wherever no training saves itself first."""
    if os.environ.get("SLURM_PROCID", "0") == "0":
        requeue_job()
    raise Interrupted("time is nearly over; the job is queued again and resumes from what is complete")


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, of a GPU or of the machine."""
    words = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)


def fields_of(flags: Any) -> set[str]:
    """Return the names of the fields of a class of flags, or of all of several commands."""
    kinds = [getattr(kind, "__origin__", kind) for kind in get_args(flags) or [flags]]
    return {one.name for kind in kinds if dataclasses.is_dataclass(kind) for one in dataclasses.fields(kind)}


def in_flags(text: str, flags: Any) -> str:
    """Return a message in the words of the command line: ``--gp-weight 10`` for the keyword ``gp_weight=10``.

    Args:
        text: The message; paths and what is no flag stay as they are.
        flags: The class of the flags, or of several commands that have flags.
    """
    names = fields_of(flags)

    def flag(found: re.Match[str]) -> str:
        name, value = found["name"], found["value"]
        if name not in names or not (value or "_" in name):
            return found[0]
        return f"--{name.replace('_', '-')}" + (f" {value[1:].strip(chr(39))}" if value else "")

    return re.sub(
        r"(?<![\w./-])(?P<name>[a-z][a-z0-9_]*)(?P<value>=('[^']*'|[\w.]*\w))?(?![\w/-])", flag, text
    )


def run_script(main: Callable[[Flags], Any], flags: type[Flags]) -> None:
    """Parse the command line and call ``main``; what a user can mend is one line and exit code 2.

    An interrupted run exits with 130, as after Ctrl-C in a shell.
    """
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show is no error
            stream.reconfigure(errors="backslashreplace")
    if "SLURM_JOB_ID" in os.environ:
        signal.signal(signal.SIGUSR1, _out_of_time)
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminated)
    try:
        args = parse(flags)
        if isinstance(args, RunArgs) and (names := args.needs()):
            from datamodules.layouts import check_there

            # Before torch is imported, which takes seconds.
            check_there(args.data_dir, names, args.needs_labels())
        main(args)
    except Checked as well:
        print(well)
    except (ValueError, FileNotFoundError, ConnectionError) as error:
        fail(in_flags(str(error), flags))
    except OSError as error:
        known = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EPERM}
        known |= {errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EIO}
        if error.errno not in known:
            raise
        fail(f"{error.filename or 'disk'}: {error.strerror}; files that were complete are kept")
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        there = fields_of(flags)
        smaller = [
            f"--{one.replace('_', '-')}" for one in ("batch_size", "image_size", "count") if one in there
        ]
        mend = f"a smaller {' or '.join(smaller)}, or " if smaller else ""
        fail(f"out of memory; take {mend}a device with more; {str(error)[:200]}")
    except (Interrupted, KeyboardInterrupt) as stop:
        said = str(stop) or "interrupted"
        if "--overwrite" in sys.argv:  # would begin from scratch, and lose what was saved
            said = said.replace("the same command", "the same command without --overwrite")
        print(said, file=sys.stderr)
        # Slurm ends a job with its first process that fails: the one that writes is to end by itself.
        sys.exit(130 if os.environ.get("SLURM_PROCID", "0") == "0" else 0)
    finally:
        if signal.getsignal(signal.SIGTERM) == _terminated:  # there is nothing left to keep
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        give_back()
        if "wandb" in sys.modules:  # else slow to import
            from rdfia.engine.wandb_run import finish_last

            finish_last(failed=sys.exception() is not None)
