"""The whole book as one PDF: the built pages in one, printed by Chromium without network.

    python book/_ext/pdf.py _build/html _build/book.pdf

A program, called by `make pdf`: links between pages become links inside the PDF.
"""

import html
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from bs4 import BeautifulSoup

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MISSING = "make pdf needs Chromium, and none of {} is installed (apt-get install chromium)"
CHROMIUM = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync
--disable-background-networking --disable-component-update --no-pdf-header-footer
--generate-pdf-document-outline --virtual-time-budget=120000""".split()
NO_NETWORK = "--host-resolver-rules=MAP * ~NOTFOUND"
NOT_PRINTED = "script, .headerlink, details.hide, .show-code"
STYLE = """
@page { size: A4; margin: 16mm 15mm 18mm; @bottom-center { content: counter(page); } }
article { break-before: page; padding: 0 !important; }
.bd-main .bd-content { margin-left: 0 !important; display: block; }
.bd-main .bd-content .bd-article h1:first-of-type { display: block; }
.bd-main .bd-content .bd-article-container { max-width: none; }
.front { padding-top: 30vh; }
"""


def pages(toc) -> list[str]:
    """Names of the pages in the order of the contents."""
    if isinstance(toc, list):
        return [page for part in toc for page in pages(part)]
    own = [toc[key] for key in ("root", "file") if key in toc]
    return own + [p for key in ("parts", "chapters", "sections") for p in pages(toc.get(key, []))]


def inside(target: str) -> str:
    """Name of a place in the one page: that of a page, or of an anchor of a page."""
    return re.sub(r"\W", "-", target)


def article(name: str, page: str, names: list[str]):
    """The article of a page, its links and ids as they are in the one page; and its title."""
    element = BeautifulSoup(page, "html.parser").find("article")
    for gone in element.select(NOT_PRINTED):
        gone.decompose()
    for marked in element.find_all(id=True):
        marked["id"] = inside(f"{name}#{marked['id']}")
    for image in element.find_all(src=True):
        if not urlsplit(image["src"]).scheme:
            image["src"] = posixpath.normpath(posixpath.join(posixpath.dirname(name), image["src"]))
    for link in element.find_all(href=True):
        parts = urlsplit(link["href"])
        if parts.scheme or parts.netloc:
            continue
        to = posixpath.normpath(posixpath.join(posixpath.dirname(name), parts.path))
        to = to.removesuffix(".html") if parts.path else name
        if to in names:
            link["href"] = "#" + inside(f"{to}#{parts.fragment}" if parts.fragment else to)
        else:
            del link["href"]  # a file beside the book
    element["id"] = inside(name)
    return element, element.find("h1").get_text(" ", strip=True)


def one_page(built: Path, toc: Path, config: dict) -> str:
    """All pages of the built book as one."""
    names = pages(yaml.safe_load(toc.read_text()))
    first = (built / f"{names[0]}.html").read_text()
    head, up = BeautifulSoup(first, "html.parser").head, "../" * names[0].count("/")
    kept = [str(link) for link in head.find_all("link", rel="stylesheet")]
    kept += [str(s) for s in head.find_all("script") if "mathjax" in str(s).lower()]
    articles = [article(name, (built / f"{name}.html").read_text(), names) for name in names]
    contents = "".join(
        f'<li><a href="#{inside(name)}">{html.escape(title)}</a></li>'
        for name, (_, title) in zip(names, articles, strict=True)
    )
    return f"""<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8">
<title>{config["title"]}</title>{"".join(kept).replace(f'"{up}_static', '"_static')}
<style>{STYLE}</style></head><body><main class="bd-main"><div class="bd-content">
<div class="bd-article-container"><div class="front"><h1>{config["title"]}</h1>
<p>{config["author"]}</p></div><article class="bd-article"><h2>Contents</h2>
<ul>{contents}</ul></article>{"".join(str(element) for element, _ in articles)}
</div></div></main></body></html>"""


def main(built: Path, out: Path) -> None:
    """Print the book, or say what is missing."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not browser:
        sys.exit(MISSING.format(", ".join(BROWSERS)))
    root = Path(__file__).resolve().parents[2]
    config = yaml.safe_load((root / "_config.yml").read_text())
    page = built / "the-book-in-one.html"  # its images and styles are found from there
    page.write_text(one_page(built, root / "_toc.yml", config))
    try:
        with tempfile.TemporaryDirectory() as profile:
            options = [*CHROMIUM, NO_NETWORK, f"--user-data-dir={profile}"]
            command = [browser, *options, f"--print-to-pdf={out.resolve()}", page.as_uri()]
            out.unlink(missing_ok=True)
            printed = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        page.unlink()
    if not out.exists():
        sys.exit(f"{browser} has printed nothing:\n{printed.stderr[-2000:]}")
    print(f"The book: {out}, {out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(*(Path(argument).resolve() for argument in sys.argv[1:]))
