"""Record the lessons' results under .github/recorded and write README.md's tables anew.

The tables are made anew either way: of mistakes (measured), of models (counted, and recorded), and
of lessons, variants, CIFAR-10, claims, fine-tuning and speed (recorded).

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

from tests import tables

ROOT = Path(__file__).resolve().parent.parent
RECORDED = ROOT / ".github" / "recorded"


def refresh_table(readme: str, name: str, table: str) -> str:
    """Replace what stands between the two comments that mark a table."""
    marked = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    return re.sub(marked, lambda match: f"{match[1]}{table}\n\n{match[2]}", readme, flags=re.DOTALL)


def refresh_all(readme: str) -> str:
    """The README as what is recorded, and the code, would have it."""
    made = {"mistakes": tables.mistakes()}
    for name in ("lessons", "variants", "cifar10", "models", "claims", "finetune", "speed"):
        made[name] = getattr(tables, name)(RECORDED)
    for name, table in made.items():
        readme = refresh_table(readme, name, table)
    return readme


def flags_of(settings: dict) -> str:
    """The flags of lesson 6 that change its result, where they are not the defaults; no seed."""
    script = importlib.import_module("06_practical_example")
    defaults, flags = vars(script.arguments([])), []
    for name in ("model", *(n for n in script.BINDING if n not in ("model", "seed")), "compile"):
        if (value := settings[name]) != str(defaults[name]) or name == "model":
            value = "" if value == "True" else re.sub(r"[\[\],]", "", value)
            flags.append(f"--{name.replace('_', '-')} {value}".strip())
    return " ".join(flags)


def keep(path: Path, data: str, device: str, commit: str) -> Path:
    """Keep what a run of lesson 6 measured in a small file.

    Raises: SystemExit if its flags are none of those in the README's table.
    """
    results = json.loads(path.read_text(encoding="utf-8"))
    measured, settings, seed = results["measured"], results["settings"], results["seed"]
    flags = flags_of(settings)
    if flags not in (*tables.RUNS, *tables.FULL.values()):
        raise SystemExit(f"tests/tables.py has no row for {flags}")
    source = "--data cifar10" if settings["data_dir"] == "None" else "--data-dir DIR"
    kept = {
        "flags": flags,
        "seed": seed,
        "data": data,
        "device": device,
        "command": f"python 06_practical_example.py {source} {flags} --seed {seed}",
        "commit": commit,
        "versions": results["versions"],
        "seconds": measured["epochs"][-1]["seconds"],
        "test": measured["test_accuracy"],
        "mirror": measured["mirror_accuracy"],
        "test_images": measured["test_images"],
        "epochs": measured["epochs"],
    }
    name = re.sub(r"[^a-z0-9._]+", "-", f"{data} {flags} seed {seed}".lower())
    (RECORDED / "cifar10").mkdir(exist_ok=True)
    target = RECORDED / "cifar10" / f"{name}.json"
    target.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return target


def checked_out() -> str:
    """The commit that is checked out."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.check_output(command, cwd=ROOT, text=True).strip()


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
        print(keep(args.keep, args.data, args.device, args.commit or checked_out()))
    elif not args.no_run:
        for script in sorted(ROOT.glob("0*.py")):
            where = ["--out-dir", str(RECORDED.relative_to(ROOT))]
            command = [sys.executable, script.name, "--data", "shapes", *where]
            subprocess.run(command, cwd=ROOT, check=True)
    path = ROOT / "README.md"
    path.write_text(refresh_all(path.read_text(encoding="utf-8")), encoding="utf-8")
    (ROOT / ".github" / "mistakes.md").write_text(tables.mistakes_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
