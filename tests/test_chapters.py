"""Reading the parameters of chapters, and executing chapters with other values.

The chapter ``tree`` of the fixture ``book`` is in conftest.py; it fails when L is negative.
"""

import os
import signal
import subprocess
import sys
import time

import nbformat
import pytest

from hierphase import chapters


def test_every_chapter_of_the_book_can_be_run():
    known = chapters.names()
    assert known
    for chapter in map(chapters.load, known):
        assert chapter.parameters["output"].default is None, chapter.name
        for parameter in chapter.parameters.values():
            assert parameter.comment, f"{chapter.name}: parameter {parameter.name} has no comment"


def test_parameters_with_defaults_and_comments(book):
    assert chapters.names() == ["tree"]
    chapter = chapters.load("tree")
    assert chapter.title == "A chapter about trees"
    parameters = {p.name: (p.default, p.comment) for p in chapter.parameters.values()}
    assert parameters == {
        "L": (10, "depth"),
        "epsilon": (0.5, "noise"),
        "name": ("tree", "of the model"),
        "grid": ([0.1, 0.2], "where to"),
        "n_classes": (None, ""),
        "output": (None, "directory that receives the computed results"),
    }


@pytest.mark.parametrize("line", ["L = 2 * depth", "import os", "a, b = 1, 2", "a = b = 1"])
def test_parameters_cell_must_hold_literals(book, line):
    text = (book / "tree.md").read_text()
    (book / "tree.md").write_text(text.replace("L = 10", line))
    with pytest.raises(ValueError, match=f"chapter tree: '{line.replace('*', '.')}' is not"):
        chapters.load_all()


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


@pytest.mark.parametrize(
    "text, default, value",
    [
        ("12", 10, 12),
        ("1e-3", 0.5, 1e-3),
        ("cpu", "cuda", "cpu"),
        ("12", "cuda", "12"),
        ("'cpu'", "cuda", "cpu"),
        ("true", False, True),
        ("True", False, True),
        ("null", None, None),
        ("[1, 2.5]", [0.1], [1, 2.5]),
        ("ten", 10, "ten"),
    ],
)
def test_values_of_the_command_line(text, default, value):
    assert chapters.parse_value(text, default) == value


def test_values_take_the_type_of_the_default(book):
    defaults = chapters.load("tree").defaults
    values = {"epsilon": 1, "grid": (1, 2), "n_classes": "any"}
    checked = chapters.check_values("chapter tree", defaults, values)
    assert checked == {"epsilon": 1.0, "grid": [1.0, 2.0], "n_classes": "any"}
    assert [type(v) for v in (checked["epsilon"], *checked["grid"])] == [float] * 3


@pytest.mark.parametrize(
    "values, message",
    [
        ({"l": 3}, "unknown parameter of chapter tree 'l' \\(did you mean 'L'\\?\\); known: L"),
        ({"epsilonn": 3}, "did you mean 'epsilon'\\?\\); known: L=10, epsilon=0.5, name='tree'"),
        ({"L": "ten"}, "parameter L of chapter tree is of type int \\(default 10\\); 'ten' is of"),
        ({"L": 1.0}, "1.0 is of type float"),
        ({"L": True}, "True is of type bool"),
        ({"L": None}, "None is of type NoneType"),
        ({"epsilon": "nan"}, "type float \\(default 0.5\\); 'nan' is of type str"),
        ({"grid": 0.1}, "0.1 is of type float"),
        ({"grid": [0.1, "x"]}, "'x' is of type str"),
        ({"output": "here"}, "give 'here' as the output directory instead"),
    ],
)
def test_wrong_values_are_refused_before_anything_runs(book, tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        chapters.run("tree", values)
    assert not (tmp_path / "runs").exists()


def test_a_run_leaves_notebook_and_results(book, tmp_path):
    before = sorted(book.rglob("*"))
    path = chapters.run("tree", {"L": 3, "grid": [1.5]}, "here")
    assert path == tmp_path / "here" / "tree.ipynb"
    assert (path.parent / "summary.txt").read_text() == "(3, 0.5, 'tree', [1.5], None)"
    notebook = nbformat.read(path, 4)
    assert all(c.execution_count for c in notebook.cells if c.cell_type == "code")
    assert sorted(book.rglob("*")) == before


def test_a_failing_cell_is_named_and_the_rest_is_kept(book, tmp_path):
    with pytest.raises(chapters.CellError) as caught:
        chapters.run("tree", {"L": -1})
    notebook = tmp_path / "runs" / "tree" / "tree.ipynb"
    for part in ("cell [4] of chapter tree", "# fails if it", "RuntimeError: told to", notebook):
        assert str(part) in str(caught.value)
    assert "told to fail" in notebook.read_text()
    assert (notebook.parent / "summary.txt").exists()


def test_a_dead_kernel_is_an_error(book, tmp_path):
    with pytest.raises(chapters.CellError, match="the kernel of chapter tree died"):
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
