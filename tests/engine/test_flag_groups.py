"""Flags in titled groups: the boxes of --help, and that nothing else changes."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, ClassVar

import pytest
import tyro

from rdfia.adaptation.config import Args as DANNArgs
from rdfia.engine.cli import parse
from rdfia.engine.errors import Failed
from rdfia.engine.flag_groups import field_docs, grouped
from rdfia.generation.config import ConditionalGANArgs, GANArgs
from rdfia.interpret.config import Adversarial, ClassVisualization, Saliency
from rdfia.transfer.config import FineTuneArgs, SVMArgs

EVERY = [
    DANNArgs,
    GANArgs,
    ConditionalGANArgs,
    SVMArgs,
    FineTuneArgs,
    Saliency,
    Adversarial,
    ClassVisualization,
]


@dataclass(frozen=True)
class Base:
    """Flags of all."""

    GROUPS: ClassVar[dict[str, str]] = {}

    name: str = "base"
    """Name of it."""


@dataclass(frozen=True)
class Small(Base):
    """Flags of a small network."""

    GROUPS: ClassVar[dict[str, str]] = {"model": "width"}

    name: str = "small"
    """Name of the small one."""
    width: int = 3
    """Number of maps."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError("--width is at least 1")


def test_the_help_of_a_field_is_the_docstring_below_it():
    assert field_docs(Small) == {"name": "Name of the small one.", "width": "Number of maps."}


def test_flags_are_parsed_in_groups_and_given_flat(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["it", "--width", "5"])
    assert parse(Small) == Small(width=5)
    monkeypatch.setattr("sys.argv", ["it", "--help"])
    with pytest.raises(SystemExit):
        parse(Small)
    shown = capsys.readouterr().out
    order = [shown.rindex(text) for text in ("run options", "--name", "model options", "--width")]
    assert order == sorted(order)
    assert "Number of maps. (default: 3)" in shown
    assert "Flags of a small network." in shown


def test_a_value_that_is_refused_is_said_as_it_is(monkeypatch):
    monkeypatch.setattr("sys.argv", ["it", "--width", "0"])
    with pytest.raises(ValueError, match="--width is at least 1"):
        parse(Small)


def test_subcommands_are_grouped_too(monkeypatch, capsys):
    either = Annotated[Small, tyro.conf.subcommand("small")] | Annotated[Base, tyro.conf.subcommand("base")]
    monkeypatch.setattr("sys.argv", ["it", "small", "--width", "2"])
    assert parse(either) == Small(width=2)
    monkeypatch.setattr("sys.argv", ["it", "large"])
    with pytest.raises(Failed):
        parse(either)
    assert "--help lists all flags" in capsys.readouterr().err


@pytest.mark.parametrize("flags", EVERY)
def test_each_flag_is_in_one_group_with_its_default(flags):
    made = grouped(flags)()
    found = [
        (one.name, getattr(group, one.name))
        for group in vars(made).values()
        for one in dataclasses.fields(group)
    ]
    fields = [(one.name, one.default) for one in dataclasses.fields(flags)]
    assert sorted(found, key=str) == sorted(fields, key=str)
    assert len(vars(made)) >= 3
    assert max(len(vars(group)) for group in vars(made).values()) <= 18


def test_a_group_that_begins_with_no_flag_is_an_error():
    @dataclass(frozen=True)
    class Wrong(Base):
        """Flags."""

        GROUPS: ClassVar[dict[str, str]] = {"model": "depth"}

    with pytest.raises(AttributeError, match="Wrong has no depth to begin a group with"):
        grouped(Wrong)
