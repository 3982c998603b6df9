"""Whatever the user's machine is like: same pages, and one line where something cannot be done."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import nbformat
import pytest

import hierphase

ROOT = Path(__file__).resolve().parent.parent

PROBE = """---
jupytext: {text_representation: {extension: .md, format_name: myst}}
kernelspec: {name: python3, display_name: Python 3}
---
# A probe

```{code-cell} ipython3
:tags: [parameters]
L = 1  # depth
output = None  # directory
```

```{code-cell} ipython3
import json, sys
import matplotlib
import matplotlib.pyplot as plt
import hierphase
plt.plot([1, 2])
print(json.dumps([
    sys.executable, hierphase.__file__, matplotlib.get_backend(),
    matplotlib.rcParams["lines.linewidth"],
    sorted({"machine", "profile", "startup"} & globals().keys()),
]))
```
"""
INLINE = "module://matplotlib_inline.backend_inline"
CLEAN = [sys.executable, hierphase.__file__, INLINE, 1.5, []]


def run(*words, status=0, **options):
    """Run the command line in a process of its own; the completed process."""
    process = subprocess.run(
        [sys.executable, "-m", "hierphase", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )
    assert process.returncode == status, process.stderr
    assert "Traceback" not in process.stderr
    return process


def assert_clean(path):
    """The executed probe has printed what it should, and has shown its figure."""
    outputs = nbformat.read(path, 4).cells[-1].outputs
    assert [json.loads(o.text) for o in outputs if o.output_type == "stream"] == [CLEAN]
    assert sum("image/svg+xml" in o.get("data", {}) for o in outputs) == 1


@pytest.fixture
def hostile(tmp_path):
    """An environment that names another kernel, backend, style and profile, in every way."""
    home = tmp_path / "home"
    for data in (home / ".local/share/jupyter", tmp_path / "jupyter"):
        (data / "kernels" / "python3").mkdir(parents=True)
        spec = {"argv": ["false"], "display_name": "Another", "language": "python"}
        (data / "kernels" / "python3" / "kernel.json").write_text(json.dumps(spec))
    for ipython in (home / ".ipython", tmp_path / "ipython"):
        (ipython / "profile_default" / "startup").mkdir(parents=True)
        (ipython / "profile_default" / "startup" / "00.py").write_text("profile = 1\n")
    for style in (home / ".config" / "matplotlib", tmp_path / "out", tmp_path / "style"):
        style.mkdir(parents=True)
        (style / "matplotlibrc").write_text("lines.linewidth: 9\nbackend: agg\n")
    (tmp_path / "etc" / "startup").mkdir(parents=True)
    (tmp_path / "etc" / "startup" / "00.py").write_text("machine = 1\n")
    (tmp_path / "sitecustomize.py").write_text(  # in place of a file in /etc/ipython
        "from IPython.core import application\n"
        f"application.SYSTEM_CONFIG_DIRS.append({str(tmp_path / 'etc')!r})\n"
    )
    (tmp_path / "startup.py").write_text("startup = 1\n")
    variables = {
        "JUPYTER_PATH": "jupyter",
        "IPYTHONDIR": "ipython",
        "MATPLOTLIBRC": "style",
        "PYTHONSTARTUP": "startup.py",
    }
    named = {name: str(tmp_path / path) for name, path in variables.items()}
    outside = {k: v for k, v in os.environ.items() if k not in variables}
    # the modules that this process finds, also where it is not installed
    modules = [str(tmp_path), *filter(None, sys.path)]
    outside |= {"HOME": str(home), "PYTHONPATH": os.pathsep.join(modules)}
    return {"home": outside, "variables": outside | named | {"MPLBACKEND": "agg"}}


@pytest.mark.parametrize("where", ["home", "variables"])
def test_a_chapter_runs_on_this_interpreter_with_nobodys_settings(book, hostile, where):
    (book / "probe.md").write_text(PROBE)
    run("run", "probe", "--output", "out", env=hostile[where])
    assert_clean("out/probe.ipynb")


def test_a_page_too_in_a_folder_of_any_name_beside_a_notebook(tmp_path, hostile):
    root = tmp_path / "pct%20 {x}"
    (root / "book").mkdir(parents=True)
    shutil.copy(ROOT / "_config.yml", root)
    for folder in ("_ext", "_static"):
        shutil.copytree(ROOT / "book" / folder, root / "book" / folder)
    (root / "book" / "references.bib").touch()
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/probe\n")
    (root / "book" / "probe.md").write_text(PROBE)
    stale = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Stale")])
    nbformat.write(stale, root / "book" / "probe.ipynb")
    process = subprocess.run(
        [
            sys.executable,
            shutil.which("jupyter-book", path=Path(sys.executable).parent),
            "build",
            ".",
            "-W",
            "-n",
            "--keep-going",
        ],
        cwd=root,
        env=hostile["variables"] | {"HIERPHASE_BOOK": str(root / "book")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout[-3000:]
    assert_clean(root / "_build" / "jupyter_execute" / "book" / "probe.ipynb")
    assert len(list((root / "_build" / "html" / "_images").glob("*.svg"))) == 1


def test_make_works_after_the_folder_was_renamed(tmp_path):
    root = tmp_path / "a new name %20"
    (root / ".venv" / "bin").mkdir(parents=True)
    (root / "hierphase").mkdir()
    (root / "hierphase" / "__init__.py").touch()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, root)
    (root / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (root / ".venv" / "bin" / "jupyter-book").write_text(
        "#!/the/old/name/.venv/bin/python\nimport hierphase; print(hierphase.__file__)\n"
    )
    (root / ".venv" / ".installed").touch()
    process = subprocess.run(
        ["make", "book"], cwd=root, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert f"{root}/hierphase/__init__.py\n" in process.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Folder with an sdist and a wheel of the files that git knows."""
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout says which files belong to the project")
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    (source / "book" / "models" / ".DS_Store").touch()
    code = "from setuptools import build_meta; build_meta.build_{}({!r})"
    code = "\n".join(code.format(kind, str(built)) for kind in ("sdist", "wheel"))
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    return source, built


