"""Reading the parameters of chapters, and executing chapters with other values.

The chapter ``tree`` of the fixture ``book`` is in conftest.py; it fails when L is negative.
"""

import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest

from hierphase.__main__ import main
from hierphase.runs import RunError, chapters


def test_every_chapter_of_the_book_can_be_run():
    known = chapters.names()
    assert known
    for chapter in map(chapters.load, known):
        assert chapter.defaults["output"] is None, chapter.name
        for line in filter(None, chapter.parameters.splitlines()):
            assert "  # " in line, f"{chapter.name}: {line} has no comment"


def test_parameters_with_defaults(book):
    assert chapters.names() == ["tree"]
    chapter = chapters.load("tree")
    assert chapter.title == "A chapter about trees"
    assert chapter.parameters.startswith("L = 10  # depth\nepsilon = 0.5  # noise\n")
    assert chapter.defaults == {
        "L": 10,
        "epsilon": 0.5,
        "name": "tree",
        "grid": [0.1, 0.2],
        "n_classes": None,
        "output": None,
    }


@pytest.mark.parametrize(
    "old, new, message",
    [
        *(
            (b"L = 10", line.encode(), f"{line!r} is not `name = literal`")
            for line in (
                "L = 2 * depth",
                "import os",
                "a, b = 1, 2",
                "a = b = 1",
                "a: int = 1",
                "lambda: L",
            )
        ),
        *(
            (b"L = 10", line.encode(), f"{line + '  # depth'!r} is not `name = literal`")
            for line in ("%matplotlib inline", "!ls", "L = [1", "L =")
        ),
        (b"n_classes = None", b"n_classes = int", "'n_classes = int' is not"),
        (b"Some prose", b"Some pr\xe9se", "'utf-8' codec can't decode byte 0xe9 in position"),
        (b"  name: python3", b"  name: [python3", "expected ',' or ']'"),
    ],
)
def test_one_faulty_page_stops_only_itself(book, capsys, old, new, message):
    source = (book / "tree.md").read_bytes()
    (book / "oak.md").write_bytes(source.replace(old, new))
    with pytest.raises(ValueError, match=re.escape(f"{book / 'oak.md'}: ")) as caught:
        chapters.load("oak")
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert main(["run", "oak"]) == 2
    assert main(["list"]) == 0
    shown = capsys.readouterr()
    assert shown.err == f"hierphase: error: {caught.value}\n" * 2
    assert shown.out.startswith("tree: A chapter about trees\n    L = 10")
    assert chapters.load("tree").defaults["L"] == 10


def test_a_page_that_is_no_chapter_may_be_anything(book):
    (book / "prose.md").write_bytes(b"caf\xe9")
    assert chapters.names() == ["tree"]


@pytest.mark.parametrize(
    "name, message",
    [
        ("treee", "unknown chapter 'treee' \\(did you mean 'tree'\\?\\); known: tree"),
        ("prose", "unknown chapter 'prose'; known: tree"),
    ],
)
def test_unknown_chapter(book, name, message):
    with pytest.raises(ValueError, match=message):
        chapters.load(name)


def test_wrong_values_are_refused_before_anything_runs(book, tmp_path):
    with pytest.raises(ValueError, match="parameter L of chapter tree is of type int"):
        chapters.run("tree", {"L": "ten"})
    assert not (tmp_path / "runs").exists()


def test_a_run_leaves_notebook_and_results(book, tmp_path):
    before = sorted(book.rglob("*"))
    path = chapters.run("tree", {"L": 3, "grid": [1.5]}, "here")
    assert path == tmp_path / "here" / "tree.ipynb"
    assert (path.parent / "summary.txt").read_text() == "(3, 0.5, 'tree', [1.5], None)"
    notebook = nbformat.read(path, 4)
    assert all(c.execution_count for c in notebook.cells if c.cell_type == "code")
    assert sorted(book.rglob("*")) == before


