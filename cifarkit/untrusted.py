"""Checks of records that were read from a file, which anybody may have written."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args, get_origin, get_type_hints

# Beyond every honest record.
MAX_DEPTH, MAX_VALUES = 8, 1_000_000


def check_plain(value: Any) -> None:
    """That a value is made of numbers, texts, lists, tuples and dicts of texts, not too many nor too deep:
    what is larger than the file it was in (many references to one list, a tensor without strides) is not
    taken to be what it seems.

    Raises:
        TypeError: it is not.
    """
    level = [value]
    seen = 0
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is dict:
                if any(type(key) is not str for key in item):
                    raise TypeError("a key that is no text")
                below += item.values()
            elif kind in (list, tuple):
                below += item
            elif kind not in (str, int, float, bool, type(None)):
                raise TypeError(f"a {kind.__name__}")
            if (seen := seen + 1) + len(below) > MAX_VALUES:
                raise TypeError("too many values")
        level = below
    if level:
        raise TypeError("lists within lists")


def check_types(record: Any) -> None:
    """That the fields of a dataclass hold what they are declared to hold; a float may be an int.

    Raises:
        TypeError: one does not.
    """
    hints = get_type_hints(type(record))
    for field in fields(record):
        value = getattr(record, field.name)
        if not _is(value, hints[field.name]):
            raise TypeError(f"{type(value).__name__} for {field.name}")


def _is(value: Any, hint: Any) -> bool:
    kind, parts = get_origin(hint) or hint, get_args(hint)
    if kind is tuple:
        if type(value) is not tuple:
            return False
        expected = [parts[0]] * len(value) if parts[-1] is ... else parts
        return len(value) == len(expected) and all(map(_is, value, expected))
    if parts:  # of a union
        return any(_is(value, part) for part in parts)
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind
