"""Make the reference notebooks of tests/notebooks, which pytest executes and compares (nbval).

A reference is a chapter's code with small parameters injected, and the outputs of its cells tagged
``nbval-check-output``. ``python tests/references.py`` writes all of them anew. The one rule: what a
kernel can execute in the book, now or later, has a reference.
"""

import os
import tempfile
from pathlib import Path

import nbformat
import yaml
from nbval.plugin import coalesce_streams

from hierphase.parameters import check_values
from hierphase.runs import chapters

NOTEBOOKS = Path(__file__).parent / "notebooks"
CHECKED = "nbval-check-output"

#: Of a chapter in MyST.
HEADER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  name: python3
  display_name: Python 3
---
"""

ADVICE = """{names}: a number is not the one stored in tests/notebooks.
If you changed the chapter, the package or a version on purpose: run `make reference`, and look at
`git diff tests/notebooks`. What differs there belongs to your change, or is a mistake.
If you changed nothing, your machine rounds otherwise, or something is wrong with it. Such numbers
should not be printed: please report the lines above, with `python -c "import numpy, torch;
numpy.show_config(); print(torch.__config__.show())"`, as an issue."""

# One thread: sums come out the same to the last bit however many cores there are.
ENVIRONMENT = dict.fromkeys(
    ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"], "1"
)


def small_parameters(path=NOTEBOOKS / "parameters.yml"):
    """Chapter -> the parameters of its reference; every chapter must be there, and nothing else."""
    wanted = yaml.safe_load(path.read_text()) or {}
    known = chapters.names()
    if missing := [name for name in known if name not in wanted]:
        raise ValueError(
            f"no reference of {', '.join(missing)}: add a line `{missing[0]}: {{L: 4}}` with small "
            f"parameters (or {{}}) to {path}, then `make reference`"
        )
    if gone := [name for name in wanted if name not in known]:
        raise ValueError(f"{path} names {', '.join(gone)}, but the book has only {known}")
    return {
        name: check_values(f"chapter {name}", chapters.load(name).defaults, wanted[name] or {})
        for name in known
    }


def code_cells(notebook):
    """(tags, source) of every code cell."""
    return [(c.metadata.get("tags", []), c.source) for c in notebook.cells if c.cell_type == "code"]


def reference(name, parameters):
    """The text of a chapter's reference: code cells, and the outputs that are compared."""
    os.environ.update(ENVIRONMENT)
    with tempfile.TemporaryDirectory() as cwd:
        executed = chapters.execute(chapters.load(name), parameters, None, cwd)
    cells = [c for c in executed.cells if c.cell_type == "code"]
    kept = []
    for index, (cell, (tags, source)) in enumerate(zip(cells, code_cells(executed), strict=True)):
        outputs = coalesce_streams(cell.outputs) if CHECKED in tags else []
        for output in outputs:
            if "execution_count" in output:
                output.execution_count = index + 1
        kept.append(
            nbformat.v4.new_code_cell(
                source,
                id=f"cell-{index + 1}",
                metadata={"tags": tags} if tags else {},
                execution_count=index + 1,
                outputs=outputs,
            )
        )
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=kept, metadata={"kernelspec": kernel})
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"


def main():
    """Write every reference, and say which changed."""
    for name, parameters in small_parameters().items():
        path = NOTEBOOKS / f"{name}.ipynb"
        before = path.read_text() if path.exists() else None
        text = reference(name, parameters)
        path.write_text(text)
        print(f"{path}: {'unchanged' if text == before else 'written'}")


if __name__ == "__main__":
    main()
