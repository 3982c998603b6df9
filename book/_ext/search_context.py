"""Sphinx extension: search results with a line of context, also for a book opened as files.

Sphinx' search page fetches the pages that it has found, which a browser refuses over ``file://``.
Here a script holds the text of all sections, and the search page loads it.
"""

import json
import re
from pathlib import Path

from bs4 import BeautifulSoup

TEXTS = "searchtexts.js"
NOT_READ = "h1, h2, h3, h4, script, style, .headerlink, .cell_input, details.hide"
SHOW = """
Search.htmlToText = (text) => text;
new MutationObserver(() => {
  const terms = [...Search._parseQuery(new URLSearchParams(location.search).get("q") || "")[1]];
  const count = (text) => terms.filter((term) => text.toLowerCase().includes(term)).length;
  for (const item of document.querySelectorAll("#search-results li:not([data-context])")) {
    item.dataset.context = "";
    const [page, anchor] = item.querySelector("a").getAttribute("href").split("#");
    const sections = SEARCH_TEXTS[page.replace(/[.]html$/, "")] || {};
    const texts = anchor ? [sections[anchor] || ""] : Object.values(sections);
    const best = texts.reduce((a, b) => (count(b) > count(a) ? b : a), "");
    if (best) item.append(Search.makeSearchSummary(best, terms));
  }
}).observe(document.getElementById("search-results"), {childList: true, subtree: true});
"""


def sections(page: str) -> dict[str, str]:
    """Anchor of a section -> its text, without that of the sections in it; code is left out."""
    article = BeautifulSoup(page, "html.parser").find("article")
    found = {}
    for element in article.select(NOT_READ):
        element.decompose()
    for section in reversed(article.find_all("section")):  # the inner ones first
        text = " ".join(section.get_text(" ").split())
        found[section["id"]] = plain(text)
        section.decompose()
    return dict(reversed(found.items()))


def plain(text: str) -> str:
    """TeX between its delimiters, in letters."""
    formula = re.compile(r"\\[(\[](.*?)\\[)\]]")
    return formula.sub(lambda found: re.sub(r"\\(mathrm|text)|[\\{}]", "", found[1]), text)


def write_texts(app, exception):
    """Write the script with the texts of all pages."""
    if exception or app.builder.name != "html":
        return
    out = Path(app.outdir)
    names = sorted(app.env.found_docs)
    texts = {name: sections((out / f"{name}.html").read_text()) for name in names}
    content = json.dumps(texts, ensure_ascii=False)
    (out / "_static" / TEXTS).write_text(f"const SEARCH_TEXTS = {content};\n{SHOW}")


def load_texts(app, pagename, templatename, context, doctree):
    """Have the search page load the script, when its own elements are there."""
    if pagename == "search":
        app.add_js_file(TEXTS, loading_method="defer")


def setup(app):
    """Connect to Sphinx."""
    app.connect("html-page-context", load_texts)
    app.connect("build-finished", write_texts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
