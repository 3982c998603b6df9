"""The house: imports between rooms run down only, and no file is too long.

``python tests/test_rooms.py`` (or ``pytest -s`` with this file) prints which room uses which.
"""

import ast
import collections
import graphlib
import re
from pathlib import Path

import pytest

from hierphase.runs import chapters

ROOT = Path(__file__).resolve().parent.parent
#: From the top down. Rooms of one floor do not import one another.
FLOORS = [
    ["entrance"],
    ["experiments"],
    ["networks"],
    ["runs"],
    ["rhm", "analysis", "diffusion"],
    ["ground"],
]
#: Files that lie in no folder of their own.
OUTSIDE = {
    "__init__": "entrance",
    "__main__": "entrance",
    "checks": "ground",
    "files": "ground",
    "parameters": "ground",
    "parametrisation": "ground",
    "seeds": "ground",
}
LONGEST = 350  # lines, all counted


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


MODULES = {module_of(path): path for path in (ROOT / "hierphase").rglob("*.py")}


def room(module):
    name = module.split(".")[1]
    return OUTSIDE.get(name, name)


def imports(tree):
    """The modules of hierphase that a file imports, at its top or in a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "say the whole name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "hierphase":
                yield known(name)


def known(name):
    """The module that holds ``name``."""
    if name in MODULES:
        return name
    above = name.rpartition(".")[0]
    return known(above) if "." in above else "hierphase.__init__"


def strings(tree):
    """All strings of a file but its docstrings."""
    statements = (node.value for node in ast.walk(tree) if isinstance(node, ast.Expr))
    documentation = {id(value) for value in statements}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in documentation:
                yield node.value


TREES = {module: ast.parse(path.read_text()) for module, path in MODULES.items()}
USES = {module: sorted(set(imports(tree))) for module, tree in TREES.items()}


def drawing():
    """The rooms from the top down, each with the rooms it uses and by how many arrows."""
    arrows = collections.Counter(
        (room(user), room(used)) for user, all_used in USES.items() for used in all_used
    )
    between = {pair: n for pair, n in arrows.items() if pair[0] != pair[1]}
    lines = []
    for floor in FLOORS:
        for name in floor:
            down = [f"{used} {n}" for (user, used), n in sorted(between.items()) if user == name]
            lines.append(f"{name:>12} -> {', '.join(down) or '-'}")
    lines.append(
        f"{len(between)} arrows between rooms for {sum(between.values())} between their files, "
        f"{arrows.total()} between all files"
    )
    return "\n".join(lines)


def test_imports_run_down():
    print(f"\n{drawing()}")
    height = {name: -i for i, floor in enumerate(FLOORS) for name in floor}
    assert {room(module) for module in MODULES} == height.keys()
    up = [
        f"{user} imports {used}"
        for user, all_used in USES.items()
        for used in all_used
        if room(user) != room(used) and height[room(user)] <= height[room(used)]
    ]
    assert not up, "\n".join(up)


def test_no_circle():
    graphlib.TopologicalSorter(USES).prepare()  # raises a CycleError with the circle


def test_no_module_is_named_in_a_string():
    names = "|".join({module.split(".")[1] for module in MODULES})
    pattern = re.compile(rf"hierphase\.({names})[.:\w]*")
    named = {
        module: found
        for module, tree in TREES.items()
        if (found := [text for text in strings(tree) if pattern.fullmatch(text)])
    }
    assert not named


@pytest.mark.parametrize("folder", ["hierphase", "tests", "benchmarks"])
def test_no_file_is_too_long(folder):
    lines = {path: len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert not {str(path.relative_to(ROOT)): n for path, n in lines.items() if n > LONGEST}


def test_no_chapter_has_too_much_code():
    """Blank lines aside, which in a cell only part it."""
    lines = {
        name: sum(len(re.findall(r"^.*\S", c.source, re.M)) for c in cells)
        for name in chapters.names()
        for cells in [[c for c in chapters.load(name).notebook.cells if c.cell_type == "code"]]
    }
    assert not {name: n for name, n in lines.items() if n > LONGEST}


if __name__ == "__main__":
    print(drawing())