@pytest.mark.parametrize("folder", ["{L}/{x}/{}", "a{b/{{/}", "%20 $HOME é/~", "-p"])
def test_folders_of_any_name(book, tmp_path, monkeypatch, folder):
    (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / folder)
    path = chapters.run("tree", {"L": 2}, folder)
    assert path == tmp_path / folder / folder / "tree.ipynb"
    assert sorted(p.name for p in path.parent.iterdir()) == ["summary.txt", "tree.ipynb"]


@pytest.mark.parametrize("where", ["output", "here"])
def test_names_that_are_not_text_are_refused_at_once(book, tmp_path, monkeypatch, where):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    output = folder
    if where == "here":
        folder.mkdir()
        monkeypatch.chdir(folder)
        output = "out"
    with pytest.raises(ValueError, match=r"output directory '.*caf\\udce9.*' is not UTF-8"):
        chapters.run("tree", {}, output)
    assert not Path(output).exists()


def test_the_parameter_output_is_the_directory_too(book, tmp_path):
    assert chapters.run("tree", {"output": "there"}) == tmp_path / "there" / "tree.ipynb"


def test_threads_do_not_disturb_one_another(book, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        made = pool.map(lambda L: chapters.run("tree", {"L": L}, f"runs/depth-{L}"), (1, 2, 3))
        assert list(made) == [tmp_path / "runs" / f"depth-{L}" / "tree.ipynb" for L in (1, 2, 3)]
    assert sorted(os.listdir("runs")) == ["depth-1", "depth-2", "depth-3"]
    assert Path.cwd() == tmp_path
    for L in (1, 2, 3):
        assert Path("runs", f"depth-{L}", "summary.txt").read_text().startswith(f"({L}, ")


@pytest.mark.parametrize("line", ["%nonsense", "%%nonsense"])
def test_what_a_wrong_magic_prints_is_shown(book, line):
    text = (book / "tree.md").read_text()
    (book / "tree.md").write_text(text.replace("# This cell\n", f"{line}\n"))
    with pytest.raises(RunError, match=r"cell \[4\] of chapter tree failed") as caught:
        chapters.run("tree", {})
    told = str(caught.value).splitlines()[-2]
    assert told.startswith("UsageError: ") and f"`{line}`" in told


def test_results_of_an_earlier_run_are_told_from_those_of_a_failed_one(book):
    Path("out").mkdir()
    for name in ("tree-leaves.nc", "oak-leaves.nc"):
        Path("out", name).touch()
        os.utime(Path("out", name), (1, 1))
    with pytest.raises(RunError, match=r"until then: .*; of an earlier run: tree-leav"):
        chapters.run("tree", {"L": -1}, "out")


def test_a_failing_cell_is_named_and_the_rest_is_kept(book, tmp_path):
    with pytest.raises(RunError) as caught:
        chapters.run("tree", {"L": -1})
    notebook = tmp_path / "runs" / "tree" / "tree.ipynb"
    for part in ("cell [4] of chapter tree", "# fails if it", "RuntimeError: told to", notebook):
        assert str(part) in str(caught.value)
    assert "told to fail" in notebook.read_text()
    assert (notebook.parent / "summary.txt").exists()


def test_a_dead_kernel_is_an_error(book, tmp_path):
    with pytest.raises(RunError, match="the kernel of chapter tree died"):
        chapters.run("tree", {"L": -2})
    assert (tmp_path / "runs" / "tree" / "summary.txt").exists()


def test_ctrl_c_keeps_the_partial_notebook(book, tmp_path):
    command = [sys.executable, "-m", "hierphase", "run", "tree", "-p", "L", "-3"]
    process = subprocess.Popen(
        command, env={**os.environ, "HIERPHASE_BOOK": str(book)}, stderr=subprocess.PIPE, text=True
    )
    output = tmp_path / "runs" / "tree"
    deadline = time.monotonic() + 60
    while not (output / "asleep").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert f"chapter tree was interrupted\nwhat was done until then: {output}" in stderr
    cells = nbformat.read(output / "tree.ipynb", 4).cells
    assert [c.execution_count for c in cells if c.cell_type == "code"] == [1, 2, 3, 4]
