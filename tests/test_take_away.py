"""What a reader takes along: citations and licences that agree with the files they speak of."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
CITE = (ROOT / "book" / "cite.md").read_text()
CARDS = sorted((ROOT / "book" / "models").glob("*/README.md"))
#: What a model card says -> the row of the table of licences.
DATA = {
    "CIFAR-10": "CIFAR-10",
    "8x8 digits": "8x8 digits",
    "Fashion-MNIST": "Fashion-MNIST",
    "images cifar10": "CIFAR-10",
    "images digits": "8x8 digits",
    "images fashion-mnist": "Fashion-MNIST",
    "images mnist": "MNIST",
    "RandomHierarchyModel": "trees",
    "TwoModeMixture": "trees",
    "data of `rhm-cnn`": "trees",
}


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.parent.name)
def test_data_of_a_model_have_a_licence(card):
    about = card.read_text().split("\n- ")[0]
    rows = {row for words, row in DATA.items() if words in about}
    assert len(rows) == 1, f"{card} names {rows or 'none'} of the data of book/cite.md"
    assert re.search(rf"^\| {rows.pop()}", CITE, re.MULTILINE)


def test_the_licence_is_that_of_the_repository():
    assert (ROOT / "LICENSE").read_text().startswith("MIT License\n")
    assert "| MIT (`LICENSE`) |" in CITE


def test_papers_are_cited_alike_everywhere():
    paper = yaml.safe_load((ROOT / "CITATION.cff").read_text())["preferred-citation"]
    bibliography = (ROOT / "book" / "references.bib").read_text()
    entry = re.search(r"@article{sclocchi2025phase,.*?^}", bibliography, re.S | re.M)[0]
    for field in ("title", "journal", "volume", "doi", "year"):
        assert f"{{{paper[field]}}}" in entry
    for key in re.search(r"```{bibtex} (sclocchi.*)\n", CITE)[1].split():
        assert f"{{{key}," in bibliography
