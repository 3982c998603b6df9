"""Checks of what users pass in: errors that repeat the value and say what would be right."""

import contextlib
import difflib
import importlib
import operator

import numpy as np
import psutil


def positive_integer(name: str, value, minimum: int = 1, maximum: int | None = None) -> int:
    """Return ``value`` as an int.

    Raises:
        ValueError: it is not an integer, smaller than ``minimum`` or larger than ``maximum``.
    """
    try:
        number = operator.index(None if isinstance(value, bool) else value)
    except TypeError:
        raise ValueError(f"{name} must be an integer, got {value!r}") from None
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    if maximum is not None and number > maximum:
        raise ValueError(f"{name} must be at most {maximum}, got {number}")
    return number


def at_least(values: dict, **minima: int) -> None:
    """Raise a ValueError unless the values of these names are integers, none below its minimum."""
    for name, minimum in minima.items():
        positive_integer(name, values[name], minimum)


def fractions(name: str, value) -> np.ndarray:
    """Return ``value``, a number or an array of numbers, as float64 of the same shape.

    Raises:
        ValueError: not numbers, or one of them outside [0, 1].
    """
    array = np.asarray(None)
    with contextlib.suppress(RuntimeError, TypeError, ValueError):  # bfloat16, gradients, ragged
        array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} must be a number between 0 and 1, got {value!r}")
    wrong = ~((array >= 0) & (array <= 1))
    if wrong.any():
        raise ValueError(f"{name} must be between 0 and 1, got {array[wrong].flat[0]}")
    return array.astype(np.float64)[()]


def fraction(name: str, value) -> float:
    """Return ``value`` as a float.

    Raises:
        ValueError: not a single number, or outside [0, 1].
    """
    number = fractions(name, value)
    if number.ndim:
        raise ValueError(f"{name} must be one number, got an array of shape {number.shape}")
    return float(number)


def within(name: str, value, low: float, high: float, integer: bool = False):
    """Return ``value`` as a tensor of PyTorch, of float32, float64 or int64.

    Raises:
        ValueError: it does not consist of numbers, or integers, from ``low`` to ``high``.
    """
    import torch  # here: a command that checks no tensors should not wait for it

    kinds = (torch.int64,) if integer else (torch.int64, torch.float32, torch.float64)
    with contextlib.suppress(TypeError, RuntimeError, ValueError):
        x = torch.as_tensor(value)
        if not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool):
            x = x.long()  # uint8 would be a mask
        if x.dtype in kinds and ((x >= low) & (x <= high)).all():
            return x
    kind = "integer" if integer else "a number"
    raise ValueError(f"{name} must be {kind}, {low} to {high}, got {value!r}")


