"""The book's chapters as programs: what parameters each has, and running one with other values.

A chapter is a file ``NAME.md`` of the book directory with a cell tagged ``parameters``, whose lines
read ``name = literal  # comment``. One of them is ``output = None``: the directory that receives
what the chapter computes.
"""

import ast
import dataclasses
import io
import sys
import tokenize
from pathlib import Path

import jupytext
import nbformat

from hierphase.checks import unknown
from hierphase.results import book_directory


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One line of a chapter's parameters cell: ``name = default  # comment``."""

    name: str
    default: object
    comment: str


@dataclasses.dataclass(frozen=True)
class Chapter:
    """A chapter that can be executed.

    Attributes:
        name: its file name without ``.md``.
        title: its first heading.
        parameters: name -> :class:`Parameter`, in the order of the chapter.
        notebook: its cells.
    """

    name: str
    title: str
    parameters: dict[str, Parameter]
    notebook: nbformat.NotebookNode

    @property
    def defaults(self) -> dict[str, object]:
        """Name -> default of every parameter."""
        return {parameter.name: parameter.default for parameter in self.parameters.values()}


class CellError(RuntimeError):
    """A cell of a chapter failed, or its kernel died."""


def load_all() -> dict[str, Chapter]:
    """Every executable chapter of the book, by name.

    Raises:
        ValueError: a line of a parameters cell is not ``name = literal``.
    """
    chapters = {}
    for path in sorted(book_directory().glob("*.md")):
        notebook = jupytext.read(path)
        tagged = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
        if tagged:
            headings = (line for cell in notebook.cells for line in cell.source.splitlines()
                        if cell.cell_type == "markdown" and line.startswith("# "))
            chapters[path.stem] = Chapter(
                name=path.stem,
                title=next(headings, path.stem).removeprefix("# ").strip(),
                parameters=_read_parameters(path.stem, tagged[0].source),
                notebook=notebook,
            )
    return chapters


def load(name: str) -> Chapter:
    """The chapter called ``name``.

    Raises:
        ValueError: there is none; the message names the closest and lists them all.
    """
    chapters = load_all()
    if name not in chapters:
        raise ValueError(unknown("chapter", name, list(chapters)))
    return chapters[name]


def parse_value(text: str, default: object) -> object:
    """A parameter's value as written on the command line.

    Args:
        text: a Python literal (``true``, ``false`` and ``null`` do as well); anything else is text.
        default: the parameter's default. Where it is text, ``text`` needs no quotes.

    Returns:
        The value; :func:`check_values` compares its type with that of the default.
    """
    words = {"true": True, "false": False, "null": None}
    try:
        value = words[text] if text in words else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return text if isinstance(default, str) and not isinstance(value, str) else value


def check_values(owner: str, defaults: dict, values: dict) -> dict:
    """Values for parameters, with the types of the defaults.

    An integer serves where the default is a float, anything where it is None.

    Args:
        owner: what has the parameters, in words ("chapter bp-theory").
        defaults: parameter -> default, all of them.
        values: parameter -> value.

    Returns:
        The values, tuples turned into lists (neither a notebook nor JSON has tuples).

    Raises:
        ValueError: an unknown parameter, or a value that is not of the default's type.
    """
    checked = {}
    for name, value in values.items():
        if name not in defaults:
            shown = {known: f"{known}={default!r}" for known, default in defaults.items()}
            raise ValueError(unknown(f"parameter of {owner}", name, shown))
        default = defaults[name]
        try:
            checked[name] = _convert(value, default)
        except TypeError as error:
            raise ValueError(
                f"parameter {name} of {owner} is of type "
                f"{type(default).__name__} (default {default!r}); {error}"
            ) from None
    return checked


def run(name: str, values: dict, output: Path | str | None = None) -> Path:
    """Execute a chapter, with a progress bar on a terminal.

    The notebook is saved after every cell, so that a run that fails or is interrupted leaves what
    it has done. The chapter runs in ``output``: nothing is written into the book.

    Args:
        name: the chapter.
        values: parameter -> value, for those that shall differ from the default.
        output: directory for the executed notebook and the chapter's results; by default
            ``runs/<name>``.

    Returns:
        The path of the executed notebook, ``output/<name>.ipynb``.

    Raises:
        ValueError: unknown chapter or parameter, or a value of the wrong type.
        CellError: a cell failed; the message shows its number, first lines and error.
        KeyboardInterrupt: the run was interrupted.
    """
    chapter = load(name)
    if "output" in values:
        raise ValueError(
            f"parameter output of chapter {name} is the run's directory: "
            f"give {values['output']!r} as the output directory instead (--output)"
        )
    values = check_values(f"chapter {name}", chapter.defaults, values)
    output = Path("runs", name) if output is None else Path(output)
    output = output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    notebook = output / f"{name}.ipynb"
    execute(chapter, values | {"output": str(output)}, notebook, cwd=output)
    return notebook


def execute(
    chapter: Chapter, values: dict, notebook: Path | None, cwd: Path
) -> nbformat.NotebookNode:
    """Execute the chapter's cells with ``values`` injected after its parameters cell.

    Args:
        chapter: what to execute.
        values: checked parameters.
        notebook: where to save the notebook after every cell; None keeps it in memory.
        cwd: working directory of the cells.

    Returns:
        The executed notebook.

    Raises:
        CellError: a cell failed or the kernel died.
        KeyboardInterrupt: the run was interrupted.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    kept = f"\nwhat was done until then: {notebook}" if notebook else ""
    try:
        return papermill.execute_notebook(
            chapter.notebook,
            notebook,
            parameters=values,
            kernel_name="python3",
            language="python",
            progress_bar=sys.stderr.isatty(),
            cwd=cwd,
            extra_arguments=["--log-level=CRITICAL"],  # the kernel's own log, not its output
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"chapter {chapter.name} was interrupted{kept}") from None
    except papermill.PapermillExecutionError as error:
        lines = error.source.strip().splitlines()
        lines = lines[:5] + ["..."] * (len(lines) > 5)
        source = "\n".join(f"    {line}" for line in lines)
        raise CellError(
            f"cell [{error.exec_count}] of chapter {chapter.name} failed:\n{source}\n"
            f"{error.ename}: {error.evalue}{kept}"
        ) from None
    except DeadKernelError:
        raise CellError(f"the kernel of chapter {chapter.name} died{kept}") from None


def _read_parameters(chapter: str, source: str) -> dict[str, Parameter]:
    """The parameters of a parameters cell."""
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    parameters = {}
    for statement in ast.parse(source).body:
        line = ast.get_source_segment(source, statement)
        try:
            (target,) = statement.targets
            default = ast.literal_eval(statement.value)
            parameters[target.id] = Parameter(
                target.id, default, comments.get(statement.end_lineno, "")
            )
        except (AttributeError, ValueError):
            raise ValueError(
                f"parameters cell of chapter {chapter}: {line!r} is not `name = literal`"
            ) from None
    return parameters


def _convert(value: object, default: object) -> object:
    """``value`` with the type of ``default``; TypeError where it has another."""
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(default, tuple):
        default = list(default)
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if default is not None and type(value) is not type(default):
        raise TypeError(f"{value!r} is of type {type(value).__name__}")
    if isinstance(default, list) and default:
        example = next((item for item in default if isinstance(item, float)), default[0])
        return [_convert(item, example) for item in value]
    return value
