"""Sphinx extension: chapters are executed again when anything their numbers depend on changes.

jupyter-cache looks only at the cells of a chapter: an edit of the package, of a stored result or of
a trained model, or another version of a dependency, would leave the old numbers on the page. So the
hash of all these names the cache: what is unchanged is found again, a change starts an empty one.
"""

import hashlib
import importlib.metadata
import platform
import re
from pathlib import Path

import jupyter_cache.cache.db
import sqlalchemy

import hierphase
from hierphase.runs.chapters import clean_kernel
from hierphase.runs.results import book_directory

NUMBERS = (".csv", ".json", ".nc", ".py", ".safetensors", ".yml")  # what a page can read


def fingerprint() -> str:
    """Hash of the package's sources, what the book stores, and the installed versions."""
    digest = hashlib.sha256(platform.python_version().encode())
    for requirement in sorted(importlib.metadata.requires("hierphase")):
        if "extra ==" not in requirement:
            name = re.match(r"[\w.-]+", requirement)[0]
            digest.update(f"{name} {importlib.metadata.version(name)}\n".encode())
    package, book = Path(hierphase.__file__).parent, book_directory()
    files = [(package, path) for path in package.rglob("*.py")]
    files += [(book, path) for path in book.glob("*.yml")]
    for folder in ("results", "models"):
        files += [(book, path) for path in (book / folder).rglob("*")]
    for root, path in sorted(files):
        name = path.relative_to(root)
        if path.suffix in NUMBERS and not any(part.startswith(".") for part in name.parts):
            digest.update(f"{name} {path.stat().st_size}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def sqlite_engine(url):
    """An engine for a file whose path may hold what means something in a URL (``%``, ``?``)."""
    path = url.removeprefix("sqlite:///")
    return sqlalchemy.create_engine(sqlalchemy.URL.create("sqlite", database=path))


def name_cache(app, config):
    """Point myst-nb to the cache of this fingerprint, in the build directory; a clean kernel."""
    clean_kernel()
    jupyter_cache.cache.db.create_engine = sqlite_engine
    cache = Path(app.outdir).parent / ".jupyter_cache" / fingerprint()
    config.nb_execution_cache_path = str(cache)


def setup(app):
    """Connect to Sphinx."""
    app.connect("config-inited", name_cache)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
