"""The files around the package agree with one another."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import hierphase

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(lines):
    """Canonical package name -> version, of the lines ``name==version``."""
    pinned = [line.strip().split("==") for line in lines if "==" in line and line[0] != "#"]
    assert all(len(pin) == 2 for pin in pinned), pinned
    return {canonicalize_name(name): version for name, version in pinned}


CONSTRAINTS = pins((ROOT / "constraints.txt").read_text().splitlines())


def requirements():
    """Every direct dependency, extras included."""
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(r) for r in [*PROJECT["dependencies"], *(r for e in extras for r in e)]]


def test_every_dependency_is_pinned_to_a_version_it_allows():
    for requirement in requirements():
        version = CONSTRAINTS[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} is pinned to {version}"


def test_conda_environment_is_in_step():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, last = environment["dependencies"]
    assert f"python{PROJECT['requires-python'].replace('>=', '=')}" in conda
    assert "pip" in conda
    options = [line for line in last["pip"] if line.startswith("-")]
    assert options == ["-c constraints.txt", "-e ."]
    direct = {canonicalize_name(r.name) for r in requirements()}
    listed = pins([line for line in last["pip"] if line not in options])
    assert listed == {name: CONSTRAINTS[name] for name in direct}


def test_citation():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation.keys() >= {"message", "title", "authors", "repository-code"}
    assert citation["authors"] == [{"name": "The hierphase developers"}]
    assert citation["version"] == PROJECT["version"] == hierphase.__version__
    assert citation["license"] == PROJECT["license"] == "MIT"
    paper = citation["preferred-citation"]
    assert paper.keys() >= {"type", "title", "authors", "journal", "year"}
    assert paper["doi"] == "10.1073/pnas.2408799121"
    assert [a["family-names"] for a in paper["authors"]] == ["Sclocchi", "Favero", "Wyart"]


@pytest.mark.parametrize("path", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=str)
def test_workflows_call_targets_that_exist(path):
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    (job,) = yaml.safe_load(path.read_text())["jobs"].values()
    called = {m for step in job["steps"] for m in re.findall(r"make (\w+)", step.get("run", ""))}
    assert called
    assert called <= targets


def test_api_shows_every_module():
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "hierphase").rglob("[!_]*.py")
    } | {f"hierphase.{path.parent.name}" for path in (ROOT / "hierphase").glob("*/__init__.py")}
    pages = [ROOT / "book/api.md", *(ROOT / "book/api").glob("*.md")]
    shown = [m for page in pages for m in re.findall(r"automodule:: (\S+)", page.read_text())]
    assert sorted(shown) == sorted(modules)


def test_what_is_new_has_its_numbers_from_the_chapters_and_names_tests_that_exist():
    page = (ROOT / "book/new-results.md").read_text()
    named = re.findall(r"`(tests/[^`]+)`", page)
    assert named and all((ROOT / name).is_file() for name in named)
    assert not re.search(r"\d\.\d", re.sub(r"{glue:text}`[^`]*`|\$[^$]*\$", "", page))
