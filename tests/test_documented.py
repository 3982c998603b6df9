"""Everything that the README or a page says to type is run.

What is run for each is in tests/commands.py; a command that is in no table there fails its test.
"""

import dataclasses
import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest
from commands import ELSEWHERE, RUN

from hierphase.__main__ import main
from hierphase.diffusion import datasets
from hierphase.networks import catalogue
from hierphase.runs import chapters

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "book").glob("*.md"))]
CONTRIBUTING = ROOT / "CONTRIBUTING.md"  # its Python is run by tests/test_contributing.py
PROGRAMS = (
    "apt-get", "conda", "cp", "hierphase", "jupyter-book", "jupytext", "make", "npm",
    "papermill", "pip", "python", "sbatch",
)  # fmt: skip

#: What a command names -> the data set that it needs.
DATA = {"fashion-mnist": datasets.fashion_mnist, "cifar10": datasets.cifar10}
#: What in the Python blocks is too large to be run -> what is run instead.
SMALLER = {"(4, 6, 8)": "(2, 3)", '{"L": depth}': '{"L": depth, "n_rules": 1, "n_data": 2}'}


def commands(path):
    """Commands of the console blocks and of the code spans of a page, each in one line."""
    text = path.read_text()
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            yield re.sub(r"\s+#.*", "", line.strip().removeprefix("$ "))
    prose = re.sub(r"(```+).*?\1", "", text, flags=re.DOTALL)
    for span in re.findall(r"`([^`]+)`", prose):
        words = span.split()
        if len(words) > 1 and words[0].removeprefix(".venv/bin/") in PROGRAMS:
            yield " ".join(words)


ALL = {c for path in [*PAGES, CONTRIBUTING] for c in commands(path) if c}
ALL = sorted(command.removeprefix(".venv/bin/") for command in ALL)
BLOCKS = [
    (path.name, block)
    for path in PAGES
    for block in re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)
]


@pytest.fixture
def quick(monkeypatch):
    """Denoisers of images are judged by few samples."""
    training = catalogue.TRAININGS["digits"]
    report = functools.partial(training.report, n_samples=8, num_inference_steps=2)
    short = dataclasses.replace(training, report=report)
    monkeypatch.setitem(catalogue.TRAININGS, "digits", short)


def test_every_command_is_in_one_table():
    assert not set(ALL) - RUN.keys() - ELSEWHERE.keys(), "add these to a table of tests/commands.py"
    assert not (RUN.keys() | ELSEWHERE.keys()) - set(ALL), "no page has these any more"
    assert not RUN.keys() & ELSEWHERE.keys()
    for command, where in ELSEWHERE.items():
        path = ROOT / where.split()[0]
        assert path.is_file() or " " in where, f"{command}: neither a file nor a reason: {where}"


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=[pytest.mark.extras] * any(name in command for name in DATA))
        for command in RUN
    ],
)
def test_command(command, request, quick, tmp_path, monkeypatch, capfd):
    for data in (data for name, data in DATA.items() if name in command):
        request.getfixturevalue("published")(data)
    monkeypatch.chdir(tmp_path)
    small = RUN[command]
    program = command.split()[0]
    words = shlex.split(small if small.split()[:1] == [program] else f"{command} {small}")
    assert " ".join(words[:2]) in f"{command} make -n", "another command"
    if program == "hierphase":
        assert main(words[1:]) == 0, capfd.readouterr().err
        return
    for name in (
        "book",
        "benchmarks",
        "tests",
        "Makefile",
        "hierphase",
        "pyproject.toml",
        "README.md",
        "constraints.txt",
    ):
        (tmp_path / name).symlink_to(ROOT / name)
    if program == "pip":  # it leaves a folder `build` behind
        for entry in list(tmp_path.iterdir()):
            target = entry.resolve()
            entry.unlink()
            (shutil.copytree if target.is_dir() else shutil.copy)(target, entry)
        shutil.copy(ROOT / "LICENSE", tmp_path)
    if program == "python":
        words[0] = sys.executable
    elif program in ("pip", "jupytext", "papermill"):
        words = [sys.executable, "-m", *words]
    if program == "papermill":  # of the notebook that the line before it makes
        jupytext.write(jupytext.read(ROOT / "book" / "bp-theory.md"), "bp-theory.ipynb")
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name, block", BLOCKS, ids=[name for name, _ in BLOCKS])
def test_python_block(name, block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for large, small in SMALLER.items():
        block = block.replace(large, small)
    exec(compile(block, name, "exec"), {})


COSTS = [(name, cost) for name in chapters.names() for cost in chapters.load(name).costs]


def test_every_chapter_says_what_it_costs():
    for name in set(chapters.names()) - {"index"}:
        costs = chapters.load(name).costs
        assert costs and not costs[0]["changes"], f"{name}: the first costs are of no changes"
        assert "```{run-this-chapter}\n```\n" in (ROOT / "book" / f"{name}.md").read_text(), name


@pytest.mark.parametrize("name, cost", COSTS, ids=[name for name, _ in COSTS])
def test_command_of_a_chapter(name, cost, tmp_path, monkeypatch, capfd):
    """What a page and `hierphase list` show, up to the chapter's cells, which nbval runs."""
    monkeypatch.chdir(tmp_path)
    executed = []
    monkeypatch.setattr(chapters, "execute", lambda *given, **_: executed.append(given))
    monkeypatch.setattr(chapters, "page", lambda notebook: notebook)
    words = shlex.split(chapters.command(name, cost["changes"]))
    assert main(words[1:]) == 0, capfd.readouterr().err
    ((chapter, values, _),) = executed
    assert chapter.name == name
    assert {key: x for key, x in values.items() if key != "output"} == cost["changes"]
    assert cost.keys() == {"changes", "time", "memory", "disk"}
    assert re.fullmatch(r"[\d.]+ (s|min|h)", cost["time"])
    assert all(re.fullmatch(r"[\d.]+ [kMG]B", cost[what]) for what in ("memory", "disk"))


if __name__ == "__main__":
    print("\n".join(ALL))
