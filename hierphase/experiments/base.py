"""What all experiments are: a list of units, each measured alone from the parameters."""

import hashlib
from pathlib import Path
from typing import ClassVar

import numpy as np
import xarray as xr

from hierphase.checks import all_names, check_known, positive_integer


class Experiment:
    """Something measured on many units: images, blocks of data, networks, draws of the rules.

    A sweep computes ranges of units in any process, so that everything follows from the parameters.
    A subclass says how many units there are (``__len__``) and what is measured on one,
    ``measure_unit(i, prepared)``; one that is faster on many together overrides :meth:`measure`.

    Args:
        parameters: those of a preset (JSON types), all of them.

    Raises:
        ValueError: a missing or unknown parameter, or an integer that is too small.

    Attributes:
        presets: name of each preset -> its parameters.
        least: name of each integer parameter -> the smallest value that it may have.
        choices: name of a parameter -> the names that it may be.
        unit_dimensions: the dimensions along which ranges of units are joined, the first of them
            that of the units.
    """

    presets: ClassVar[dict[str, dict]]
    least: ClassVar[dict[str, int]] = {}
    choices: ClassVar[dict[str, dict | tuple]] = {}
    unit_dimensions: ClassVar[tuple[str, ...]] = ("unit",)

    def __init__(self, parameters: dict):
        all_names(parameters, next(iter(self.presets.values())).keys())
        for name, minimum in self.least.items():
            positive_integer(name, parameters[name], minimum)
        for name, known in self.choices.items():
            check_known(name, parameters[name], known)
        self.parameters = parameters

    def files(self) -> list[Path]:
        """Files, and folders of weights, that the numbers depend on besides the parameters."""
        return []

    def fingerprint(self) -> str:
        """SHA-256 of the contents of all :meth:`files`."""
        digest = hashlib.sha256()
        for path in self.files():
            for file in sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]:
                with file.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

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
