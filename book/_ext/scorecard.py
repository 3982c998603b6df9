"""Sphinx extension: the claims of ``scorecard.yml`` as tables, their numbers those of the chapters.

A number in braces, ``{t-star:.3f}``, is what the claim's chapter has glued under that name;
``{t-star±:.3f}`` is an estimate with its interval, and ``{page/t-star:.3f}`` is of another page.
The directive ``scorecard`` shows a group of claims, ``findings`` the summary that the README and
the first page share.
"""

import re
import shlex
from pathlib import Path

import yaml
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

FIELD = re.compile(r"\$[^$]*\$|\{(?P<key>[^{}:±]+)(?P<interval>±?)(?P<spec>:[^{}]+)?\}")
HEADINGS = "Claim", "The papers", "Here", "Null", "Verdict", "Look, run"
COLUMNS = 22, 11, 20, 20, 11, 16


def numbers(text, chapter, page):
    """The text with a role in the place of each number in braces, but not within formulas."""

    def field(match):
        if not match["key"]:
            return match[0]
        where, _, key = match["key"].rpartition("/")
        where = where or chapter
        ends = [f"{key}-{end}" for end in ("value", "low", "high")] if match["interval"] else [key]
        before = "" if where == page else f"{where}.md::"
        found = [f"{{glue:text}}`{before}{end}{match['spec'] or ':s'}`" for end in ends]
        return found[0] if len(found) == 1 else "{} ({} to {})".format(*found)

    return FIELD.sub(field, text)


def badge(verdict):
    """The verdict, linked to what it means."""
    return f"{{ref}}`{verdict} <verdict-{verdict.replace(' ', '-')}>`"


def row(claim, page):
    """The cells of a claim, MyST."""
    ours, null = (numbers(claim[name], claim["chapter"], page) for name in ("here", "beside"))
    code = claim["code"].rpartition(".")[2]
    last = f"{{numref}}`{claim['figure']}`, {{py:obj}}`{code} <{claim['code']}>`, `{claim['run']}`"
    return claim["claim"], claim["paper"], ours, null, badge(claim["verdict"]), last


def table(name, headings, widths, rows):
    """A list table, the lines of it."""
    lines = ["````{list-table}", ":header-rows: 1", f":class: {name}"]
    lines += [f":widths: {shlex.join(map(str, widths))}", ""]
    for cells in [headings, *rows]:
        lines += [f"{'* -' if i == 0 else '  -'} {cell}" for i, cell in enumerate(cells)]
    return [*lines, "````"]


class FromFile(SphinxDirective):
    """Shows something of ``scorecard.yml``, which lies beside the page."""

    optional_arguments = 1
    final_argument_whitespace = True

    def run(self):
        """A table."""
        path = Path(self.env.doc2path(self.env.docname)).with_name("scorecard.yml")
        self.env.note_dependency(str(path))
        content = yaml.safe_load(path.read_text())
        found = nodes.container()
        lines = StringList(self.lines(content), source=str(path))
        self.state.nested_parse(lines, self.content_offset, found)
        return found.children


class Scorecard(FromFile):
    """``{scorecard} group``: its claims, one line each."""

    required_arguments, optional_arguments = 1, 0

    def lines(self, content):
        """The table, MyST."""
        group, page = self.arguments[0], self.env.docname.split("/")[-1]
        claims = [claim for claim in content["claims"] if claim["group"] == group]
        if not claims:
            raise self.error(f"scorecard.yml has no claims of the group {group!r}")
        return table("scorecard", HEADINGS, COLUMNS, [row(claim, page) for claim in claims])


class Findings(FromFile):
    """``{findings}``: results in a few lines, with the verdict that their claims share."""

    def lines(self, content):
        """The table, MyST."""
        verdicts = {claim["name"]: claim["verdict"] for claim in content["claims"]}
        rows = [(one["result"], badge(verdicts[one["claims"][0]])) for one in content["findings"]]
        return table("findings", ("Result", "Verdict"), (75, 25), rows)


def read_again(app, env):
    """Pages with numbers of other chapters are written whenever anything is."""
    return [name for name in env.found_docs if name.split("/")[-1] in ("index", "scorecard")]


def setup(app):
    """Connect to Sphinx."""
    app.add_directive("scorecard", Scorecard)
    app.add_directive("findings", Findings)
    app.connect("env-updated", read_again)
    app.add_css_file("scorecard.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
