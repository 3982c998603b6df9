"""The book's chapters as programs: their parameters, running one, and the page that a run leaves.

A chapter is a file ``NAME.md`` of the book directory with a cell tagged ``parameters``, whose lines
read ``name = literal  # comment``. One of them is ``output = None``: the directory that receives
what the chapter computes. A cell tagged ``check``, which uses nothing but parameters and its own
imports, raises where their values are not right.
"""

import ast
import dataclasses
import functools
import io
import os
import re
import shlex
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import jupytext
import nbformat
from ipykernel.kernelspec import write_kernel_spec
from nbformat import NotebookNode

from hierphase import files
from hierphase.checks import check_known, naming
from hierphase.parameters import check_values
from hierphase.runs import RunError
from hierphase.runs.results import book_directory

_TAGGED = re.compile(rb"tags:.*\bparameters\b")
# What is printed is the output, not the log; a figure is the same vectors each time.
_OPTIONS = """--log-level=CRITICAL --HistoryManager.enabled=False --InlineBackend.figure_formats=svg
--InlineBackend.print_figure_kwargs={'metadata':{'Date':None}}""".split()
# There is no option against the profile of the machine, nor against a style in the directory.
# Figures have no ground, and pictures in them twice the resolution shown.
_LAUNCH = """
import matplotlib; from IPython.core import application; from ipykernel import kernelapp
matplotlib.rcdefaults()
clear = dict.fromkeys(("axes.facecolor", "figure.facecolor", "image.interpolation"), "none")
matplotlib.rcParams.update(clear | {"figure.dpi": 192, "svg.hashsalt": "hierphase"})
application.ENV_CONFIG_DIRS.clear(); application.SYSTEM_CONFIG_DIRS.clear()
kernelapp.launch_new_instance()
"""

_PLAIN = {  # what only the book understands -> what stands for it on a page alone
    r"\{(?!glue)[\w:]+\}`~?([^`<]+?)\s*(?:<[^`]*)?`": r"*\1*",
    r"\[\]\((.+?)\)|\[([^]]+)\]\(\S+?\.md\S*?\)": r"*\1\2*",
    r"(:::|```)\{choice\}": r"\1{admonition}",
    r"\\(hat|bar) ?(\\\w+|\w)(?=[_^])": r"\\\1{\2}{}",  # docutils puts the index below it
    r"\\dots": r"\\ldots",
}
_SETTINGS = {"nb_execution_mode": "off", "math_output": "MathML", "image_loading": "embed"}
_STYLE = b"""<style>body { max-width: 48rem; margin: auto } figure { margin: 1em 0 }
img, svg { max-width: 100%; height: auto } td, code { overflow-wrap: anywhere }
table { display: block; overflow-x: auto }</style>"""
_OF_MYST = {"myst_enable_extensions": ["colon_fence", "dollarmath"], "nb_output_stderr": "remove"}


@dataclasses.dataclass(frozen=True)
class Chapter:
    """A chapter that can be executed.

    Attributes:
        name: its file name without ``.md``.
        title: its first heading.
        parameters: its parameters cell, as text.
        defaults: parameter -> default, in the order of the chapter.
        notebook: its cells.
        costs: what a run takes in ``time``, ``memory`` and ``disk``, for some ``changes``, as its
            front matter says under ``hierphase``.
    """

    name: str
    title: str
    parameters: str
    defaults: dict[str, object]
    notebook: NotebookNode
    costs: list[dict]


def names() -> list[str]:
    """Names of the executable chapters of the book, also of those that cannot be read."""
    pages = (path for path in book_directory().glob("[!.]*.md") if path.is_file())
    return sorted(path.stem for path in pages if _TAGGED.search(path.read_bytes()))


def load(name: str) -> Chapter:
    """The chapter called ``name``; the other pages of the book are not looked at.

    Raises:
        ValueError: there is none (the message names the closest and lists them all), its page
            cannot be read, or a line of its parameters cell is not ``name = literal``.
    """
    check_known("chapter", name, names())
    path = book_directory() / f"{name}.md"
    with naming(path):
        notebook = jupytext.read(path)
    prose = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
    heading = re.search("^# (.+)", prose, re.MULTILINE)
    title, parameters = heading[1].strip() if heading else name, _tagged(notebook, "parameters")
    costs = notebook.metadata.get("hierphase", {}).get("costs", [])
    return Chapter(name, title, parameters, _defaults(path, parameters), notebook, costs)


