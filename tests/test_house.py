"""The house: eight entries, and imports that run one way."""

import ast
from pathlib import Path

COMMON = Path(__file__).resolve().parent.parent / "common"
FLOORS = {"blocks": 0, "models": 1, "data": 1, "training": 2, "analysis": 3, "plotting": 4}
FLOORS["lesson"] = 5


def imported(path):
    """The dotted names that a file imports, `from common import data` as common.data."""
    folder = [*path.relative_to(COMMON.parent).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) + 1 - node.level] if node.level else []
            base = [*base, *filter(None, [node.module])]
            yield from (".".join([*base, alias.name]) for alias in node.names)


def test_imports_run_one_way():
    seen = set()
    for path in COMMON.rglob("*.py"):
        room = path.relative_to(COMMON).parts[0].removesuffix(".py")
        for name in imported(path):
            top, *rest = name.split(".")
            if top == "common" and rest[0] in FLOORS and rest[0] != room:
                assert room != "__init__", f"{path} imports {name}"
                assert FLOORS[rest[0]] < FLOORS[room], f"{path} imports {name}"
                seen.add((room, rest[0]))
    assert ("models", "blocks") in seen
    assert ("lesson", "training") in seen


def test_nobody_imports_a_lesson():
    """A lesson's name starts with a number, so that only import_module could."""
    for path in COMMON.rglob("*.py"):
        assert "import_module" not in path.read_text(encoding="utf-8"), path


def test_the_house_has_eight_entries():
    entries = {path.name for path in COMMON.iterdir() if path.name != "__pycache__"}
    rooms = ["blocks", "models", "data", "training", "analysis", "plotting"]
    assert entries == {"README.md", "__init__.py", "lesson.py", *rooms}
