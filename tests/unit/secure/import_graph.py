"""Which modules a module can reach through imports, wherever in it they stand."""

import ast
from pathlib import Path

import acie_pipelines

__all__ = ["imports_of"]

ROOT = Path(acie_pipelines.__file__).parents[1]


def imported_by(module: str, seen: set[str]) -> None:
    """Follow every import statement, also those inside functions."""
    path = ROOT / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if module in seen or not path.is_file():
        return
    seen.add(module)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                imported_by(alias.name, seen)
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported_by(node.module, seen)
            for alias in node.names:
                imported_by(f"{node.module}.{alias.name}", seen)


def imports_of(module: str) -> set[str]:
    seen: set[str] = set()
    imported_by(module, seen)
    return seen
