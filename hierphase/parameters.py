"""Parameters as users write them: read from text, and held against their defaults."""

import ast
import contextlib
import json
import math

from hierphase.checks import unknown, utf8


def parse_value(text: str, default: object) -> object:
    """A parameter's value as written on the command line.

    Args:
        text: a Python literal or JSON (``true``, ``null``, ``{"a": null}``); anything else is text.
        default: the parameter's default. Where it is text, ``text`` needs no quotes, but ``None``
            is None, and ``b'x'`` bytes.

    Returns:
        The value; :func:`check_values` compares its type with that of the default.
    """
    value = text
    for read in (ast.literal_eval, json.loads):
        with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            value = read(text)
            break
    return text if isinstance(default, str) and not isinstance(value, str | bytes | None) else value


def check_values(owner: str, defaults: dict, values: dict) -> dict:
    """Values for parameters, with the types of the defaults.

    An integer serves where the default is a float, None where it is text, anything where it is
    None.

    Args:
        owner: what has the parameters, in words ("chapter bp-theory").
        defaults: parameter -> default, all of them.
        values: parameter -> value.

    Returns:
        The values, tuples turned into lists (neither a notebook nor JSON has tuples).

    Raises:
        ValueError: an unknown parameter, or a value that is not of the default's type, or that JSON
            has no word for (NaN, bytes, a key that is no text).
    """
    checked = {}
    for name, value in values.items():
        if name not in defaults:
            shown = {known: f"{known}={default!r}" for known, default in defaults.items()}
            raise ValueError(unknown(f"parameter of {owner}", name, shown))
        whose = f"parameter {name} of {owner}"
        checked[name] = _convert(whose, *(plain(whose, x) for x in (value, defaults[name])))
    return checked


def plain(whose: str, value: object) -> object:
    """``value`` as JSON gives it back: tuples are lists.

    Raises:
        ValueError: JSON has no word for it (NaN is not even equal to itself); ``whose`` it is.
    """
    if isinstance(value, list | tuple):
        return [plain(whose, item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {plain(whose, key): plain(whose, item) for key, item in value.items()}
    if isinstance(value, str):
        utf8(f"{whose}:", value)
    elif not isinstance(value, int | float | None) or not -math.inf < (value or 0) < math.inf:
        raise ValueError(f"{whose} cannot be {value!r}, for which JSON has no word")
    return value


def _convert(whose: str, value: object, default: object) -> object:
    """``value`` with the type of ``default``."""
    if isinstance(default, float) and type(value) is int and abs(value) < 2**1023:
        return float(value)
    if default is None or (value is None and isinstance(default, str)):
        return value
    if type(value) is not type(default):
        kind = type(default).__name__
        found = f"{value!r} is of type {type(value).__name__}"
        raise ValueError(f"{whose} is of type {kind} (default {default!r}); {found}")
    if isinstance(default, list) and default:
        example = next((item for item in default if isinstance(item, float)), default[0])
        return [_convert(f"an item of {whose}", item, example) for item in value]
    return value
