"""A stand-in for CUDA graphs on a CPU: keeps the operations of a step and repeats them."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Tape(TorchDispatchMode):
    """Keeps each operation with its tensors, and repeats all of them on the same memory, as a graph does."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.kept.append((func, args, kwargs or {}, result))
        return result

    def replay(self):
        for func, args, kwargs, result in self.kept:
            if func.is_view:  # on the same memory already
                continue
            again = func(*args, **kwargs)
            for old, new in zip(tensors(result), tensors(again), strict=True):
                if old is not new and old.data_ptr() != new.data_ptr():
                    old.detach().copy_(new)


def tensors(found):
    """Return the tensors in what an operation returns."""
    if isinstance(found, torch.Tensor):
        return [found]
    return [one for part in found for one in tensors(part)] if isinstance(found, list | tuple) else []


def on_tape(work):
    """Stand for `graphed.capture`, which computes nothing: the first replay is the recording itself."""
    tape = Tape()
    with tape:
        result = work()
    again = []

    def replay():
        if again:
            with torch.no_grad():
                tape.replay()
        again.append(True)

    return replay, result
