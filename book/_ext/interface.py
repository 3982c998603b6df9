"""Sphinx extension: pages of the interface, of sources and of entries to copy are set closer.

They have a style sheet of their own, and no other page loads it.
"""

PAGES = ("book/api", "book/cite", "_modules/")


def style(app, pagename, templatename, context, doctree):
    """Name the style sheet on a page of the interface."""
    if pagename.startswith(PAGES):
        app.add_css_file("interface.css")


def setup(app):
    """Connect to Sphinx."""
    app.connect("html-page-context", style)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
