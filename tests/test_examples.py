"""The examples in docstrings are run, and what most users need has one."""

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import hierphase

PACKAGE = Path(hierphase.__file__).parent
SOURCES = {path: path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path, source in SOURCES.items()
    if ">>> " in source
]
#: They need a checkpoint of guided-diffusion; benchmarks/adm.py shows their use.
WITHOUT = {"convert_state_dict", "load_adm"}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed, tried = doctest.testmod(importlib.import_module(name), optionflags=options)
    assert tried and not failed


@pytest.mark.parametrize("name", sorted(set(hierphase.__all__) - WITHOUT))
def test_a_public_name_has_an_example_that_imports_it_as_a_user_does(name):
    documentation = inspect.getdoc(getattr(hierphase, name))
    (example,) = [part for part in documentation.split("\nExample:\n")[1:]]
    assert f"import {name}" in example or f", {name}" in example
    assert ">>> from hierphase import " in example
