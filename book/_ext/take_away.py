"""Sphinx extension: what a reader takes along, and of which edition it is.

Every page says in its footer which version and commit it was built from. The buttons of the theme
that offer a chapter's executed notebook and source say so in words; ``downloads`` lists all
notebooks. ``bibtex`` shows how to cite.
"""

import re
from pathlib import Path

import yaml
from docutils import nodes
from sphinx.addnodes import download_reference
from sphinx.util.docutils import SphinxDirective

import hierphase
from hierphase.runs import results

PAGE = "book/cite"
BUTTONS = {
    "download-notebook-button": "Notebook with outputs (.ipynb)",
    "download-source-button": "Source of this page (.md)",
    "download-pdf-button": "Print, or save as PDF",
}


def edition() -> str:
    """Version of the package, and the commit where git knows it; ``+`` where files differ."""
    commit = results.git_commit()
    return f"hierphase {hierphase.__version__}" + ("" if commit == "unknown" else f", {commit}")


def note_edition(app, config):
    """Keep it among the settings, so that pages are written anew when it changes."""
    config.edition = edition()


def executed(app, docname) -> Path:
    """The executed notebook of a page; there is none where nothing is executed."""
    return Path(app.outdir).parent / "jupyter_execute" / f"{docname}.ipynb"


def frame(app, pagename, templatename, context, doctree):
    """Put the edition below a page, and words on its downloads."""
    footer = app.config.edition
    if PAGE in app.env.found_docs:
        address = context["pathto"](PAGE)
        footer += f' · <a href="{address}">Take away and cite</a>'
    context["theme_extra_footer"] = footer
    for group in context["header_buttons"]:
        for button in group.get("buttons", ()):
            button["text"] = BUTTONS.get(button.get("label"), button.get("text"))


class downloads(nodes.General, nodes.Element):
    """Where the list of notebooks goes."""


class Downloads(SphinxDirective):
    """``{downloads}``: every chapter, with its notebook and its source."""

    def run(self):
        """A place for them."""
        return [downloads("")]


def list_downloads(app, doctree, docname):
    """Fill the list when all chapters have been executed."""
    for place in list(doctree.findall(downloads)):
        items = nodes.bullet_list()
        for page in app.env.collect_relations():
            if not executed(app, page).is_file():
                continue
            size = executed(app, page).stat().st_size / 1e6
            notebook = f"{'../' * docname.count('/')}_sources/{page}.ipynb"
            address = app.builder.get_relative_uri(docname, page)
            title = nodes.reference(
                "", app.env.titles[page].astext(), refuri=address, internal=True
            )
            link = download_reference("", Path(notebook).name, refuri=notebook, reftarget=notebook)
            words = [title, nodes.Text(": "), link, nodes.Text(f", {size:.1f} MB")]
            items += nodes.list_item("", nodes.paragraph("", "", *words))
        place.replace_self(items)


class Bibtex(SphinxDirective):
    """``{bibtex} book`` for this edition, else keys of ``references.bib``."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self):
        """A block to copy."""
        entries = [self.entry(key) for key in self.arguments[0].split()]
        block = nodes.literal_block("", "\n\n".join(entries), language="bibtex")
        return [block]

    def entry(self, key):
        """One entry."""
        root = Path(self.env.srcdir)
        if key == "book":
            citation = yaml.safe_load((root / "CITATION.cff").read_text())
            lines = {
                "title": citation["title"],
                "author": " and ".join(f"{{{a['name']}}}" for a in citation["authors"]),
                "version": citation["version"],
                "year": self.config.copyright,
                "url": citation["repository-code"],
                "note": self.config.edition,
            }
            inside = ",\n".join(f"  {name:7} = {{{value}}}" for name, value in lines.items())
            return f"@software{{hierphase,\n{inside}\n}}"
        text = (root / "book" / "references.bib").read_text()
        found = re.search(rf"^@\w+{{{key},.*?^}}", text, re.MULTILINE | re.DOTALL)
        if not found:
            raise self.error(f"no entry {key} in references.bib")
        return found[0]


def outdated(app, env, added, changed, removed):
    """The page that lists them is read again in every build: commits and sizes change."""
    return [PAGE] if PAGE in env.found_docs else []


def setup(app):
    """Connect to Sphinx."""
    app.add_config_value("edition", "", "html", str)
    app.add_node(downloads)
    app.add_directive("downloads", Downloads)
    app.add_directive("bibtex", Bibtex)
    app.connect("config-inited", note_edition)
    app.connect("html-page-context", frame, priority=600)  # after the theme's own buttons
    app.connect("doctree-resolved", list_downloads)
    app.connect("env-get-outdated", outdated)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