def command(name: str, changes: dict) -> str:
    """What to type to run a chapter with these values, each run in a folder of its own.

    Args:
        name: the chapter.
        changes: parameter -> value.
    """
    values = [("-p", key, str(value).replace("'", '"')) for key, value in changes.items()]
    folder = "-".join([f"runs/{name}", *re.findall(r"[\w.]+", str(changes))])
    return shlex.join(["hierphase", "run", name, *sum(values, ()), "--output", folder])


def run(name: str, values: dict, output: Path | str | None = None) -> Path:
    """Execute a chapter, with a progress bar on a terminal.

    The notebook is saved after every cell, so that a run that fails or is interrupted leaves what
    it has done. The chapter runs in ``output``: nothing is written into the book.

    Args:
        name: the chapter.
        values: parameter -> value, for those that shall differ from the default. The parameter
            ``output`` is the directory, and goes before the next argument.
        output: directory for the executed notebook and the chapter's results; by default
            ``runs/<name>``.

    Returns:
        The path of the executed notebook, ``output/<name>.ipynb``.

    Raises:
        ValueError: unknown chapter or parameter, a value of the wrong type, or one that the cell
            ``check`` of the chapter refuses; no kernel is started then.
        RunError: a cell failed; the message shows its number, first lines and error.
        KeyboardInterrupt: the run was interrupted.
        WriteError: the directory or the notebook cannot be written; what was saved before is kept.
    """
    chapter = load(name)
    values = check_values(f"chapter {name}", chapter.defaults, values)
    with naming(f"chapter {name}"):
        exec(_tagged(chapter.notebook, "check") if values else "", chapter.defaults | values)
    output = files.output_directory(str(values.get("output") or output or f"runs/{name}"))
    notebook, begun = output / f"{name}.ipynb", time.time()
    try:
        execute(chapter, values | {"output": str(output)}, notebook, cwd=output)
    except (RunError, KeyboardInterrupt) as error:
        older = [p.name for p in output.glob(f"{name}-*.nc") if p.stat().st_mtime < begun]
        kept = f"; of an earlier run: {', '.join(older)}" if older else ""
        ended = str(error) or f"chapter {name} was interrupted"
        raise type(error)(f"{ended}\nwhat was done until then: {notebook}{kept}") from None
    return notebook


def page(notebook: Path, report: Path | None = None) -> Path:
    """Write an executed notebook as a page of HTML that needs no other file and no network.

    Its formulas are MathML and its figures are in it. What only the whole book has stands there as
    plain text: references to its pages and to the literature.

    Args:
        notebook: what :func:`run` has left.
        report: where to write what it shows without its code, and without the text tagged ``how``.

    Returns:
        The path of the page, by default that of the notebook with ``.html``.

    Raises:
        FileNotFoundError: there is no such notebook.
        WriteError: the page cannot be written.
    """
    import docutils.core
    from myst_nb.docutils_ import Parser

    read, path = nbformat.read(notebook, 4), report or notebook.with_suffix(".html")
    if report:
        read.cells = [c for c in read.cells if "how" not in c.metadata.get("tags", [])]
    for cell in (cell for cell in read.cells if cell.cell_type == "markdown"):
        for pattern, plain in _PLAIN.items():
            cell.source = re.sub(pattern, plain, cell.source)
    with tempfile.TemporaryDirectory() as figures:
        settings = _SETTINGS | _OF_MYST | {"nb_output_folder": figures, "report_level": 5}
        settings["nb_remove_code_source"] = report is not None
        options = {"parser": Parser(), "writer_name": "html5", "settings_overrides": settings}
        html = docutils.core.publish_string(nbformat.writes(read), **options)
        files.write(html.replace(b"</head>", _STYLE + b"</head>", 1), path)
    return path


