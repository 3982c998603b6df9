"""Sphinx extension: a page with figures to play with loads their scripts, any other page does not.

A cell of a chapter writes the numbers as ``<script type="application/json" class="play"
data-kind=KIND data-figure=ID>``; ``_static/play-KIND.js`` draws them into the figure of that id.
"""

import re


def add_scripts(app, pagename, templatename, context, doctree):
    """Scripts for the kinds of figures that a page holds."""
    kinds = set(re.findall(r'class="play" data-kind="(\w+)"', context.get("body", "")))
    if kinds:
        app.add_css_file("play.css")
        for name in ("play", *(f"play-{kind}" for kind in sorted(kinds))):
            app.add_js_file(f"{name}.js", loading_method="defer")


def setup(app):
    """Connect to Sphinx."""
    app.connect("html-page-context", add_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
