"""The page of HTML that a run leaves: in one file, legible without network."""

import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from hierphase.__main__ import main
from hierphase.runs import chapters

SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><path d="M0 0h9v9z"/></svg>'
PROSE = """# A tree

Here $\\hat x_0$ is {glue:text}`half:.2f` of the {term}`leaf <leaves>`, as {cite:t}`someone2025tree`
says of {numref}`fig-tree` in [the list](scorecard.md) and in [](sec-below).

:::{choice} Where the paper is silent
We chose $p_1, \\dots, p_n$.
:::

$$
\\sum_{k=1}^{n} \\frac{p_k}{1 - \\epsilon} = \\begin{cases} 1 & n > 0 \\\\ 0 & n = 0 \\end{cases}
$$

```{run-this-chapter}
```
"""


@pytest.fixture
def page(tmp_path):
    """Renders a notebook; its HTML."""

    def render(*cells):
        path = tmp_path / "tree.ipynb"
        nbformat.write(new_notebook(cells=list(cells)), path)
        assert chapters.page(path) == tmp_path / "tree.html"
        return (tmp_path / "tree.html").read_text()

    return render


def glued(name, value):
    data = {"application/papermill.record/text/plain": repr(value)}
    metadata = {"scrapbook": {"name": name, "mime_prefix": "application/papermill.record/"}}
    output = new_output("display_data", data, metadata=metadata)
    return new_code_cell("glue(...)", outputs=[output], metadata={"tags": ["remove-cell"]})


def test_prose_formulas_and_figures(page):
    shown = new_output("display_data", {"image/svg+xml": SVG})
    html = page(
        glued("half", 0.5), new_markdown_cell(PROSE), new_code_cell("draw()", outputs=[shown])
    )
    words = " ".join(re.sub("<[^>]*>", " ", html.partition("<body")[2]).split())
    assert "0.50 of the leaf" in words
    assert "someone2025tree says of fig-tree in the list and in sec-below" in words
    assert "Where the paper is silent We chose" in words
    assert html.count("<math") == 3 and "<mfrac>" in html
    assert "<mover" in html.partition("<msub>")[0]  # the hat is on x, and the index beside both
    assert 'd="M0 0h9v9z"' in html or "data:image/svg+xml" in html
    assert "draw()" in words and "glue(...)" not in words
    assert not re.search(r"\{\w+(:\w+)?\}", words), "a role that nobody resolved"
    assert "system-message" not in html.partition("<body")[2]


def test_nothing_is_loaded_from_elsewhere(page):
    html = page(new_markdown_cell(PROSE))
    loaded = re.findall(r"""(?:src|href)=["']?([^"'\s>]+)|url\(([^)]+)\)|@import""", html)
    assert not [where for where, _ in loaded if not where.startswith(("#", "data:"))]
    assert "<script" not in html


def test_command(book, tmp_path, capsys):
    assert main(["run", "tree", "--output", "out"]) == 0
    told = capsys.readouterr().out
    for name in ("tree.ipynb", "tree.html"):
        assert str(tmp_path / "out" / name) in told
    assert "A chapter about trees</h1>" in (tmp_path / "out" / "tree.html").read_text()
    assert "hierphase compare" in told


def test_a_report_has_no_code_and_no_instructions(page, tmp_path):
    how = new_markdown_cell("Type this.", metadata={"tags": ["how"]})
    shown = new_output("stream", name="stdout", text="forty-two")
    page(new_markdown_cell("# A tree"), how, new_code_cell("count()", outputs=[shown]))
    report = chapters.page(tmp_path / "tree.ipynb", tmp_path / "report.html").read_text()
    assert "forty-two" in report and "count()" not in report and "Type this" not in report
    assert "count()" in (tmp_path / "tree.html").read_text()
