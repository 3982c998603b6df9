"""Sphinx extension: no page holds the same inline script twice.

Sphinx 7.4 writes inline scripts that an extension adds late (those of thebe and of the toggle
buttons) two times, and the second declaration of a constant is an error in the reader's browser.
"""


def unique_scripts(app, pagename, templatename, context, doctree):
    """Keep the first of equal inline scripts of a page, in place."""
    seen = set()
    for script in list(context["script_files"]):
        body = script.attributes.get("body")
        if body in seen:
            context["script_files"].remove(script)
        elif body:
            seen.add(body)


def setup(app):
    """Connect to Sphinx."""
    app.connect("html-page-context", unique_scripts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
