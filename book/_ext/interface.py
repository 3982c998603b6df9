"""Sphinx extension: pages of the interface, and of sources, are set closer than prose.

They have a style sheet of their own, and no other page loads it.
"""

PAGES = ("book/api", "_modules/")


def style(app, pagename, templatename, context, doctree):
    """Name the style sheet on a page of the interface."""
    if pagename.startswith(PAGES):
        app.add_css_file("interface.css")


def find_styles(app, config):
    """Have Sphinx copy the folder where the style sheet is."""
    if "book/_static" not in config.html_static_path:
        config.html_static_path.append("book/_static")


def setup(app):
    """Connect to Sphinx."""
    app.connect("config-inited", find_styles)
    app.connect("html-page-context", style)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
