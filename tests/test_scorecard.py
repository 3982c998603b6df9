"""The scorecard: every claim complete and reachable, one list of verdicts, numbers of chapters."""

import importlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import xarray as xr
import yaml
from commands import ELSEWHERE, RUN
from test_html import BUILD

from hierphase.runs import chapters, results

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
CONTENT = yaml.safe_load((BOOK / "scorecard.yml").read_text())
CLAIMS = {claim["name"]: claim for claim in CONTENT["claims"]}
COLUMNS = set("group name claim paper chapter here beside verdict figure code run".split())
VERDICTS = re.findall(r"^\*\*(.+?)\*\*: ", (BOOK / "scorecard.md").read_text(), re.MULTILINE)
PAGES = {path.stem: path.read_text() for path in BOOK.glob("*.md")}


def imported(name):
    """The module, or the object of one, that has this name."""
    try:
        return importlib.import_module(name)
    except ImportError:
        module, _, attribute = name.rpartition(".")
        return getattr(imported(module), attribute)


def test_names_are_unique_and_verdicts_are_the_five():
    assert len(CLAIMS) == len(CONTENT["claims"])
    assert sorted(VERDICTS) == sorted(
        ["shown", "only on the tree", "also without a hierarchy", "not shown", "refuted here"]
    )


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_has_all_its_columns_and_leads_somewhere(name):
    claim = CLAIMS[name]
    assert claim.keys() == COLUMNS
    assert all(isinstance(text, str) and text.strip() for text in claim.values())
    assert claim["verdict"] in VERDICTS
    assert f"```{{scorecard}} {claim['group']}\n" in PAGES["scorecard"]
    assert re.search(rf"name: {claim['figure']}$", "\n".join(PAGES.values()), re.MULTILINE)
    imported(claim["code"])
    every_chapter = {f"hierphase run {chapter}" for chapter in chapters.names()}
    assert claim["run"] in RUN.keys() | ELSEWHERE.keys() | every_chapter
    typed = re.sub(r"\{[^{}]*\}|\$[^$]*\$", "", f"{claim['here']} {claim['beside']}")
    assert not re.search(r"\d\.\d", typed), "a number that was computed is typed"


def test_each_claim_is_in_one_finding_that_has_its_verdict():
    grouped = [name for finding in CONTENT["findings"] for name in finding["claims"]]
    assert sorted(grouped) == sorted(CLAIMS)
    for finding in CONTENT["findings"]:
        assert len({CLAIMS[name]["verdict"] for name in finding["claims"]}) == 1, finding["result"]


def test_readme_and_first_page_have_the_findings():
    state = (ROOT / "README.md").read_text().partition("## State")[2]
    rows = re.findall(r"^\| (.+?) \| \*\*(.+?)\*\* \|$", state, re.MULTILINE)
    assert rows == [
        (finding["result"], CLAIMS[finding["claims"][0]]["verdict"])
        for finding in CONTENT["findings"]
    ]
    assert "```{findings}\n" in PAGES["index"]


CHAPTER, RESULT = "image-correlations", "image-correlations-fashion-mnist.nc"


@pytest.fixture
def two_pages(tmp_path):
    """A copy of the book with one chapter, and what the scorecard says of it."""
    book, claim = tmp_path / "book", CLAIMS["pixels"]
    for folder in ("_ext", "_static", "results"):
        shutil.copytree(BOOK / folder, book / folder)
    shutil.copy(BOOK / "references.bib", book)
    shutil.copy(ROOT / "_config.yml", tmp_path)
    quick = PAGES[CHAPTER].replace("n_resamples = 500", "n_resamples = 20")
    (book / f"{CHAPTER}.md").write_text(quick)
    (book / "scorecard.yml").write_text(yaml.safe_dump({"claims": [claim], "findings": []}))
    (book / "scorecard.md").write_text(f"# Small\n\n```{{scorecard}} {claim['group']}\n```\n")
    toc = "format: jb-book\nroot: book/scorecard\nchapters:\n"
    (tmp_path / "_toc.yml").write_text(f"{toc}  - file: book/{CHAPTER}\n")
    return tmp_path


def test_the_page_follows_a_stored_result(two_pages):
    def here():
        """The number of the claim, as the page shows it."""
        process = subprocess.run(
            BUILD,
            cwd=two_pages,
            env=os.environ | {"HIERPHASE_BOOK": str(two_pages / "book")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert process.returncode == 0, process.stdout[-3000:]
        page = (two_pages / "_build" / "html" / "book" / "scorecard.html").read_text()
        text = re.sub(r"\s+", " ", re.sub("<.*?>", "", page))
        return float(re.search(r"([\d.]+) \([\d.]+ to [\d.]+\) times the ends", text)[1])

    before, path = here(), two_pages / "book" / "results" / RESULT
    result = xr.load_dataset(path, engine="h5netcdf")
    apart = (result.distance > 0) & (result.time < result.time[-1])
    result["covariance"] = result.covariance.where(~apart, 2 * result.covariance)
    path.write_bytes(results.netcdf(result))
    assert here() > 1.5 * before
