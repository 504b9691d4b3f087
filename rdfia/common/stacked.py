"""Several networks of one shape as one: their weights lie in one tensor, with the networks side by side.

A small network leaves a GPU idle, and sixteen of them, trained with sixteen seeds, take hardly longer than
one if each operation does the work of all (``torch.func.stack_module_state`` and ``torch.vmap``).
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from rdfia.common.checks import KeepsPrecision
from rdfia.common.step_log import LogsSteps


class _Method(nn.Module):
    """A method of a network, or of a part of it, as something that can be called with weights."""

    def __init__(self, network: nn.Module, part: str, method: str) -> None:
        super().__init__()
        self.network, self.part, self.method = network, part, method

    def forward(self, *inputs: Tensor) -> Any:
        """Call it."""
        return getattr(self.network.get_submodule(self.part), self.method)(*inputs)


class Stacked(nn.Module):
    """Networks of one shape; each takes its part of the inputs, along their first dimension.

    An optimizer that works number by number, as Adam does, trains each as it would be trained alone.

    Args:
        networks: Of one class and shape.
    """

    template: nn.Module

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.count = len(networks)
        # Its code, without weights; and no part of this module, so that nobody trains or saves it.
        object.__setattr__(self, "template", copy.deepcopy(networks[0]).to("meta"))
        weights, buffers = stack_module_state(list(networks))
        trained = dict(networks[0].named_parameters())
        for name, value in weights.items():
            weight = nn.Parameter(value.detach().clone(), requires_grad=trained[name].requires_grad)
            self.register_parameter(name.replace(".", "|"), weight)
        for name, value in buffers.items():
            self.register_buffer(name.replace(".", "|"), value.clone())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Stacked":
        exact = [name for name, part in self.template.named_modules() if isinstance(part, KeepsPrecision)]
        prefixes = tuple(f"{name}.".replace(".", "|") for name in exact)
        before = {
            name: value for name, value in self._buffers.items() if prefixes and name.startswith(prefixes)
        }
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call] # torch's
        for name, value in before.items():
            assert value is not None
            moved = self._buffers[name]
            assert moved is not None
            self._buffers[name] = value.to(moved.device)
        return self

    def train(self, mode: bool = True) -> "Stacked":
        """Set the mode, of the networks too."""
        self.template.train(mode)
        return super().train(mode)

    def state(self) -> dict[str, Tensor]:
        """Return all weights and buffers (S, ...), by the names that a single network has for them."""
        everything = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        return {name.replace("|", "."): value for name, value in everything.items()}

    def state_of(self, number: int) -> dict[str, Tensor]:
        """Return the state of one network."""
        return {name: value[number].detach().clone() for name, value in self.state().items()}

    def call(self, part: str, method: str, *inputs: Tensor) -> Any:
        """Call a method of a part of all networks; the part "" is the network itself."""
        work = _Method(self.template, part, method)

        def one(state: dict[str, Tensor], *mine: Tensor) -> Any:
            return functional_call(work, {f"network.{name}": value for name, value in state.items()}, mine)

        called: Callable[..., Any] = torch.vmap(one, randomness="different")
        return called(self.state(), *inputs)

    def forward(self, *inputs: Tensor) -> Any:
        """Map inputs (S, ...) to outputs (S, ...)."""
        return self.call("", "forward", *inputs)


class StackedSteps(LogsSteps):
    """Training steps of several networks at once, on batches (S, B, ...); first among a module's bases."""

    several = True
    on_bar: tuple[str, ...] = ()
    compiled: tuple[str, ...] = ()  # vmap and torch.compile do not go together here

    def each(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function of one network's tensors as one of the tensors of all, side by side."""
        return torch.vmap(function)

    def log_step(self, names: Sequence[str], values: Tensor, numbers: Mapping[str, float]) -> None:
        """Keep the rows of all: (len(names), S) values, named ``<name>@<number>``."""
        own = [f"{name}@{number}" for name in names for number in range(values.shape[1])]
        super().log_step(own, values.flatten(), numbers)


def part_of_optimizer(state: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the state of an optimizer of one network, out of that of an optimizer of stacked ones."""
    moments = {
        place: {
            name: value[number].clone() if isinstance(value, Tensor) and value.ndim else value
            for name, value in one.items()
        }
        for place, one in state["state"].items()
    }
    return {"state": moments, "param_groups": state["param_groups"]}
