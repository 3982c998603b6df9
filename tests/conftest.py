"""A small book to try things on; one thread for each test process; the longest file first."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
import references

from hierphase.runs.chapters import clean_kernel

os.environ.update(references.ENVIRONMENT)
clean_kernel()  # for nbval
# A shell that runs the tests in the background has them ignore Ctrl-C, and what they start too.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Fixtures that need more than Python, make and git. Their tests are skipped, with the reason, where
# it is not there; `.ci/run` installs it and runs `pytest -m extras`.
EXTRAS = {"chromium", "published", "slurm", "transformers", "witness"}


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name != "test_html.py")
    for item in items:
        if EXTRAS.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("extras")


def pytest_terminal_summary(terminalreporter):
    """Where a reference differs, say what to do."""
    failed = {Path(r.nodeid.split("::")[0]) for r in terminalreporter.getreports("failed")}
    names = sorted(path.stem for path in failed if path.suffix == ".ipynb")
    if names:
        terminalreporter.section("a chapter and its reference differ")
        terminalreporter.write_line(references.ADVICE.format(names=", ".join(names)))


@pytest.fixture
def published():
    """Loads a data set as it was published; the test is skipped where it is not on this machine."""

    def load(data):
        try:
            return data()
        except FileNotFoundError as error:
            pytest.skip(str(error))

    return load


@pytest.fixture
def disk(tmp_path):
    """Mounts a disk of some size."""
    mounted = []

    def mount(size):
        folder = tmp_path / "disk"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder]
        if os.getuid() or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("only root can mount a small disk")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", folder], check=True)


CHAPTER = (
    references.HEADER.removesuffix("---\n")
    + """hierphase:
  costs:
    - {changes: {}, time: 4 s, memory: 300 MB, disk: 1 kB}
    - {changes: {L: 12, name: an oak}, time: 2 min, memory: 1 GB, disk: 1 kB}
---

# A chapter about trees

Some prose.

```{code-cell} ipython3
:tags: [parameters]
L = 10  # depth
epsilon = 0.5  # noise
name = "tree"  # of the model
grid = [0.1, 0.2]  # where to
    # measure
n_classes = None
output = None  # directory that receives the computed results
```

```{code-cell} ipython3
:tags: [nbval-check-output]
from pathlib import Path
summary = repr((L, epsilon, name, grid, n_classes))
print(summary)
if output:
    Path(output, "summary.txt").write_text(summary)
```

```{code-cell} ipython3
# This cell
# fails if it is told to
if L == -1:
    raise RuntimeError("told to fail")
if L == -2:
    import os; os._exit(3)
if L == -3:
    Path(output, "asleep").touch()
    import time; time.sleep(60)
```
"""
)


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A throw-away book with one chapter; the working directory is beside it."""
    directory = tmp_path / "book"
    directory.mkdir()
    (directory / "tree.md").write_text(CHAPTER)
    (directory / "prose.md").write_text("# Prose\n\nnothing to execute\n")
    monkeypatch.setenv("HIERPHASE_BOOK", str(directory))
    monkeypatch.chdir(tmp_path)
    return directory
