"""Where things lie: no folder of product code is so full that a reader cannot find a file in it."""

from __future__ import annotations

import ast
import re
from collections import Counter
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
MOST_FILES = 20
CODE = (".py", ".lua", ".cpp", ".h")
FORBIDDEN_WORKERS = {"celery", "app"}
"""Celery's `-A workers` would take a submodule of this name for its application."""


def modules() -> dict[str, ast.Module]:
    """Every Python file of the product by its module's name, parsed once."""
    parsed: dict[str, ast.Module] = {}
    for path in product():
        if path.suffix == ".py":
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(part for part in parts if part not in {"src", "__init__"})
            parsed[name] = ast.parse(path.read_text(encoding="utf-8"))
    return parsed


def imports(tree: ast.Module, names: set[str]) -> set[str]:
    """Those of `names` that a module imports, those for types alone among them."""
    imported: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            imported.update(inner & names or {node.module})
    return imported & names


def product() -> list[Path]:
    return [
        path
        for top in ("src", "api", "workers")
        for path in sorted((ROOT / top).rglob("*"))
        if path.suffix in CODE and "__pycache__" not in path.parts and "static" not in path.parts
    ]


def test_no_folder_has_more_than_twenty_files_on_one_level() -> None:
    counts = Counter(path.parent for path in product() if path.name != "__init__.py")
    assert counts.total() > 300
    assert {folder: count for folder, count in counts.items() if count > MOST_FILES} == {}


def test_the_page_of_the_architecture_names_every_package() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    words = set(re.findall(r"\w+", page.split("## Packages and direction")[1].split("## ")[0]))
    folders = [ROOT / "api", ROOT / "workers", ROOT / "src/penstock"]
    folders += [ROOT / "src/penstock" / name for name in ("engine", "models", "transport")]
    packages = {file.parent.name for folder in folders for file in folder.glob("*/__init__.py")}
    modules = {file.stem for file in (ROOT / "src/penstock").glob("[a-z]*.py")}
    assert len(packages) > 30
    assert (packages | modules) - words == set()


def test_celery_finds_its_application_in_workers() -> None:
    names = {path.stem for path in (ROOT / "workers").iterdir()}
    assert not names & FORBIDDEN_WORKERS


def test_each_module_has_a_first_line_about_it() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in product()
        if path.suffix == ".py"
        and path.name != "__init__.py"
        and not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert silent == []


EXCEPTION = re.compile(r"#\s*(?:noqa\b(?::[ A-Z0-9,]+)?|(?:type|pyright): ignore(?:\[[\w, -]+\])?)")


def test_each_exception_to_a_rule_has_its_reason() -> None:
    bare = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in product()
        if path.suffix == ".py"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if any(not line[match.end() :].strip(" -") for match in EXCEPTION.finditer(line))
    ]
    assert bare == []


def test_no_module_imports_itself_by_way_of_others() -> None:
    parsed = modules()
    names = set(parsed)
    graph = {name: imports(tree, names) - {name} for name, tree in parsed.items()}
    assert sum(map(len, graph.values())) > 2000
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle
