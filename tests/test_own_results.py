"""A result of the reader's own, in the reader's build of the book."""

import sys
from pathlib import Path
from types import SimpleNamespace

import jupytext
import pytest
import references
import small_imagenet

from hierphase.__main__ import main
from hierphase.experiments import registry
from hierphase.runs import chapters, results

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def own_results(monkeypatch):
    """The extension of the book."""
    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    import own_results

    yield own_results
    sys.modules.pop("own_results")


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """The result of a sweep, of a stand-in for ImageNet."""
    folder = tmp_path_factory.mktemp("mine")
    words = small_imagenet.sweep(small_imagenet.parameters(folder) | {"precision": "float32"})
    assert main([*words, "--output", str(folder / "out")]) == 0
    (path,) = (folder / "out").glob("*.nc")
    return path


def page(own_results, name, setting):
    """The text of a page as Sphinx parses it, and what it depends on besides."""
    source, depends = [(ROOT / "book" / f"{name}.md").read_text()], []
    config = SimpleNamespace(hierphase_results=str(setting))
    env = SimpleNamespace(note_dependency=depends.append)
    own_results.replace(SimpleNamespace(config=config, env=env), f"book/{name}", source)
    return source[0], depends


@pytest.mark.parametrize("name", ["imagenet-transition", "natural-images", "image-layers"])
def test_a_page_gets_its_parameters_and_says_so(own_results, mine, name):
    text, depends = page(own_results, name, mine)
    assert depends == [str(mine)]
    about = results.read(mine).attrs
    below_title = text[text.index("\n# ") :].split("\n\n")[1]
    for said in (":::{admonition} Your own result", str(mine), about["created"], about["device"]):
        assert said in below_title
    notebook = jupytext.reads(text, "md:myst")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    (place,) = [i for i, c in enumerate(code) if "parameters" in c.metadata.get("tags", [])]
    assert code[place + 1].source.startswith(f"# Of your result, {about['created']}\n")
    given = {}
    exec(code[place + 1].source, given)
    del given["__builtins__"]
    assert given["preset"] == "imagenet" and given["stored"] == str(mine.parent)
    changes, stored = given["changes"], given["stored"]
    shown = registry.result("imagenet-transition", given["preset"], changes, stored=stored)
    assert shown.identical(results.read(mine))


def test_a_chapter_draws_it(own_results, tmp_path):
    """A cheap one: nothing can be said of a handful of images through random weights."""
    small = references.small_parameters()["correlations"]
    del small["recompute"]
    registry.run_sweep("correlations", "tree", small.pop("changes") | {"seed": 1}, tmp_path)
    given = own_results.values(tmp_path / "correlations-tree.nc", chapters.load("correlations"))
    assert given["changes"]["seed"] == 1 and given["stored"] == str(tmp_path)
    drawn = chapters.run("correlations", given | small, tmp_path / "out")
    assert drawn.read_text().count("image/svg+xml") > 2


@pytest.mark.parametrize("name, setting", [("imagenet-transition", ""), ("bp-theory", "mine")])
def test_other_pages_stay_as_they_are(own_results, mine, name, setting):
    text, depends = page(own_results, name, mine if setting else "")
    assert text == (ROOT / "book" / f"{name}.md").read_text() and not depends


def test_a_renamed_result_is_refused(own_results, mine, tmp_path):
    (tmp_path / "renamed.nc").write_bytes(mine.read_bytes())
    with pytest.raises(ValueError, match=r"holds imagenet-transition-imagenet.nc: rename it"):
        page(own_results, "imagenet-transition", tmp_path / "renamed.nc")
