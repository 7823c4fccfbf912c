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

from tests import record, tables

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^ +(python \S+\.py.*)$", README, re.MULTILINE)
COMMANDS += re.findall(r"`(python \S+\.py(?: [^`]*[^`.])?)`", README)
COMMANDS += [
    line.replace(found[0], "python")
    for line in re.findall(r"^ +(torchrun .*)$", README, re.MULTILINE)
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
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", re.sub(r"<!--.*?-->", "", README)))
    scripts = [path.stem for path in ROOT.glob("0*.py")]
    known = {"--nproc-per-node"}  # torchrun's
    for script in scripts:
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as text:
            importlib.import_module(script).arguments(["--help"])
        known |= set(re.findall(r"--[a-z][a-z-]+", text.getvalue()))
    assert named <= known


def test_every_lesson_has_its_section():
    for path in ROOT.glob("0*.py"):
        assert f"[{path.name}]({path.name})" in README
        assert f"python {path.name}" in COMMANDS


def test_python_snippets_print_what_is_shown():
    blocks = BLOCKS[2:]
    assert [language for language, _ in blocks] == ["python", "text"] * (len(blocks) // 2)
    for (_, snippet), (_, text) in zip(blocks[::2], blocks[1::2], strict=True):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(snippet, {})
        assert printed.getvalue() == text


def test_the_readme_is_the_one_that_recording_would_write():
    assert record.refresh_all(README) == README
    page = (ROOT / ".github" / "mistakes.md").read_text(encoding="utf-8")
    assert tables.mistakes_page() == page


def test_a_changed_result_changes_the_readme(tmp_path):
    shutil.copytree(record.RECORDED, tmp_path / "recorded")
    digit = r'("measured": "\D*|"(?:test": 0\.|seconds": |(?:training|fine-tuned)": \[\s+))\d'
    made_from = (tables.lessons, tables.variants, tables.claims, tables.cifar10, tables.speed)
    made_from += (tables.finetune,)
    for path in sorted((tmp_path / "recorded").rglob("*.json")):
        text = path.read_text(encoding="utf-8")
        changed = re.sub(digit, r"\g<1>33", text)
        path.write_text(changed, encoding="utf-8")
        made = [table(tmp_path / "recorded") for table in made_from]
        assert all(table in README for table in made) == (changed == text), path
        path.write_text(text, encoding="utf-8")


def test_every_table_is_there():
    names = ("lessons", "variants", "models", "claims", "cifar10", "mistakes", "finetune", "speed")
    for name in names:
        assert record.refresh_table(README, name, "another table") != README


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
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert targets
    for target in targets:
        assert (ROOT / target).exists(), target
