"""Settings that are one of a few words."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints


def check_choices(function: Callable[..., Any], settings: Mapping[str, Any]) -> None:
    """Check settings against the words that the signature of ``function`` knows, its ``Literal``.

    Without this a misspelt word would train another recipe under its name.

        check_choices(GANModule.__init__, {"loss": "lsgan"})

    Args:
        function: Such as the ``__init__`` of a module.
        settings: By name; those that ``function`` knows by a ``Literal`` are looked at.

    Raises:
        ValueError: One is another.
    """
    for name, hint in get_type_hints(function).items():
        if get_origin(hint) is Literal and name in settings and settings[name] not in get_args(hint):
            *others, last = map(str, get_args(hint))
            raise ValueError(f"{name} is {', '.join(others)} or {last}, got {settings[name]!r}")
