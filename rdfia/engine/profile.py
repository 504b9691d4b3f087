"""Where the time of a training goes: data, forward, backward, optimizer, validation, and what is left."""

import re
import time

import torch
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.utilities import rank_zero_only

# Kinds of work by the names that Lightning gives to its parts; the first that fits.
KINDS = {
    "data": r"dataloader_next|_to_device|batch_transfer",
    "validation": r"validation|_EvaluationLoop",
    "test": r"test",
    "backward": r"^backward$",
    "forward and losses": r"training_step",
    "optimizer": r"optimizer_step|zero_grad",
    "preparation": r"setup|prepare_data|_start$|configure",
    "callbacks": r"\[Callback\]",
    "loop and logging": r"",
}


class TimeTable(Profiler):
    """Counts each moment once, for the innermost part of Lightning that was at work, and prints a table.

    Where there is a GPU it waits for it at each border, so that the times are those of the work itself; that
    makes the whole slower.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds = dict.fromkeys(KINDS, 0.0)
        self.stack = [""]
        self.since = time.perf_counter()

    def start(self, action_name: str) -> None:
        """Begin with a part; the backward pass has no name of its own, only hooks before and after."""
        if action_name.endswith("on_after_backward") and self.stack[-1] == "backward":
            self._count().pop()
        self._count().append(action_name)

    def stop(self, action_name: str) -> None:
        """End a part."""
        self._count().remove(action_name)
        if action_name.endswith("on_before_backward") and self.stack[-1] != "backward":
            self.stack.append("backward")

    def _count(self) -> list[str]:
        """Count the time since the last border for the innermost part; return the parts at work."""
        if torch.cuda.is_initialized():  # which a run on the CPU does not begin
            torch.cuda.synchronize()
        now = time.perf_counter()
        kind = next(kind for kind, names in KINDS.items() if re.search(names, self.stack[-1]))
        self.seconds[kind] += now - self.since
        self.since = now
        return self.stack

    def summary(self) -> str:
        """Return the table."""
        whole = sum(self.seconds.values()) or 1.0
        rows = [f"{'':20}{'seconds':>10}{'share':>8}"]
        rows += [f"{kind:20}{seconds:10.1f}{seconds / whole:8.0%}" for kind, seconds in self.seconds.items()]
        return "\n".join(rows)

    @rank_zero_only
    def describe(self) -> None:
        """Print the table, with all that the trainer did so far: training, then test as well."""
        print(self.summary())
