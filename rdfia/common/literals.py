"""Settings that are one of a few words."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints


def validate_literals(function: Callable[..., Any], settings: Mapping[str, Any]) -> None:
    """Check settings against the words that the signature of ``function`` knows, its ``Literal``.

    Without this a misspelt word would train another recipe under its name.

        validate_literals(GANModule.__init__, {"loss": "lsgan"})

    Args:
        function: Such as the ``__init__`` of a module.
        settings: By name; those that ``function`` knows by a ``Literal`` are looked at, of those that may be
            something else the texts.

    Raises:
        ValueError: One is another.
    """
    for name, hint in get_type_hints(function).items():
        words = next((one for one in (hint, *get_args(hint)) if get_origin(one) is Literal), None)
        if words is None or name not in settings or settings[name] in get_args(words):
            continue
        if words is hint or isinstance(settings[name], str):
            *others, last = map(str, get_args(words))
            raise ValueError(f"{name} is {', '.join(others)} or {last}, got {settings[name]!r}")
