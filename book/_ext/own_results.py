"""Sphinx extension: a chapter shows a result of the reader's own, and says so.

``HIERPHASE_RESULTS``, in the environment or as ``hierphase_results`` in ``_config.yml``, names one
or more files CHAPTER-PRESET.nc, as sweeps leave them. Each goes to the pages that read results of
its chapter and have the parameters ``stored`` and ``changes``.
"""

import json
import os
import re
from pathlib import Path

from hierphase.runs import chapters, results

CELL = re.compile(r"```\{code-cell\}.*?\n```\n", re.DOTALL)
BOX = """
:::{{admonition}} Your own result
:class: warning
This page shows `{path}`, of the preset *{preset}*, not the result of the book. It was computed
{created} on {device}, with commit {commit} of this repository. The text was written for the book's
result; what it says of other presets and of nulls is still of those.
:::
"""


def values(path, chapter):
    """The parameters with which a chapter shows a result.

    Args:
        path: the file.
        chapter: the page, as :func:`hierphase.runs.chapters.load` gives it.
    """
    from hierphase.experiments import registry  # here: only who has a result waits for it

    result = results.read(path)
    if path != results.result_path(result.chapter, result.preset, path.parent):
        raise ValueError(f"{path} holds {result.chapter}-{result.preset}.nc: rename it")
    preset = registry.find(result.chapter, result.preset)[1]
    computed = json.loads(result.parameters)
    changes = {name: x for name, x in computed.items() if x != preset.get(name, x)}
    given = {"preset": result.preset, "changes": changes, "stored": str(path.parent)}
    return {name: x for name, x in given.items() if name in chapter.defaults}


def shows(path, chapter):
    """Whether a page shows results of the chapter that a result is of."""
    quoted = f'"{results.read(path).chapter}"'
    cells = (c for c in chapter.notebook.cells if "check" in c.metadata.get("tags", []))
    named = any(quoted in cell.source for cell in cells)
    return named and {"stored", "changes"} <= chapter.defaults.keys()


def replace(app, docname, source):
    """Give a page the parameters of the reader's result, and a box that says so."""
    name = docname.rpartition("/")[2]
    given = filter(None, app.config.hierphase_results.split(os.pathsep))
    if docname != f"book/{name}" or name not in chapters.names():
        return
    chapter = chapters.load(name)
    for path in map(Path, map(os.path.abspath, given)):
        if shows(path, chapter):
            source[0] = with_result(source[0], path, chapter)
            app.env.note_dependency(str(path))


def with_result(text, path, chapter):
    """The text of a page, with a cell after its parameters and a box below its title."""
    about = results.read(path).attrs
    lines = [f"{name} = {value!r}" for name, value in values(path, chapter).items()]
    cell = "\n".join(["```{code-cell} ipython3", f"# Of your result, {about['created']}", *lines])
    tagged = (
        found for found in CELL.finditer(text) if re.search(r"tags:.*\bparameters\b", found[0])
    )
    end = next(tagged).end()
    text = f"{text[:end]}\n{cell}\n```\n{text[end:]}"
    box = BOX.format_map({"device": "an unnamed machine"} | about | {"path": path})
    return re.sub("^# .*\n", lambda found: found[0] + box, text, count=1, flags=re.MULTILINE)


def setup(app):
    """Connect to Sphinx."""
    app.add_config_value("hierphase_results", os.environ.get("HIERPHASE_RESULTS", ""), "env")
    app.connect("source-read", replace)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
