"""The README: its commands parse, its outputs are recorded ones, its snippets run."""

import ast
import contextlib
import importlib
import io
import json
import re
import shlex
import shutil
from pathlib import Path

from common.analysis import published
from tests import record, tables

import pytest

ROOT = Path(__file__).resolve().parent.parent
README, RESULTS, EXERCISES = (path.read_text(encoding="utf-8") for path in record.PAGES)
TEXT = README + RESULTS + EXERCISES
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^ +(python \S+\.py.*)$", TEXT, re.MULTILINE)
COMMANDS += re.findall(r"<code>(python .*?)</code>", TEXT)
COMMANDS += re.findall(r"`(python \S+\.py(?: [^`]*[^`.])?)`", TEXT)
COMMANDS += [
    line.replace(found[0], "python")
    for line in re.findall(r"^ +(torchrun .*)$", TEXT, re.MULTILINE)
    if (found := re.match(r"torchrun --nproc-per-node \d+", line))
]
LONG = (*tables.RUNS, *tables.FULL.values())
COMMANDS += [f"python 06_practical_example.py {flags}" for flags in LONG]


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


def test_flags_that_are_named_exist():
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", re.sub(r"<!--.*?-->", "", TEXT)))
    scripts = [path.stem for path in ROOT.glob("0*.py")]
    known = {"--nproc-per-node", "--at-most", "--widths", "--size"}  # of torchrun and of tests
    for script in scripts:
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as text:
            importlib.import_module(script).arguments(["--help"])
        known |= set(re.findall(r"--[a-z][a-z-]+", text.getvalue()))
    assert named <= known


def test_every_lesson_has_its_row():
    for path in ROOT.glob("0*.py"):
        assert f"]({path.name})" in README


def test_python_snippets_print_what_is_shown():
    shown = [i for i, (language, _) in enumerate(BLOCKS) if language == "text"]
    assert [i for i, (language, _) in enumerate(BLOCKS, 1) if language == "python"] == shown
    for i in shown:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(BLOCKS[i - 1][1], {})
        assert printed.getvalue() == BLOCKS[i][1]


def test_the_pages_are_those_that_recording_would_write():
    for path, page in zip(record.PAGES, (README, RESULTS, EXERCISES), strict=True):
        assert record.refresh_all(page) == page, path
    pages = {"mistakes": tables.mistakes_page(), "claims": tables.claims_page(record.RECORDED)}
    for name, page in pages.items():
        assert (ROOT / ".github" / f"{name}.md").read_text(encoding="utf-8") == page, name


def test_a_changed_result_changes_the_pages(tmp_path):
    shutil.copytree(record.RECORDED, tmp_path / "recorded")
    digit = r'("measured": "\D*|"train": \[\s+0\.|"(?:test": 0\.|seconds": |(?:training|'
    digit += r'fine-tuned|plain-56)": \[\s+)|"views 1": 0\.)\d'
    claims = (ROOT / ".github" / "claims.md").read_text(encoding="utf-8")
    made_from = [getattr(tables, name) for name in (*record.TABLES, "claims_page")]
    for path in sorted((tmp_path / "recorded").rglob("*.json")):
        text = path.read_text(encoding="utf-8")
        changed = re.sub(digit, r"\g<1>33", text)
        path.write_text(changed, encoding="utf-8")
        made = [table(tmp_path / "recorded") for table in made_from]
        assert all(table in TEXT + claims for table in made) == (changed == text), path
        path.write_text(text, encoding="utf-8")


def test_every_table_is_there():
    for name in record.TABLES:
        assert record.refresh_table(TEXT, name, "another table") != TEXT


def test_published_numbers_stand_in_the_pages():
    """They are kept once, in common/analysis/published.py."""
    for name, error in published.ERRORS.items():
        assert tables.cifar10_accuracy(name) == f"{100 - error:.2f}"
        if any(name == row[0] for row in tables.MODELS):
            assert f"`{name}`" in RESULTS
            assert f" {tables.cifar10_accuracy(name)} |" in RESULTS


def test_the_rows_of_long_runs_are_the_flags_that_a_run_would_be_kept_under():
    script = importlib.import_module("06_practical_example")
    for flags in LONG:
        settings = {key: str(value) for key, value in vars(script.arguments(flags.split())).items()}
        assert record.flags_of(settings) == flags
    assert "--compile" in record.flags_of(settings | {"compile": "True"}).split()


def test_a_long_run_is_kept_whole(tmp_path, monkeypatch):
    recorded = sorted(record.RECORDED.glob("cifar10/*.json"))[0]
    kept = json.loads(recorded.read_text(encoding="utf-8"))
    script = importlib.import_module("06_practical_example")
    flags = vars(script.arguments([*kept["flags"].split(), "--data-dir", "DIR"]))
    settings = {key: str(value) for key, value in flags.items()}
    measured = {"test_accuracy": kept["test"], "mirror_accuracy": kept["mirror"]}
    measured |= {key: kept[key] for key in ("test_images", "epochs")}
    results = {"settings": settings, "measured": measured, "seed": kept["seed"]}
    results["versions"] = kept["versions"]
    (tmp_path / "results.json").write_text(json.dumps(results), encoding="utf-8")
    monkeypatch.setattr(record, "RECORDED", tmp_path)
    place = kept["data"], kept["device"], kept["commit"]
    copy = record.keep(tmp_path / "results.json", *place)
    assert (copy.name, copy.read_bytes()) == (recorded.name, recorded.read_bytes())


def test_every_module_is_in_the_reading_order():
    common = ROOT / "common"
    order = (common / "README.md").read_text(encoding="utf-8")
    modules = [path for path in common.rglob("*.py") if path.parent != common]
    for path in [*modules, common / "lesson.py"]:
        name, source = path.name, path.read_text(encoding="utf-8")
        about = ast.get_docstring(ast.parse(source)).split("\n\n")[0].replace("\n", " ")
        if name == "__init__.py":
            path, name = path.parent, path.parent.name
        target = path.relative_to(common).as_posix()
        assert f"[{name}]({target})" in order
        assert f"({target}): {about}\n" in order.replace("**", ""), target
    assert order.count("](") == len(modules) + 1


def test_links_and_pictures_exist():
    for folder, page in ((ROOT, README), (ROOT / ".github", RESULTS)):
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page):
            assert (folder / target).exists(), target
