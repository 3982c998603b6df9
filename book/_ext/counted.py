"""Sphinx extension: numbers about this project, counted while the book is built.

The role ``count`` says one, as ``{count}`tests``` or, of some files,
``{count}`tests rhm/*.py```.
"""

import ast
import io
import json
import re
import tokenize
from pathlib import Path

import yaml
from docutils import nodes
from sphinx.util.docutils import SphinxRole

from hierphase.runs import chapters

PAGES = {"book/cite", "book/how-made"}
SKIPPED = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def tests(root, files="**/test_*.py"):
    """Functions that pytest calls, each once or with several parameters."""
    return sum(
        isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        for pattern in files.split()
        for path in (root / "tests").glob(pattern)
        for node in ast.walk(ast.parse(path.read_text()))
    )


def lines(root, folder="hierphase"):
    """Lines of code, without docstrings, comments and blank lines."""
    return sum(code_lines(path.read_text()) for path in (root / folder).rglob("*.py"))


def code_lines(source):
    """Lines of a file that hold code."""
    used = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in SKIPPED:
            used |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        documented = ast.Module | ast.ClassDef | ast.FunctionDef
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            used -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(used)


def examples(root):
    """Statements of the examples in docstrings."""
    return sum(
        len(re.findall(r"^\s*>>> ", path.read_text(), re.MULTILINE))
        for path in (root / "hierphase").rglob("*.py")
    )


def references(root):
    """Chapters with a reference."""
    return len(list((root / "tests" / "notebooks").glob("*.ipynb")))


def compared(root):
    """Lines of output that the references compare."""
    cells = [
        cell
        for path in (root / "tests" / "notebooks").glob("*.ipynb")
        for cell in json.loads(path.read_text())["cells"]
    ]
    texts = ["".join(o.get("text", "")) for cell in cells for o in cell.get("outputs", ())]
    return sum(len(text.splitlines()) for text in texts)


def chapter_count(root):
    """Pages that compute."""
    return len(chapters.names())


def chapter_lines(root):
    """Lines of code in the chapters, without comments and blank lines."""
    notebooks = [chapters.load(name).notebook for name in chapters.names()]
    cells = [cell for notebook in notebooks for cell in notebook.cells]
    return sum(code_lines(cell.source) for cell in cells if cell.cell_type == "code")


def in_pages(root, pattern):
    """How often a line of a page begins with this."""
    texts = [path.read_text() for path in (root / "book").glob("*.md")]
    return sum(len(re.findall(f"^{pattern}", text, re.MULTILINE)) for text in texts)


def choices(root):
    """Choices where the papers are silent."""
    return in_pages(root, r":::+\{choice\}")


def exercises(root):
    """Exercises with a solution."""
    return in_pages(root, ":class: .*solution")


def claims(root, verdict=None):
    """Claims on the scorecard, all or those of one verdict."""
    found = yaml.safe_load((root / "book" / "scorecard.yml").read_text())["claims"]
    return sum(verdict in (None, claim["verdict"]) for claim in found)


def results(root):
    """Stored results."""
    return len(list((root / "book" / "results").glob("*.nc")))


def models(root):
    """Trained models."""
    return len(list((root / "book" / "models").glob("*/README.md")))


COUNTS = {
    "chapter lines": chapter_lines,
    "chapters": chapter_count,
    "choices": choices,
    "claims": claims,
    "compared": compared,
    "examples": examples,
    "exercises": exercises,
    "lines": lines,
    "models": models,
    "references": references,
    "results": results,
    "tests": tests,
}


class Count(SphinxRole):
    """``{count}`what``` or ``{count}`what of```: a number, its thousands set apart."""

    def run(self):
        """The number, as text."""
        known = sorted(COUNTS, key=len, reverse=True)
        name = next((n for n in known if f"{self.text} ".startswith(f"{n} ")), None)
        if name is None:
            message = f"no count {self.text!r}, only {', '.join(COUNTS)}"
            problem = self.inliner.reporter.error(message, line=self.lineno)
            return [], [problem]
        of = [part] if (part := self.text.removeprefix(name).strip()) else []
        return [nodes.Text(f"{COUNTS[name](Path(self.env.srcdir), *of):,}")], []


def outdated(app, env, added, changed, removed):
    """Pages with counts are read again in every build."""
    return PAGES & env.found_docs


def setup(app):
    """Connect to Sphinx."""
    app.add_role("count", Count())
    app.connect("env-get-outdated", outdated)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
