"""What CONTRIBUTING.md shows is run: its Python in the order of the page, and its chapter."""

import re
from pathlib import Path

import nbformat
import pytest

from hierphase.experiments import registry
from hierphase.networks import catalogue
from hierphase.runs import chapters

PAGE = (Path(__file__).resolve().parent.parent / "CONTRIBUTING.md").read_text()
EXAMPLES = re.findall(r"^## ([^\n]*)$(?:(?!^## ).)*?^```python\n(.*?)^```$", PAGE, re.M | re.S)


def test_the_chapter(tmp_path, monkeypatch):
    (chapter,) = re.findall(r"^````markdown\n(.*?)^````$", PAGE, re.M | re.S)
    (tmp_path / "leaves.md").write_text(chapter)
    monkeypatch.setenv("HIERPHASE_BOOK", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    executed = nbformat.read(chapters.run("leaves", {"L": 2}), 4)
    assert executed.cells[-1].outputs[0].text == "torch.Size([4, 4])\n"


@pytest.fixture(scope="module")
def names():
    """What the examples define, for those that follow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "TRAININGS", dict(catalogue.TRAININGS))
        patch.setattr(registry, "EXPERIMENTS", dict(registry.EXPERIMENTS))
        yield {}


@pytest.mark.parametrize("title, code", EXAMPLES, ids=[title for title, _ in EXAMPLES])
def test_example(title, code, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, f"CONTRIBUTING.md, {title}", "exec"), names)


def test_all_that_can_be_added_has_an_example():
    titles = [title for title, _ in EXAMPLES]
    assert titles == ["A data set", "A model", "A statistic", "A world", "An experiment"]
