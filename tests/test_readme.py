"""The README: its commands parse, its outputs are recorded ones, its snippets run."""

import contextlib
import importlib
import io
import itertools
import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests import record, tables

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^ +(python \S+\.py.*)$", README, re.MULTILINE)
COMMANDS += re.findall(r"`(python \S+\.py [^`]*[^`.])`", README)
COMMANDS += [
    line.replace(found[0], "python")
    for line in re.findall(r"^ +(torchrun .*)$", README, re.MULTILINE)
    if (found := re.match(r"torchrun --nproc-per-node \d+", line))
]
COMMANDS += [f"python 06_practical_example.py {flags}" for flags, _ in tables.RUNS]
REPORTS = sorted((ROOT / ".github" / "recorded").glob("*/report.txt"))


def test_the_first_command_runs_the_lessons_and_the_second_the_tests():
    setup = "python3 -m venv .venv && .venv/bin/python -m pip install -q -r requirements.txt && "
    first, second = [text.strip() for language, text in BLOCKS if language == "bash"]
    assert first.startswith(setup)
    assert 'for lesson in 0*.py; do .venv/bin/python "$lesson" --data shapes; done' in first
    assert second == setup + ".venv/bin/python -m pytest"


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command):
    _, script, *arguments = shlex.split(command)
    importlib.import_module(script.removesuffix(".py")).arguments(arguments)


def test_every_lesson_has_its_section():
    for path in ROOT.glob("0*.py"):
        assert f"[{path.name}]({path.name})" in README
        assert f"python {path.name}" in COMMANDS


def outputs():
    """Pairs (language of the block before, text) of the README's ```text blocks."""
    for (before, snippet), (language, text) in itertools.pairwise(BLOCKS):
        if language == "text":
            yield before, snippet, text


def test_python_snippets_print_what_is_shown():
    shown = [(snippet, text) for before, snippet, text in outputs() if before == "python"]
    assert shown
    for snippet, text in shown:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(snippet, {})
        assert printed.getvalue() == text


def test_quoted_results_are_recorded_ones():
    quoted = [text for before, _, text in outputs() if before != "python"]
    reports = [report.read_text(encoding="utf-8") for report in REPORTS]
    assert len(quoted) >= 3
    for text in quoted:
        assert any(text in report for report in reports), text


def test_the_readme_is_the_one_that_recording_would_write():
    assert record.refresh_all(README) == README


def test_a_changed_result_changes_the_readme(tmp_path):
    reports = [report.read_text(encoding="utf-8") for report in REPORTS]
    changed = [report.replace("0.4", "0.5") for report in reports]
    assert record.refresh(README, changed) != README
    shutil.copytree(record.RECORDED, tmp_path / "recorded")
    for path in sorted((tmp_path / "recorded").rglob("*.json")):
        text = path.read_text(encoding="utf-8")
        changed = re.sub(r'("measured": "\D*|"test": 0\.)\d', r"\g<1>33", text)
        path.write_text(changed, encoding="utf-8")
        made = [table(tmp_path / "recorded") for table in (tables.claims, tables.cifar10)]
        assert all(table in README for table in made) == (changed == text), path
        path.write_text(text, encoding="utf-8")


def test_every_table_is_there():
    for name in ("lessons", "models", "claims", "cifar10", "mistakes"):
        assert record.refresh_table(README, name, "another table") != README


def test_the_rows_of_long_runs_are_the_flags_that_a_run_would_be_kept_under():
    script = importlib.import_module("06_practical_example")
    for flags, _ in tables.RUNS:
        settings = {key: str(value) for key, value in vars(script.arguments(flags.split())).items()}
        assert record.flags_of(settings) == flags
    assert "--compile" in record.flags_of(settings | {"compile": "True"}).split()


def test_every_module_is_in_the_reading_order():
    for path in (ROOT / "common").glob("[a-z]*"):
        assert f"(common/{path.name})" in README or path.name == "__pycache__", path


def test_links_and_pictures_exist():
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target
