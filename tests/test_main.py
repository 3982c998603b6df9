"""The command line: what it prints, and its exit status."""

import pytest

from hierphase.__main__ import main
from hierphase.networks import catalogue


def test_list(book, capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tree: A chapter about trees"
    assert lines[1] == "    L = 10  # depth"
    assert lines[8:] == [
        "    4 s, 300 MB of memory, 1 kB on disk: hierphase run tree --output runs/tree",
        "    2 min, 1 GB of memory, 1 kB on disk: "
        "hierphase run tree -p L 12 -p name 'an oak' --output runs/tree-L-12-name-an-oak",
    ]


def test_run(book, tmp_path, capsys):
    assert main(["run", "tree", "-p", "L", "4", "-p", "name", "oak", "--output", "there"]) == 0
    assert (tmp_path / "there" / "summary.txt").read_text().startswith("(4, 0.5, 'oak'")
    assert str(tmp_path / "there" / "tree.ipynb") in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, status, message",
    [
        (["run", "tre"], 2, "did you mean 'tree'?"),
        (["run", "tree", "-p", "LL", "3"], 2, "did you mean 'L'?); known: L=10, epsilon=0.5"),
        (["run", "tree", "-p", "L", "ten"], 2, "'ten' is of type str"),
        (["run", "tree", "-p", "L", "3", "-p", "L", "4"], 2, "given twice: 3 and '4'"),
        (["run", "tree", "--output", "book/tree.md"], 2, "book/tree.md"),
        (["run", "tree", "-p", "L", "-1"], 1, "cell [4] of chapter tree failed"),
        ([], 2, "Missing command"),
        (["rum", "tree"], 2, "No such command 'rum'. Did you mean 'run'?"),
        (["run"], 2, "Missing argument 'CHAPTER'"),
        (["run", "tree", "-p", "L"], 2, "'-p' requires 2 arguments"),
        (["run", "tree", "--outptu", "there"], 2, "Did you mean '--output'?"),
        (["sweep", "tree"], 2, "Missing option '--preset'"),
        (["train", "digits", "--steps", "few"], 2, "'--steps': 'few' is not a valid integer"),
        (["train", "digit"], 2, "unknown training 'digit' (did you mean 'digits'?); known: "),
    ],
)
def test_errors(book, capsys, arguments, status, message):
    assert main(arguments) == status
    error = capsys.readouterr().err
    assert error.startswith("hierphase: error: ")
    assert message in error
    assert status == 1 or error.count("\n") == 1


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--version"], ["sweep", "--help"]])
def test_help(capsys, words):
    assert main(words) == 0
    shown = capsys.readouterr()
    assert "hierphase" in shown.out and not shown.err


def test_train_passes_its_options_on(monkeypatch):
    calls = []
    monkeypatch.setattr(catalogue, "train", lambda *args, **options: calls.append((args, options)))
    assert main(["train", "digits", "--output", "out", "--steps", "3", "--seed", "5"]) == 0
    assert calls == [(("digits", "out", 3, 5), {})]


def test_interruption_is_told_with_its_status(monkeypatch, capsys):
    for message, expected in ((), "interrupted"), (("after 3 steps",), "after 3 steps"):

        def train(*args, message=message, **options):
            raise KeyboardInterrupt(*message)

        monkeypatch.setattr(catalogue, "train", train)
        assert main(["train", "digits"]) == 130
        assert capsys.readouterr().err == f"hierphase: {expected}\n"
