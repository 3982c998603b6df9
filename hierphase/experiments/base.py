"""What all experiments are: a list of units, each measured alone from the parameters."""

import hashlib
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import xarray as xr

from hierphase.checks import check_known, increasing, positive_integer, within
from hierphase.parameters import plain


class Experiment:
    """Something measured on many units: images, blocks of data, networks, draws of the rules.

    A sweep computes ranges of units in any process, so that everything follows from the parameters.
    A subclass says how many units there are (``units``, or ``__len__``) and what is measured on
    one, ``measure_unit(i, prepared)``; one that is faster on many together overrides
    :meth:`measure`.

    Args:
        parameters: those of a preset (JSON types), all of them.

    Raises:
        ValueError: a missing or unknown parameter, or one of a type or value that it may not have.

    Attributes:
        presets: name of each preset -> its parameters.
        least: name of an integer parameter -> the smallest value that it may have, where not 1 (or
            0, of a seed).
        most: of some of these the largest.
        choices: name of a parameter -> the names that it, or each name in it, may be.
        between: parameters that are increasing numbers between 0 and 1.
        units: parameters, numbers or lists, whose product is the number of units.
        unit_dimensions: the dimensions along which ranges of units are joined, the first of them
            that of the units.
        padded: measured variables that are NaN where there is nothing to measure.
        parameters: as JSON gives them back.
        p: the same as attributes, ``p.seed``.
    """

    presets: dict[str, dict]
    least: dict[str, int] = {}
    most: dict[str, int] = {"seed": 2**64 - 1}
    choices: dict[str, dict | tuple] = {}
    between: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    padded: tuple[str, ...] = ()
    unit_dimensions: tuple[str, ...] = ("unit",)

    def __init__(self, parameters: dict):
        expected = next(iter(self.presets.values())).keys()
        missing, extra = expected - parameters.keys(), parameters.keys() - expected
        if missing or extra:
            raise ValueError(f"parameters lack {sorted(missing)} and have unknown {sorted(extra)}")
        least = {"seed": 0} | self.least
        for name, value in parameters.items():
            kinds = {type(preset[name]).__name__ for preset in self.presets.values()}
            if type(value).__name__ not in kinds | ({"int"} if "float" in kinds else set()):
                raise ValueError(f"{name} must be of type {' or '.join(kinds)}, got {value!r}")
            if kinds == {"int"}:
                positive_integer(name, value, least.get(name, 1), self.most.get(name))
        for name, known in self.choices.items():
            for chosen in [value] if isinstance(value := parameters[name], str) else value:
                check_known(f"value of {name}", chosen, known)
        for name in self.between:
            within(name, increasing(name, parameters[name], 1), 1e-6, 1 - 1e-6)
        self.parameters = {key: plain(f"parameter {key}", parameters[key]) for key in parameters}
        self.p = SimpleNamespace(**self.parameters)

    def __len__(self) -> int:
        sizes = (self.parameters[name] for name in self.units)
        return math.prod(x if isinstance(x, int) else len(x) for x in sizes)

    def check(self) -> None:
        """Raise where models, data and parameters do not fit one another, before any work.

        Raises:
            ValueError: they do not fit.
            FileNotFoundError: what a parameter names is missing.
        """

    def files(self) -> dict[str, dict[str, Path]]:
        """The files that numbers depend on: name in the key -> part that it has there -> file.

        Those of a parameter that is a path go by its name: their contents stand for it.
        """
        return {}

    def fingerprint(self) -> str:
        """SHA-256 of the parameters, and of the contents of all :meth:`files` in their order."""
        files = self.files().items()
        contents = {name: [(k, _sha256(path)) for k, path in own.items()] for name, own in files}
        text = json.dumps(self.parameters | contents, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def prepare(self) -> xr.Dataset:
        """What all units need, computed once."""
        return xr.Dataset()

    def measure(self, start: int, stop: int, prepared: xr.Dataset) -> xr.Dataset:
        """The experiment on units start..stop - 1.

        Args:
            start: first unit.
            stop: one past the last.
            prepared: what :meth:`prepare` gave.

        Returns:
            What ``measure_unit`` gives, along the first of ``unit_dimensions``.
        """
        (unit, *_), indices = self.unit_dimensions, np.arange(start, stop)
        measured = [self.measure_unit(int(i), prepared) for i in indices]
        together = xr.concat(measured, unit, data_vars="all", coords="minimal", join="exact")
        return together.assign_coords({unit: indices})

    def finish(self, merged: xr.Dataset) -> xr.Dataset:
        """The result: all units, and what is computed once from them."""
        return merged

    @classmethod
    def check_finite(cls, measured: xr.Dataset, parameters: dict) -> None:
        """Raise a ValueError that names the first NaN or infinity, but for ``padded`` variables."""
        for name, variable in measured.data_vars.items():
            bad = np.argwhere(~np.isfinite(variable.values)) if variable.dtype.kind == "f" else ()
            if len(bad) and name not in cls.padded:
                one = variable[tuple(bad[0])]
                where = {key: coordinate.item() for key, coordinate in one.coords.items()}
                precision = parameters.get("precision", "float32")
                found = f"{name} is {one.item()} at {where}, with precision {precision}"
                raise ValueError(f"{found}: take float32, or other weights of the networks")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
