"""Sphinx extension: choices where the papers are silent, told where made, listed once.

A chapter says one with the directive ``choice`` (its name, and why); ``choice-list`` collects all
of them, chapter by chapter in the order of the contents, each with a link back.
"""

from docutils import nodes
from sphinx.util.docutils import SphinxDirective


class choice(nodes.Admonition, nodes.Element):
    """One choice: a title, and what is said of it."""


class choice_list(nodes.General, nodes.Element):
    """Where the list of all choices goes."""


class Choice(SphinxDirective):
    """``{choice} name``: a short box."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def run(self):
        """The box, with a target to link to."""
        name = f"choice-{self.env.docname.split('/')[-1]}-{self.env.new_serialno('choice')}"
        text, messages = self.state.inline_text(self.arguments[0], self.lineno)
        box = choice("", nodes.title("", "", *text), ids=[name], classes=["admonition", "choice"])
        self.state.nested_parse(self.content, self.content_offset, box)
        self.state.document.note_explicit_target(box)
        return [box, *messages]


class ChoiceList(SphinxDirective):
    """``{choice-list}``: all choices of the book."""

    def run(self):
        """A place for them."""
        return [choice_list("")]


def collect(app, doctree, docname):
    """Fill the lists of a page with the choices of all pages."""
    for place in list(doctree.findall(choice_list)):
        found = []
        for page in app.env.collect_relations():
            boxes = list(app.env.get_doctree(page).findall(choice))
            if boxes:
                found.append(rubric(app, docname, page))
            found += [entry(app, docname, page, box) for box in boxes]
        place.replace_self(found)
        app.env.get_domain("math").data["has_equations"][docname] = True  # loads MathJax here


def link(app, docname, page, anchor, *text):
    """A reference from one page to a place on another."""
    address = app.builder.get_relative_uri(docname, page) + anchor
    return nodes.reference("", "", *text, refuri=address, internal=True)


def rubric(app, docname, page):
    """Title of a chapter, above its choices."""
    title = app.env.titles[page].deepcopy().children
    return nodes.rubric("", "", link(app, docname, page, "", *title))


def entry(app, docname, page, box):
    """A choice of another page, its name linked to where it is made."""
    copy = box.deepcopy()
    title, *content = copy.children
    copied = nodes.definition_list_item(
        "",
        nodes.term("", "", link(app, docname, page, f"#{box['ids'][0]}", *title.children)),
        nodes.definition("", *content),
    )
    listed = nodes.definition_list("", copied)
    for node in listed.findall(nodes.Element):
        node["ids"] = []
    app.env.resolve_references(listed, page, app.builder)
    for script in list(listed.findall(nodes.raw)):  # extensions add to whatever is resolved
        script.parent.remove(script)
    for reference in listed.findall(nodes.reference):
        inside = "#" + reference.attributes.pop("refid", reference.get("refuri", "")[1:])
        if not reference.get("refuri", "#").startswith("#"):
            continue
        reference["refuri"] = app.builder.get_relative_uri(docname, page) + inside
        reference["internal"] = True
    return listed


def setup(app):
    """Connect to Sphinx."""

    def visit(translator, node):
        translator.visit_admonition(node)

    def leave(translator, node):
        translator.depart_admonition(node)

    app.add_node(choice, html=(visit, leave))
    app.add_node(choice_list)
    app.add_directive("choice", Choice)
    app.add_directive("choice-list", ChoiceList)
    app.connect("doctree-resolved", collect)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
