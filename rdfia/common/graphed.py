"""A whole training step as one CUDA graph: a GPU is given it at once, and not kernel by kernel.

A step of a small network is hundreds of kernels of a few microseconds each, and Python needs longer to ask
for one than the GPU needs to compute it. A graph (``torch.cuda.CUDAGraph``) keeps what was asked for once and
repeats it, on the same memory. So what changes from step to step must lie in that memory: images and latents
are copied there, and learning rates, lambda and the weight of the average are tensors.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rdfia.common.step_log import LogsSteps

WARM_UP = 3  # steps that are computed as usual first: optimizers and libraries make their memory in them
Step = Callable[..., Tensor]


def capture(work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """Return what repeats ``work`` as a CUDA graph, and where its result then lies; nothing is computed."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = work()
    return graph.replay, result


@dataclass
class _Variant:
    """One kind of step, with the memory that it reads."""

    inputs: list[Tensor]
    numbers: dict[str, Tensor]
    done: int = 0
    replay: Callable[[], None] | None = None
    result: Tensor = field(default_factory=lambda: torch.empty(0))


class GraphedSteps:
    """Repeats steps as CUDA graphs, one for each kind of step and shape of its inputs."""

    def __init__(self) -> None:
        self.variants: dict[Hashable, _Variant] = {}

    def __call__(
        self, kind: Hashable, step: Step, inputs: Sequence[Tensor], numbers: Mapping[str, float]
    ) -> Tensor:
        """Return ``step(*inputs, **numbers)``, the numbers as tensors () on the device.

        Args:
            kind: Of the step: whatever Python decides in it must follow from this alone.
            step: Changes weights and optimizers in place, and returns what is logged.
            inputs: Of one shape in all steps of a kind.
            numbers: What changes from step to step.
        """
        key = (kind, *((tensor.shape, tensor.dtype) for tensor in inputs))
        if key not in self.variants:
            device = inputs[0].device
            on_device = {name: torch.zeros((), device=device) for name in numbers}
            self.variants[key] = _Variant([torch.empty_like(tensor) for tensor in inputs], on_device)
        variant = self.variants[key]
        for mine, given in zip(variant.inputs, inputs, strict=True):
            mine.copy_(given)
        for name, number in numbers.items():
            variant.numbers[name].fill_(number)

        def work() -> Tensor:
            return step(*variant.inputs, **variant.numbers)

        if variant.replay is None and variant.done < WARM_UP:
            variant.done += 1
            return _beside(work, inputs[0].device)
        if variant.replay is None:
            variant.replay, variant.result = capture(work)
        variant.replay()
        return variant.result.clone()


def _beside(work: Callable[[], Tensor], device: torch.device) -> Tensor:
    """Return what ``work`` computes on a stream of its own, as CUDA wants it before a capture."""
    if device.type != "cuda":
        return work()
    usual, stream = torch.cuda.current_stream(), torch.cuda.Stream()
    stream.wait_stream(usual)
    with torch.cuda.stream(stream):
        result = work()
    usual.wait_stream(stream)
    return result


def prepare(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimizer be captured: its learning rates become tensors, which are set in place."""
    for group in optimizer.param_groups:
        device = group["params"][0].device
        group["lr"] = torch.tensor(float(group["lr"]), device=device)
        if "capturable" in group:
            group["capturable"] = device.type == "cuda"


def as_usual(groups: Sequence[dict[str, Any]]) -> None:
    """Undo `prepare` in groups of parameters of an optimizer, or of its state."""
    for group in groups:
        group["lr"] = float(group["lr"])
        if "capturable" in group:
            group["capturable"] = False


class GraphsSteps(LogsSteps):
    """A module whose training steps can be CUDA graphs: where ``use_graphs`` is true when training starts.

    Right on one device, in float32 and bf16-mixed. Losses and checkpoints are those of usual steps.
    """

    can_use_graphs = True
    use_graphs = False

    def __init__(self) -> None:
        super().__init__()
        self.graphs: GraphedSteps | None = None

    def on_train_start(self) -> None:
        """Begin with graphs of this training, if it has them."""
        if self.use_graphs and self.can_use_graphs:
            self.graphs = GraphedSteps()
            for optimizer in self.trainer.optimizers:
                prepare(optimizer)

    def on_train_end(self) -> None:
        """Give their memory back."""
        if self.graphs is not None:
            self.graphs = None
            for optimizer in self.trainer.optimizers:
                optimizer.zero_grad()
                as_usual(optimizer.param_groups)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save optimizers as those of usual steps."""
        super().on_save_checkpoint(checkpoint)
        for state in checkpoint.get("optimizer_states", []) if self.graphs else ():
            as_usual(state["param_groups"])
