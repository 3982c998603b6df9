"""Sphinx extension: how a chapter is run and what that costs, from its front matter.

The directive ``run-this-chapter`` shows a command for each entry of ``hierphase: costs:``, and a
table of time, memory and disk. A chapter without it is a warning; the first page needs none.
"""

import re

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from hierphase.runs import chapters

#: Of all chapters.
TABLE = """
| parameters | time | memory | disk |
|:--|--:|--:|--:|"""
NEXT = """
On two cores, without a GPU; larger sizes are estimates (`benchmarks/chapters.py` measures them).
A run leaves the executed notebook, the page as HTML and the results in its folder, and says what
next. [](/book/running.md) shows the same with plain papermill and on a cluster, and how to compare
a result with the book's.
"""
LOGGER = logging.getLogger(__name__)


class RunThisChapter(SphinxDirective):
    """``{run-this-chapter}``: commands that work when pasted, and their costs."""

    def run(self):
        """A container, of Markdown."""
        name = self.env.docname.rpartition("/")[2]
        costs = chapters.load(name).costs
        if not costs:
            LOGGER.warning("no costs in the front matter", location=self.env.docname)
        commands, rows = [], []
        for cost in costs:
            changes = cost["changes"]
            command = chapters.command(name, changes)
            if len(command) > 72:  # an option on each line, as a narrow window needs
                command = re.sub(" (?=-p |--output )", " \\\\\n    ", command)
            commands.append(f"```bash\n{command}\n```")
            changed = ", ".join(f"`{name} = {value!r}`" for name, value in changes.items())
            changed = changed or "as they stand"
            rows.append("| {} | {time} | {memory} | {disk} |".format(changed, **cost))
        box = nodes.container(classes=["run-this-chapter"])
        lines = "\n".join([*commands, TABLE, *rows, NEXT]).splitlines()
        self.state.nested_parse(StringList(lines, self.env.docname), self.content_offset, box)
        return [box]


def check(app, doctree):
    """Warn of a chapter that does not say how it is run."""
    boxes = (
        node for node in doctree.findall(nodes.container) if "run-this-chapter" in node["classes"]
    )
    name = app.env.docname.removeprefix("book/")
    if app.env.docname != app.config.root_doc and name in chapters.names() and not any(boxes):
        LOGGER.warning("a chapter without {run-this-chapter}", location=app.env.docname)


def setup(app):
    """Connect to Sphinx."""
    app.connect("doctree-read", check)
    app.add_directive("run-this-chapter", RunThisChapter)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
