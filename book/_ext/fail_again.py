"""Sphinx extension: a build that failed for its warnings fails again when it is repeated.

With --keep-going, Sphinx saves what it has read before it fails. The next build would find every
page up to date, say nothing more about the faulty one, and succeed.
"""

from pathlib import Path

from sphinx.application import ENV_PICKLE_FILENAME


def forget_pages(app, exception):
    """After warnings, have all pages read again; outputs of chapters stay in their own cache."""
    if app._warncount:
        Path(app.doctreedir, ENV_PICKLE_FILENAME).unlink(missing_ok=True)


def setup(app):
    """Connect to Sphinx."""
    app.connect("build-finished", forget_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