def increasing(name: str, values, minimum: int = 2) -> np.ndarray:
    """Return ``values`` as float64 (n,).

    Raises:
        ValueError: fewer than ``minimum``, not finite, or not each larger than the one before.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < minimum or not (np.diff(array) > 0).all():
        written = {"float_kind": lambda x: str(float(x))}
        found = np.array2string(array, threshold=20, separator=", ", formatter=written)
        raise ValueError(f"{name} must increase, {minimum} or more, got {found}")
    check_finite(name, array)
    return array


def check_finite(name: str, x, *axes: str | int) -> None:
    """:func:`check_shape`, and a ValueError where ``x`` holds NaN or infinity."""
    check_shape(name, x, *axes or ["..."])
    wrong = ~((x > -np.inf) & (x < np.inf))
    if wrong.any():
        raise ValueError(f"{name} must be finite, got {x[wrong][0].item()}")


def check_memory(n_bytes: int, what: str, **sizes: int) -> None:
    """Raise a ValueError where ``what``, of these sizes, needs more memory than there is."""
    if n_bytes > (memory := psutil.virtual_memory().total):
        given = ", ".join(f"{name}={size}" for name, size in sizes.items())
        needed = f"{what} of {given} need {n_bytes:,} bytes, of {memory:,} here"
        raise ValueError(f"{needed}: choose smaller sizes, or take a part at a time")


def check_shape(name: str, x, *axes: str | int) -> None:
    """Raise a ValueError unless the array or tensor ``x`` is of a shape such as "n 3 side side".

    Args:
        name: of ``x``, for the message.
        x: the array.
        axes: of every axis its size, or a word for any size but zero, the same wherever the word
            stands again; ``...`` is any number of axes, none of them empty. Words may come together
            in one string.
    """
    shape, words = tuple(np.shape(x)), " ".join(map(str, axes)).split()
    wanted = ", ".join(words) + ("," if len(words) == 1 else "")
    if "..." in words:
        place = words.index("...")
        words[place : place + 1] = (f"...{k}" for k in range(len(shape) - len(words) + 1))
    sizes = {word: int(word) for word in words if word.isdigit()}
    fits = [n == sizes.setdefault(word, n or 1) for word, n in zip(words, shape, strict=False)]
    if len(words) != len(shape) or not all(fits):
        raise ValueError(f"{name} must be of shape ({wanted}), got {shape}")


def tree_sizes(v, m, s, n_symbols=None) -> tuple[int, int, int]:
    """Return (v, m, s) as ints that allow unambiguous rules.

    Args:
        v: symbols per level, at least 2.
        m: rules per symbol, at least 1.
        s: symbols per rule, at least 2.
        n_symbols: the largest number of symbols that need rules of their own; None means ``v``.

    Raises:
        ValueError: a size is no integer or too small, or ``m * n_symbols`` rules do not fit into
            the ``v**s`` different tuples.
    """
    v = positive_integer("v", v, minimum=2)
    m = positive_integer("m", m)
    s = positive_integer("s", s, minimum=2)
    n_symbols = v if n_symbols is None else n_symbols
    if s * v.bit_length() > 1000:
        raise ValueError(f"v**s = {v}**{s} is too large for floating-point numbers")
    if m * n_symbols > v**s:
        need, most = f"m={m} rules need {m * n_symbols} different tuples", v**s // n_symbols
        raise ValueError(f"{need}, only v**s = {v}**{s} = {v**s} exist; choose m at most {most}")
    return v, m, s


def tree_depth(L, s: int, bits: int = 1000) -> int:
    """Return ``L`` as an int.

    Raises:
        ValueError: not a positive integer, s below 2, or more than 2**bits leaves, of s each level.
    """
    return positive_integer("L", L, 1, int(bits / np.log2(positive_integer("s", s, 2))))


def rules_by_level(m, L: int) -> tuple[int, ...]:
    """Return ``m``, rules of a symbol, at levels 1 to L: one number for all, or L numbers.

    Raises:
        ValueError: not positive integers, or other than L of them.
    """
    if not isinstance(m, list | tuple):
        return (positive_integer("m", m),) * L
    if len(m) != L:
        raise ValueError(f"m must be one number or L={L} numbers, got {m!r}")
    return tuple(positive_integer("each m", number) for number in m)


@contextlib.contextmanager
def naming(what: str):
    """Make of any error one of a single line that says what it came of, for the ``with`` block.

    There is no limit to what a damaged file, or a wrong value, makes its readers raise.

    Raises:
        ValueError: in place of an Exception.
    """
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{what}: {reason}") from None


def utf8(name: str, value) -> None:
    """Raise a ValueError where ``value`` as text, the name of a file say, is no valid UTF-8."""
    if (text := str(value)) != text.encode(errors="replace").decode():
        raise ValueError(f"{name} {text!r} is not UTF-8, as notebooks and results need: rename it")


def unknown(kind: str, name: str, known: dict[str, str] | list[str]) -> str:
    """Message for a name that does not exist.

    Args:
        kind: what it should have named.
        name: the name.
        known: the names that exist, or each with the text to show for it.

    Returns:
        The name, the closest that exists, and all of them.
    """
    folded = {other.casefold(): other for other in known}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    question = f" (did you mean {folded[close[0]]!r}?)" if close else ""
    shown = known.values() if isinstance(known, dict) else known
    return f"unknown {kind} {name!r}{question}; known: {', '.join(shown) or 'none'}"


def check_known(kind: str, name: str, known: dict | list | tuple) -> None:
    """Raise a ValueError with the message of :func:`unknown` unless ``name`` is in ``known``."""
    if name not in known:
        raise ValueError(unknown(kind, name, list(known)))


def import_extra(module: str, extra: str):
    """Return a module that only an extra of the package installs.

    Raises:
        ImportError: it is not installed; the message names the command that does it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(f"this needs {error.name}: pip install 'hierphase[{extra}]'") from None
