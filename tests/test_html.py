"""The book as a reader gets it: built, then every page opened in a browser without network."""

import html.parser
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import references
import yaml

from hierphase.runs import chapters

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
BUILD = [sys.executable, str(Path(sys.executable).with_name("jupyter-book")), "build", "."]
PAGES = re.findall(r"file: (\S+)", (ROOT / "_toc.yml").read_text())
PAGES = [f"{name}.html" for name in ["book/index", *PAGES, "genindex", "py-modindex", "search"]]

# Flags after the first line keep Chromium's own services quiet.
CHROMIUM = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--dump-dom",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--enable-logging=stderr",
    "--virtual-time-budget=20000",
]


def build(directory, **environment):
    """Build a book as `make book` does; the completed process."""
    return subprocess.run(
        [*BUILD, "-W", "-n", "--keep-going"],
        cwd=directory,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.fixture(scope="session")
def book():
    """The built book, found again in the cache where `make book` has built it."""
    process = build(ROOT)
    faults = re.findall("^.*(?:WARNING|ERROR|Error:).*$", process.stdout, re.MULTILINE)
    assert process.returncode == 0, "\n".join([*faults, process.stdout[-2000:]])
    return HTML


@pytest.fixture(scope="session")
def chromium():
    """The browser; without one these tests are skipped."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if not found:
        pytest.skip(
            f"no browser: none of {', '.join(names)} is installed (apt-get install chromium)"
        )
    return found


@dataclass
class Page(html.parser.HTMLParser):
    """What a browser made of a page."""

    requests: list  # addresses the page asked the network for
    console: list  # lines of the console, without the theme's chatter
    dom: str
    tags: list = field(default_factory=list)  # (tag, attributes)

    def __post_init__(self):
        super().__init__()
        self.feed(self.dom)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def all(self, tag, cls=""):
        """Attributes of every such tag with that class."""
        return [a for t, a in self.tags if t == tag and cls in (a.get("class") or "")]


def open_page(chromium, url, tmp_path):
    """Open ``url``, wait until scripts are done, and report."""
    log = tmp_path / "net.json"
    process = subprocess.run(
        [chromium, *CHROMIUM, f"--user-data-dir={tmp_path}/profile", f"--log-net-log={log}", url],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    requests = [
        event["url"]
        for event in events
        if re.match("(https?|wss?):", event.get("url", ""))
        # Requests of the browser itself, as for its updates, have no page as their origin.
        and event.get("initiator", "not an origin") != "not an origin"
    ]
    console = [
        line
        for line in process.stderr.splitlines()
        if ":CONSOLE" in line and not re.search(r'"\[(PST|togglebutton)\]: ', line)
    ]
    return Page(requests, console, process.stdout)


FRAME = """<body><iframe width="%d" height="800" src="probed.html"></iframe><script>
addEventListener("message", (found) => { document.body.dataset.found = found.data; });
</script></body>"""


def faults(chromium, path, tmp_path, width):
    """What probe.js finds on a page in a frame of that width (a window cannot be as narrow)."""
    probe = f"<script>{(ROOT / 'tests' / 'probe.js').read_text()}</script></body>"
    page = path.read_text().replace("<head>", f'<head><base href="{path.as_uri()}">', 1)
    (tmp_path / "probed.html").write_text(page.replace("</body>", probe, 1))
    (tmp_path / "frame.html").write_text(FRAME % width)
    opened = open_page(chromium, (tmp_path / "frame.html").as_uri(), tmp_path)
    (body,) = opened.all("body")
    seen, found = json.loads(body["data-found"])
    assert seen == width
    return found


FAULTY = """<!doctype html><html><head></head><body><article><div style="width: 2000px">wide</div>
<pre style="overflow: auto; width: 300px">%s</pre><button></button>
<button aria-label="Find">Search</button><details class="hide"><summary>How</summary></details>
<img width="40" height="40" src="data:image/gif;base64,R0lGODlhAQABAAAAACw=" style="background:
#fff"></article></body></html>""" % ("code " * 99)


def test_the_probe_finds_planted_faults(chromium, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(FAULTY)
    found = [fault.partition(":")[0] for fault in faults(chromium, page, tmp_path, 1280)]
    assert found == [
        "the page scrolls sideways",
        "code is cut",
        "nothing names it",
        "its name is not what it shows",
        "a figure is blurred",
        "a figure has a ground in the dark",
        "lines are black in the dark",
        "the switch does not open it",
    ]


def test_the_log_shows_what_a_page_asks_for(chromium, tmp_path):
    """The other tests see nothing; this one proves that they would."""
    page = tmp_path / "page.html"
    page.write_text(
        '<script src="https://script.invalid/a.js"></script><img src="http://image.invalid/a.png">'
        '<script>fetch("https://fetch.invalid").catch(() => 0); new WebSocket("wss://ws.invalid");'
        "nonsense()</script>"
    )
    opened = open_page(chromium, page.as_uri(), tmp_path)
    hosts = {urllib.parse.urlsplit(url).hostname for url in opened.requests}
    assert hosts == {"script.invalid", "image.invalid", "fetch.invalid", "ws.invalid"}
    assert any("nonsense is not defined" in line for line in opened.console)


def test_every_page_is_opened(book):
    index = (book / "searchindex.js").read_text()
    names = json.loads(re.search(r'"?docnames"?: ?(\[.*?\])', index)[1])
    assert {f"{name}.html" for name in names} == set(PAGES[:-3])


@pytest.mark.parametrize("name", PAGES)
def test_page(book, chromium, tmp_path, name):
    page = open_page(chromium, (book / name).as_uri(), tmp_path)
    assert page.requests == []
    assert page.console == []
    assert page.all("main"), "the page has no content"

    formulas = [a for tag in ("span", "div") for a in page.all(tag, "math notranslate")]
    assert len(page.all("mjx-container")) >= len(formulas)
    assert page.all("mjx-merror") == []
    # Figures to play with: each script of numbers has been drawn.
    assert len(page.all("script", "play")) == len(page.all("div", "play play-"))

    for image in page.all("img"):
        assert image.get("alt", "").strip(), f"no alternative text: {image['src']}"
        if not image["src"].startswith("data:"):
            assert (book / name).parent.joinpath(urllib.parse.unquote(image["src"])).is_file()
    figures = re.findall(r"<figure.*?</figure>", page.dom, re.DOTALL)
    for figure in figures:
        assert re.search(r'caption-number">Fig. [\d.]+', figure), f"no number: {figure[:300]}"
    outputs = re.findall(
        r'<div class="cell_output.*?(?=<div class="cell |</section>)', page.dom, re.DOTALL
    )
    for output in outputs:
        images = len(re.findall("<img", output))
        assert images == len(re.findall("<figcaption", output)), f"no caption: {output[:300]}"


def test_search_finds_pages(book, chromium, tmp_path):
    url = f"{(book / 'search.html').as_uri()}?q=hierarchy"
    page = open_page(chromium, url, tmp_path)
    assert page.requests == page.console == []
    found = page.dom.partition('id="search-results"')[2].partition("</ul>")[0]
    assert "book/random-hierarchy-model.html" in found
    assert re.search('<p class="context">[^<]*hierarchy', found, re.IGNORECASE), "no context"


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", PAGES)
def test_readers_stumble_over_nothing(book, chromium, tmp_path, name, width):
    assert faults(chromium, book / name, tmp_path, width) == []


def test_figures_are_light_to_carry_and_have_no_ground(book):
    for name in PAGES:
        page = Page([], [], (book / name).read_text())
        images = {(book / name).parent / urllib.parse.unquote(a["src"]) for a in page.all("img")}
        assert sum(path.stat().st_size for path in {book / name, *images}) < 2e6, name
        for figure in images:
            if figure.suffix == ".svg" and "matplotlib" in (text := figure.read_text()):
                assert re.search(r'id="patch_1">\s*<path [^>]*style="fill: none', text), figure
                assert "<dc:date>" not in text, figure


def test_a_chapter_has_its_buttons(book):
    page = Page([], [], (book / "book" / "bp-theory.html").read_text())
    links = {link.get("href", "") for link in page.all("a")}
    repository = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    assert any(link.startswith("https://mybinder.org/") for link in links)
    assert {repository, f"{repository}/edit/main/book/bp-theory.md"} <= links
    assert any(link.startswith(f"{repository}/issues/new") for link in links)
    assert any(link.endswith("_sources/book/bp-theory.md") for link in links)
    assert page.all("button", "theme-switch") and page.all("button", "search-button")
    assert "Copyright 2026" in page.dom


def test_statistics_page_lists_every_chapter(book):
    table = (book / "book" / "statistics.html").read_text().partition("<table")[2]
    for name in chapters.names():
        assert f'href="{name}.html"' in table


def test_first_page_leads_to_the_book(book):
    assert "url=book/index.html" in (book / "index.html").read_text()


# Throw-away books, with the settings of the real one.

CHAPTER = (
    references.HEADER
    + """# Small

```{code-cell} ipython3
import time
from hierphase import answer
from hierphase.runs import results
stored = results.book_directory() / "results" / "stored.nc"
print(answer.ANSWER, stored.read_text(), time.time_ns())
```
"""
)


@pytest.fixture
def small_book(tmp_path):
    """One executed chapter that uses a module of a copied package and a stored result."""
    shutil.copytree(ROOT / "hierphase", tmp_path / "hierphase")
    (tmp_path / "hierphase" / "answer.py").write_text("ANSWER = 'answer 41'\n")
    book = tmp_path / "book"
    (book / "results").mkdir(parents=True)
    (book / "results" / "stored.nc").write_text("stored 1")
    (book / "small.md").write_text(CHAPTER)
    for folder in ("_ext", "_static"):
        shutil.copytree(ROOT / "book" / folder, book / folder)
    shutil.copy(ROOT / "book" / "references.bib", book)
    shutil.copy(ROOT / "_config.yml", tmp_path)
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/small\n")
    return tmp_path


def build_small(book):
    """Build it; the process, and the text of its page."""
    process = build(book, PYTHONPATH=str(book), HIERPHASE_BOOK=str(book / "book"))
    page = book / "_build" / "html" / "book" / "small.html"
    return process, re.sub("<.*?>", "", page.read_text()) if page.exists() else ""


def test_a_change_executes_chapters_again_and_nothing_else_does(small_book):
    def printed():
        process, page = build_small(small_book)
        assert process.returncode == 0, process.stdout[-3000:]
        return re.search(r"(answer \d+) (stored \d+) (\d+)", page).groups()

    first = printed()
    assert first[:2] == ("answer 41", "stored 1")
    for other in ("models/.DS_Store", "models/a/README.md", "results/._a.nc", "results/notes~"):
        (small_book / "book" / other).parent.mkdir(parents=True, exist_ok=True)
        (small_book / "book" / other).touch()
    assert printed() == first

    (small_book / "hierphase" / "answer.py").write_text("ANSWER = 'answer 42'\n")
    second = printed()
    assert second[:2] == ("answer 42", "stored 1")

    (small_book / "book" / "results" / "stored.nc").write_text("stored 2")
    third = printed()
    assert third[:2] == ("answer 42", "stored 2")
    assert len({first[2], second[2], third[2]}) == 3


@pytest.mark.parametrize(
    "addition, message",
    [
        ("```{code-cell} ipython3\nraise RuntimeError('on purpose')\n```\n", "on purpose"),
        ("{numref}`fig-that-is-nowhere`\n", "fig-that-is-nowhere"),
    ],
    ids=["a cell that raises", "a broken reference"],
)
def test_a_faulty_chapter_fails_the_build(small_book, addition, message):
    with (small_book / "book" / "small.md").open("a") as chapter:
        chapter.write(f"\n{addition}")
    for _attempt in range(2):
        process, _ = build_small(small_book)
        assert process.returncode != 0
        assert message in process.stdout
