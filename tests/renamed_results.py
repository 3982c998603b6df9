"""The conversion that gave stored results their present names; it keeps every bit of the numbers.

Until issue "A house with six rooms" the dimension of the units of a sweep was called ``image`` in
all results, also where a unit is a block of data, a network or a draw of the rules; and the images
of the correlations had no chapter of their own. ``python tests/renamed_results.py`` converted what
was stored then. The file says so itself, in its attribute ``converted``, with the checksum of the
numbers before.
"""

import hashlib
import json
import sys

import numpy as np
import xarray as xr

from hierphase import files
from hierphase.runs import results

BOOK = results.book_directory() / "results"
NAMES = {"image": "unit"}
CHAPTER = "image-correlations"


def checksum(dataset):
    """SHA-256 of all numbers, whatever their names are; the order is that of the old names."""
    old = {new: old for old, new in NAMES.items()}
    digest = hashlib.sha256()
    for name in sorted(dataset.variables, key=lambda name: old.get(name, name)):
        values = dataset[name].values
        if values.dtype.kind in "OUT":
            values = json.dumps(values.tolist()).encode()
        digest.update(np.ascontiguousarray(values))
    return digest.hexdigest()


def convert(path, names, chapter=None):
    """Rewrite one stored result with other names of dimensions, or for another chapter."""
    with xr.open_dataset(path, engine="h5netcdf") as stored:
        dataset = stored.load()
    about = {"names": names, "chapter": dataset.chapter, "checksum": checksum(dataset)}
    dataset = dataset.rename(names).assign_attrs(converted=json.dumps(about))
    if chapter is not None:
        dataset.attrs["chapter"] = chapter
    target = results.result_path(dataset.chapter, dataset.preset, path.parent)
    files.write(results.netcdf(dataset), target)
    if target != path:
        path.unlink()
    return target


def main():
    """Convert what this file is about."""
    for chapter in ("probe-curves", "learned-denoisers", "correlations"):
        for path in sorted(BOOK.glob(f"{chapter}-*.nc")):
            if path.stem == "correlations-fashion-mnist":
                print(convert(path, {}, CHAPTER))
            else:
                print(convert(path, NAMES))


if __name__ == "__main__":
    sys.exit(main())
