"""The nbval references hold what the chapters hold, compare something, and catch a wrong theory."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
import references
import yaml

import hierphase
from hierphase.runs import chapters
from hierphase.runs.results import book_directory

CHAPTERS = chapters.names()


def test_every_chapter_has_a_reference():
    assert list(references.small_parameters()) == CHAPTERS
    assert sorted(path.stem for path in references.NOTEBOOKS.glob("*.ipynb")) == CHAPTERS


@pytest.mark.parametrize("name", CHAPTERS)
def test_reference_holds_the_cells_of_its_chapter(name):
    text = (references.NOTEBOOKS / f"{name}.ipynb").read_text()
    stored = nbformat.reads(text, 4)
    expected = papermill.execute_notebook(
        chapters.load(name).notebook,
        None,
        references.small_parameters()[name],
        prepare_only=True,
        kernel_name="python3",
        language="python",
    )
    remedy = "the chapter and its reference differ: run `make reference` and look at the difference"
    assert references.code_cells(stored) == references.code_cells(expected), remedy
    assert nbformat.writes(stored) + "\n" == text

    checked = [c for c in stored.cells if references.CHECKED in c.metadata.get("tags", [])]
    assert checked, "no cell is tagged nbval-check-output"
    for cell in checked:
        assert cell.outputs, f"this checked cell printed nothing:\n{cell.source}"
        kinds = [kind for output in cell.outputs for kind in output.get("data", [])]
        glued = [kind for kind in kinds if kind.startswith("application/papermill.record")]
        assert not glued, f"glue elsewhere, all digits would be compared:\n{cell.source}"
        assert cell.execution_count is not None
    assert not any(c.outputs for c in stored.cells if c not in checked)


def test_a_reference_comes_out_byte_identical(book):
    first = references.reference("tree", {"L": 4})
    assert references.reference("tree", {"L": 4}) == first
    cells = nbformat.reads(first, 4).cells
    printed = [cell.outputs[0].text for cell in cells if cell.outputs]
    assert printed == ["(4, 0.5, 'tree', [0.1, 0.2], None)\n"]
    assert "injected-parameters" in cells[1].metadata.tags


@pytest.mark.parametrize(
    "wanted, message",
    [
        ({}, "no reference of tree: add a line `tree: {L: 4}` .* then `make reference`"),
        ({"tree": {}, "bush": {}}, "names bush, but the book has only \\['tree'\\]"),
        ({"tree": {"l": 3}}, "did you mean 'L'"),
        ({"tree": {"L": "ten"}}, "'ten' is of type str"),
    ],
)
def test_small_parameters_are_checked(book, tmp_path, wanted, message):
    path = tmp_path / "parameters.yml"
    path.write_text(yaml.safe_dump(wanted))
    with pytest.raises(ValueError, match=message):
        references.small_parameters(path)


@pytest.mark.parametrize("constant, status", [("(m - 1)", 0), ("(m - 1.1)", 1)])
def test_a_wrong_constant_in_the_theory_fails_the_reference(tmp_path, constant, status):
    package = tmp_path / "hierphase"
    shutil.copytree(Path(hierphase.__file__).parent, package)
    theory = package / "rhm" / "meanfield.py"
    before, upward, after = theory.read_text().partition("def upward(")
    assert after.count("a, f = (m - 1)") >= 1
    theory.write_text(before + upward + after.replace("a, f = (m - 1)", f"a, f = {constant}", 1))
    shutil.copy(references.NOTEBOOKS / "bp-theory.ipynb", tmp_path)
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--nbval-lax",
            "--nbval-current-env",
            "-p",
            "no:xdist",
            "--rootdir",
            tmp_path,
            "--color=no",
            "bp-theory.ipynb",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "HIERPHASE_BOOK": str(book_directory())},
    )
    assert process.returncode == status, process.stdout[-3000:]
    assert ("Cell outputs differ" in process.stdout) == bool(status)


def test_a_mismatch_says_what_to_do(book, tmp_path):
    tests = Path(references.__file__).parent
    for name in ("conftest.py", "references.py"):
        shutil.copy(tests / name, tmp_path)
    text = references.reference("tree", {"L": 4})
    (tmp_path / "tree.ipynb").write_text(text.replace("(4, 0.5", "(4, 0.6"))
    words = [sys.executable, "-m", "pytest", "--nbval-lax", "-p", "no:xdist", "tree.ipynb"]
    process = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert process.returncode == 1
    assert "tree: a number is not the one stored" in process.stdout
    assert "run `make reference`" in process.stdout