def execute(chapter: Chapter, values: dict, notebook: Path | None, cwd: Path) -> NotebookNode:
    """Execute the chapter's cells with ``values`` injected after its parameters cell.

    Args:
        chapter: what to execute.
        values: checked parameters.
        notebook: where to save the notebook after every cell; None keeps it in memory.
        cwd: working directory of the cells.

    Returns:
        The executed notebook.

    Raises:
        RunError: a cell failed or the kernel died.
        KeyboardInterrupt: the run was interrupted.
    """
    import papermill
    from papermill.iorw import LocalHandler, papermill_io

    handler = LocalHandler()  # of absolute paths: what is there stays whole when the disk is full
    handler.write = lambda text, path: files.write(text.encode(), Path(path))
    papermill_io.register("/", handler)
    clean_kernel()
    printed = io.StringIO()
    try:
        return papermill.execute_notebook(
            chapter.notebook,
            # papermill formats the path with the parameters
            notebook and str(notebook).replace("{", "{{").replace("}", "}}"),
            parameters=values,
            kernel_name="python3",
            language="python",
            progress_bar=sys.stderr.isatty(),
            stderr_file=printed,
            # not papermill's cwd, which moves the whole process there, and its other threads
            resources={"metadata": {"path": str(cwd)}},
        )
    except papermill.PapermillExecutionError as error:
        source = textwrap.indent("\n".join(error.source.strip().splitlines()[:5]), "    ")
        last = printed.getvalue().strip().rpartition("\n")[2]  # all that a wrong magic leaves
        reason = f"{error.ename}: {error.evalue}" if error.traceback else last
        failed = f"cell [{error.exec_count}] of chapter {chapter.name} failed"
        raise RunError(f"{failed}:\n{source}\n{reason}") from None
    except RuntimeError as error:
        raise RunError(f"the kernel of chapter {chapter.name} died: {error}") from None


@functools.cache
def clean_kernel() -> tempfile.TemporaryDirectory:
    """Have this process run notebooks on its own interpreter and modules, with nobody's settings.

    The kernel ``python3`` of the process is from then on this interpreter with the modules that it
    finds, and starts from the defaults of IPython and matplotlib: whatever kernels, profiles,
    backends and ``matplotlibrc`` the machine, the user's environment or the current directory have,
    pages come out the same.

    Returns:
        The folder that says so, first in JUPYTER_PATH; it goes with the process.
    """
    temporary = tempfile.TemporaryDirectory(prefix="hierphase-", ignore_cleanup_errors=True)
    folder = Path(temporary.name)
    own = (sys.prefix, sys.base_prefix)  # what the interpreter has of itself
    modules = [path for path in map(os.path.abspath, sys.path) if not path.startswith(own)]
    environment = {
        "IPYTHONDIR": str(folder / "ipython"),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "PYTHONPATH": os.pathsep.join(modules),
        "PYTHONSTARTUP": "",
    }
    argv = [sys.executable, "-P", "-c", _LAUNCH, "-f", "{connection_file}", *_OPTIONS]
    env = {name: value.replace("$", "$$") for name, value in environment.items()}
    write_kernel_spec(folder / "kernels" / "python3", {"argv": argv, "env": env})
    os.environ["JUPYTER_PATH"] = f"{folder}{os.pathsep}{os.environ.get('JUPYTER_PATH', '')}"
    return temporary


def _tagged(notebook: NotebookNode, tag: str) -> str:
    """The source of the cells that have the tag."""
    return "\n".join(c.source for c in notebook.cells if tag in c.metadata.get("tags", []))


def _defaults(path: Path, source: str) -> dict[str, object]:
    """Parameter -> default, of the parameters cell ``source`` of a page."""
    statement, defaults = None, {}
    try:
        for statement in ast.parse(source).body:
            (target,) = statement.targets
            defaults[target.id] = ast.literal_eval(statement.value)
    except (AttributeError, ValueError, SyntaxError) as error:
        wrong = getattr(error, "text", None) or ast.get_source_segment(source, statement) or source
        reason = f"{wrong.strip()!r} is not `name = literal`, as lines of a parameters cell are"
        raise ValueError(f"{path}: {reason}") from None
    return defaults
