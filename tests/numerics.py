"""Digests of the sources that compute, without comments and docstrings: they tell of changes.

``python tests/numerics.py`` writes them anew, beside the number ``NUMERICS`` of the package.
"""

import ast
import hashlib
import json
from pathlib import Path

from hierphase.runs.shards import NUMERICS

PACKAGE = Path(__file__).resolve().parents[1] / "hierphase"
STORED = Path(__file__).with_name("numerics.json")
#: Files that no number depends on.
IDLE = {
    "__init__.py", "__main__.py", "checks.py", "files.py", "parameters.py",
    "runs/__init__.py", "runs/chapters.py", "runs/executors.py", "runs/plots.py", "runs/prose.py",
    "runs/results.py", "runs/shards.py", "runs/sweep.py", "experiments/registry.py",
}  # fmt: skip


def digest(source: str) -> str:
    """Of a module's code: comments, docstrings and layout do not matter."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            if ast.get_docstring(node) is not None:
                node.body[0] = ast.Pass()
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]


def current() -> dict:
    """NUMERICS, and the digest of each source file that computes."""
    paths = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.py"))}
    digests = {name: digest(path.read_text()) for name, path in paths.items() if name not in IDLE}
    return {"NUMERICS": NUMERICS, "files": digests}


if __name__ == "__main__":
    STORED.write_text(json.dumps(current(), indent=1) + "\n")
