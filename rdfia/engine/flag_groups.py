"""Flags in titled groups: dataclasses are flat, as modules and experiments want them; ``--help`` has boxes.

A dataclass of flags names with ``GROUPS`` the title of each group and the first of its fields; what stands
before the first of them is the group ``run``.
"""

import ast
import dataclasses
import functools
import inspect
import operator
import textwrap
import typing
from typing import Annotated, Any

import tyro


def field_docs(flags: type) -> dict[str, str]:
    """Return the docstrings that stand below the fields of a dataclass, those of its parents too."""
    found: dict[str, str] = {}
    for kind in reversed(flags.__mro__):
        if not dataclasses.is_dataclass(kind):
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        assert isinstance(definition, ast.ClassDef)
        for field, after in zip(definition.body, definition.body[1:], strict=False):
            match field, after:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    found[name] = inspect.cleandoc(text)
    return found


def with_help(kind: Any, text: str) -> Any:
    """Return the type of a flag, annotated with its help."""
    return Annotated[kind, tyro.conf.arg(help=text)]


def grouped(flags: Any) -> Any:
    """Return a dataclass of dataclasses, one a group, that has the flags of ``flags``.

    Of a union of subcommands each is grouped; what has no ``GROUPS`` stays as it is.
    """
    if typing.get_origin(flags) is Annotated:
        kind, *more = typing.get_args(flags)
        return Annotated[(grouped(kind), *more)]
    if members := typing.get_args(flags):
        return functools.reduce(operator.or_, map(grouped, members))
    if not hasattr(flags, "GROUPS"):
        return flags
    docs, hints = field_docs(flags), typing.get_type_hints(flags, include_extras=True)
    titles = {first: title for title, first in flags.GROUPS.items()}
    if unknown := titles.keys() - hints.keys():
        raise AttributeError(f"{flags.__name__} has no {', '.join(sorted(unknown))} to begin a group with")
    fields: dict[str, list[Any]] = {}
    title = "run"
    for one in dataclasses.fields(flags):
        title = titles.get(one.name, title)
        hint = with_help(hints[one.name], docs[one.name])
        fields.setdefault(title, []).append((one.name, hint, dataclasses.field(default=one.default)))
    every: list[Any] = []
    for title, own in fields.items():
        group = dataclasses.make_dataclass(title, own, frozen=True)
        every.append((title, group, dataclasses.field(default_factory=group)))
    made = dataclasses.make_dataclass(flags.__name__, every, namespace={"flags": flags}, frozen=True)
    made.__doc__ = flags.__doc__
    return made


def ungrouped(found: Any) -> Any:
    """Return the flat dataclass of flags that were parsed in groups.

    Raises:
        ValueError: The flags do not go together.
    """
    if not hasattr(found, "flags"):
        return found
    return found.flags(
        **{name: value for group in vars(found).values() for name, value in vars(group).items()}
    )