def test_the_sdist_is_the_repository(distributions):
    source, built = distributions
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        held = {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()}
    ours = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    ours = {name for name in ours if not name.startswith(("build/", "hierphase.egg-info/"))}
    assert ours - held == {"book/models/.DS_Store"}


def test_the_wheel_serves_anywhere(distributions, tmp_path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
            "--target",
            site,
            next(distributions[1].glob("*.whl")),
        ],
        check=True,
    )
    outside = {name: value for name, value in os.environ.items() if name != "HIERPHASE_BOOK"}
    options = {"cwd": elsewhere, "env": outside | {"PYTHONPATH": str(site)}}
    assert run("--version", **options).stdout == f"hierphase {hierphase.__version__}\n"
    assert "\nrandom-hierarchy-model: " in run("list", **options).stdout
    small = ["-p", "L", "2", "-p", "n_rules", "2", "-p", "n_data", "1024"]
    run("run", "random-hierarchy-model", *small, **options)
    sizes = ["-p", "n_per_class", "1", "-p", "n_times", "2", "-p", "num_inference_steps", "4"]
    run("sweep", "imagenet-transition", "--preset", "digits", *sizes, **options)
    left = sorted(str(p.relative_to(elsewhere)) for p in elsewhere.glob("runs/*/*.*"))
    assert left == [
        "runs/imagenet-transition-digits/imagenet-transition-digits.nc",
        "runs/random-hierarchy-model/random-hierarchy-model-statistics.nc",
        "runs/random-hierarchy-model/random-hierarchy-model.html",
        "runs/random-hierarchy-model/random-hierarchy-model.ipynb",
    ]


@pytest.mark.parametrize("change", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_do_no_harm(book, change):
    script = f'"{sys.executable}" -m hierphase run tree -p L 2 --output out {change}'
    process = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    # What libzmq says of itself as a kernel ends, once in hundreds of runs, is not ours.
    lines = process.stderr.splitlines()
    ours = [line for line in lines if not re.match(r"Assertion failed: .*src/signaler\.cpp", line)]
    assert (process.returncode, ours) == (0, [])
    assert Path("out", "summary.txt").exists()


def test_few_open_files_are_one_line(book):
    script = f'ulimit -n 40; exec "{sys.executable}" -m hierphase run tree'
    process = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert process.returncode in (1, 2)
    ours = process.stderr.partition("hierphase: error: ")[2]  # before it, what the kernel says
    assert ours.startswith("the kernel of chapter tree died: ") and ours.count("\n") == 2, ours


def test_whoever_reads_may_stop(book):
    for i in range(200):
        shutil.copy(book / "tree.md", book / f"tree-{i}.md")
    script = f'("{sys.executable}" -m hierphase list; echo $? > status) | head -1'
    process = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert process.stdout == "tree: A chapter about trees\n"
    assert (Path("status").read_text(), process.stderr) == ("0\n", "")


def test_a_terminal_of_few_characters(book):
    process = run("run", "tree", "--output", "é{L}", env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert "\\xe9{L}/tree.ipynb" in process.stdout
    assert Path("é{L}", "summary.txt").exists()


def test_nowhere_to_keep_compiled_code():
    code = """
from numba.core import caching
caching.CacheImpl._locator_classes = caching.CompileResultCacheImpl._locator_classes = []
from hierphase.rhm import belief_propagation
from hierphase.rhm import correlations
from hierphase.rhm.belief_propagation_numba import njit
print(njit(lambda x: x + 1)(1))
"""
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert process.stdout == "2\n", process.stderr
