"""The directive that says how a chapter is run, and what it costs."""

import html
import re
import sys
from pathlib import Path

import pytest
import references
from sphinx.cmd.build import build_main

from hierphase.runs import chapters

ROOT = Path(__file__).resolve().parent.parent
COSTS = """hierphase:
  costs:
    - {changes: {}, time: 40 s, memory: 600 MB, disk: 1 MB}
    - changes: {recompute: true, sizes: {unet: [[64, 512]]}, n_data: 1000}
      time: 2 min
      memory: 1.2 GB
      disk: 3 MB
"""
PAGE = "# Tree\n\n## Run this chapter\n\n```{run-this-chapter}\n```\n"


@pytest.fixture
def build(tmp_path, monkeypatch, capsys):
    """Builds a page as Sphinx does; its HTML, and what the build warns of."""
    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    monkeypatch.setenv("HIERPHASE_BOOK", str(tmp_path / "book"))
    monkeypatch.setattr(chapters, "names", lambda: ["tree"])
    (tmp_path / "book").mkdir()
    (tmp_path / "conf.py").write_text("extensions = ['myst_parser', 'run_this_chapter']\n")
    (tmp_path / "book" / "running.md").write_text("---\norphan: true\n---\n# Running\n")

    def page(front_matter, root="book/tree"):
        header = references.HEADER.removesuffix("---\n") + front_matter + "---\n"
        (tmp_path / "book" / "tree.md").write_text(header + PAGE)
        options = ["-q", "-D", f"root_doc={root}", str(tmp_path), str(tmp_path / "html")]
        assert build_main(options) == 0
        return (tmp_path / "html" / "book" / "tree.html").read_text(), capsys.readouterr().err

    return page


def test_commands_and_a_table(build):
    page, warned = build(COSTS)
    assert not warned
    words = html.unescape(re.sub("<.*?>", "", page))
    assert "\nhierphase run tree --output runs/tree\n" in words
    for line in (
        "hierphase run tree",
        "    -p recompute True",
        """    -p sizes '{"unet": [[64, 512]]}'""",
        "    -p n_data 1000",
    ):
        assert f"{line} \\\n" in words
    assert "    --output runs/tree-recompute-True-sizes-unet-64-512-n_data-1000\n" in words
    assert "as they stand 40 s 600 MB 1 MB" in " ".join(words.split())
    assert page.count('<td class="text-right">') == 6
    assert 'href="running.html"' in page


def test_a_chapter_without_costs_is_a_warning(build):
    assert "WARNING: no costs in the front matter" in build("")[1]


@pytest.mark.parametrize("root, warned", [("book/tree", False), ("book/running", True)])
def test_a_chapter_without_the_directive_is_a_warning(build, tmp_path, monkeypatch, root, warned):
    monkeypatch.setattr(sys.modules[__name__], "PAGE", "# Tree\n")
    said = build(COSTS, root)[1]
    assert ("WARNING: a chapter without {run-this-chapter}" in said) == warned
