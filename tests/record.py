"""Record the lessons' results under .github/recorded and quote them anew in README.md.

The tables of the README are made anew either way: of mistakes (measured), of models (counted), of
claims and of CIFAR-10 (from what is recorded).

python -m tests.record              run every lesson, then refresh the README
python -m tests.record --no-run     refresh the README from what is recorded
python -m tests.record --keep outputs/06_practical_example/results.json --data CIFAR-10 --device M1
                                    keep a long run of lesson 6 at the commit checked out
"""

import argparse
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

from tests import mistakes, tables

ROOT = Path(__file__).resolve().parent.parent
RECORDED = ROOT / ".github" / "recorded"


def refresh(readme: str, reports: list[str]) -> str:
    """Replace each ```text block by the paragraph of a report that begins with its first line."""
    paragraphs = [p.strip("\n") for report in reports for p in report.split("\n\n")]
    paragraphs = [re.sub(r"^.*\n-{3,}\n", "", p) for p in paragraphs]  # without its heading

    def current(match: re.Match) -> str:
        first = match[1].split("\n", 1)[0].split()
        found = [p for p in paragraphs if first in (line.split() for line in p.splitlines())]
        if not found:
            return match[0]  # the output of a snippet, say
        lines = found[0].splitlines()
        start = next(i for i, line in enumerate(lines) if line.split() == first)
        return "```text\n" + "\n".join(lines[start:]) + "\n```"

    return re.sub(r"^```text\n(.*?)\n```$", current, readme, flags=re.MULTILINE | re.DOTALL)


def refresh_table(readme: str, name: str, table: str) -> str:
    """Replace what stands between the two comments that mark a table."""
    marked = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    return re.sub(marked, lambda match: f"{match[1]}{table}\n\n{match[2]}", readme, flags=re.DOTALL)


def refresh_all(readme: str) -> str:
    """The README as what is recorded, and the code, would have it."""
    reports = [p.read_text(encoding="utf-8") for p in sorted(RECORDED.glob("*/report.txt"))]
    readme = refresh(readme, reports)
    made = {"models": tables.models(), "mistakes": mistakes.table()}
    for name in ("lessons", "claims", "cifar10"):
        made[name] = getattr(tables, name)(RECORDED)
    for name, table in made.items():
        readme = refresh_table(readme, name, table)
    return readme


def flags_of(settings: dict) -> str:
    """The flags of lesson 6 that change its result, where they are not the defaults; no seed."""
    script = importlib.import_module("06_practical_example")
    defaults, flags = vars(script.arguments([])), []
    for name in ("model", *(n for n in script.SETTINGS if n not in ("model", "seed")), "compile"):
        if (value := settings[name]) != str(defaults[name]) or name == "model":
            value = "" if value == "True" else re.sub(r"[\[\],]", "", value)
            flags.append(f"--{name.replace('_', '-')} {value}".strip())
    return " ".join(flags)


def keep(path: Path, data: str, device: str, commit: str | None) -> Path:
    """Keep what a run of lesson 6 measured in a small file.

    Raises: SystemExit if its flags are none of those in the README's table.
    """
    results = json.loads(path.read_text(encoding="utf-8"))
    measured, settings = results["measured"], results["settings"]
    git = ["git", "rev-parse", "--short", commit or "HEAD"]
    kept = {"flags": flags_of(settings), "seed": results["seed"], "data": data, "device": device}
    kept["commit"] = subprocess.run(git, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    kept["commit"] = kept["commit"].stdout.strip()
    kept |= {"versions": results["versions"], "seconds": measured["epochs"][-1]["seconds"]}
    kept |= {"test": measured["test_accuracy"], "mirror": measured["mirror_accuracy"]}
    kept |= {"test_images": measured["test_images"], "epochs": measured["epochs"]}
    if kept["flags"] not in dict(tables.RUNS):
        raise SystemExit(f"tests/tables.py has no row for {kept['flags']}")
    name = re.sub(r"[^a-z0-9._]+", "-", f"{data} {kept['flags']} seed {results['seed']}".lower())
    (RECORDED / "cifar10").mkdir(exist_ok=True)
    target = RECORDED / "cifar10" / f"{name}.json"
    target.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return target


def main() -> None:
    """Run, record, refresh."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    add = parser.add_argument
    add("--no-run", action="store_true", help="only refresh the README")
    add("--keep", type=Path, metavar="FILE", help="results.json of a long run of lesson 6")
    add("--data", help="what --keep ran on: CIFAR-10, say")
    add("--device", help="the same: the name of the processor")
    add("--commit", help="of the code that --keep ran (default: the one checked out)")
    args = parser.parse_args()
    if args.keep:
        if not (args.data and args.device):
            parser.error("--keep needs --data and --device")
        print(keep(args.keep, args.data, args.device, args.commit))
    elif not args.no_run:
        for script in sorted(ROOT.glob("0*.py")):
            where = ["--out-dir", str(RECORDED.relative_to(ROOT))]
            command = [sys.executable, script.name, "--data", "shapes", *where]
            subprocess.run(command, cwd=ROOT, check=True)
    path = ROOT / "README.md"
    path.write_text(refresh_all(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
