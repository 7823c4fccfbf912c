"""Record the lessons' results under .github/recorded and write the pages' tables anew.

Pages: README.md and, under .github, claims.md, results.md, exercises.md and mistakes.md. Their
tables are made anew either way, of what is recorded, counted (models) and measured (mistakes).

python -m tests.record              run every lesson, then refresh the pages
python -m tests.record --no-run     refresh the pages from what is recorded
python -m tests.record --keep-rates outputs/03_training_comparison/results.json --data CIFAR-10 \\
    --device M1                     keep the grid of learning rates of lesson 3 with --rates
python -m tests.record --keep-longer outputs/03_training_comparison/results.json --data Shapes-10 \\
    --device M1                     keep the errors of lesson 3 with --epochs 216
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

from common import plotting
from tests import tables

ROOT = Path(__file__).resolve().parent.parent
RECORDED = ROOT / ".github" / "recorded"
PAGES = [ROOT / "README.md"]  # of words and tables
PAGES += [ROOT / ".github" / f"{name}.md" for name in ("results", "exercises")]
TABLES = ("main_result", "first_lines", "lessons", "found")  # of the README
TABLES += ("cifar10", "models", "variants", "finetune", "speed", "longer")
TABLES += ("time_to_accuracy", "tricks", "skips")


def refresh_table(readme: str, name: str, table: str) -> str:
    """Replace what stands between the two comments that mark a table."""
    marked = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    return re.sub(marked, lambda match: f"{match[1]}{table}\n{match[2]}", readme, flags=re.DOTALL)


def refresh_all(page: str) -> str:
    """A page with its tables as what is recorded, and the code, would have them."""
    for name in TABLES:
        if f"<!-- {name} -->" in page:
            page = refresh_table(page, name, getattr(tables, name)(RECORDED))
    return page


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


def keep_rates(path: Path, data: str, device: str, commit: str) -> Path:
    """Keep the grid of learning rates of a run of lesson 3, and its picture."""
    results = json.loads(path.read_text(encoding="utf-8"))
    settings = results["settings"]
    names = ("images", "width", "image_size", "epochs", "seeds", "rates")
    flags = [f"--{n.replace('_', '-')} {re.sub(r'[^0-9. ]', '', settings[n])}" for n in names]
    kept = {
        "command": f"python 03_training_comparison.py --data-dir DIR {' '.join(flags)}",
        "data": data,
        "device": device,
        "commit": commit,
        "rates": results["measured"]["rates"],
    }
    target = RECORDED / "rates" / "cifar10.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    setup = f"{settings['images']} images of the {data}, {settings['image_size']} pixels, width "
    setup += f"{settings['width']}, {settings['epochs']} epochs; {settings['seeds']} seeds: mean"
    plotting.use_theme(show=False)
    figure = plotting.curves.rate_curves(tables.rate_grid(kept["rates"]), setup)
    figure.savefig(target.with_suffix(".png"))
    return target


def keep_longer(path: Path, data: str, device: str, commit: str) -> Path:
    """Keep the training errors of lesson 3 after a training of another length."""
    results = json.loads(path.read_text(encoding="utf-8"))
    epochs = results["settings"]["epochs"]
    kept = {"command": f"python 03_training_comparison.py --data shapes --epochs {epochs}"}
    kept |= {"data": data, "device": device, "commit": commit}
    kept["errors"] = results["measured"]["errors"]
    target = RECORDED / "longer.json"
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
    add("--keep-rates", type=Path, metavar="FILE", help="results.json of lesson 3 with --rates")
    add("--keep-longer", type=Path, metavar="FILE", help="results.json of lesson 3 with --epochs")
    add("--data", help="what that ran on: CIFAR-10, say")
    add("--device", help="the same: the name of the processor")
    add("--commit", help="of the code that ran (default: the one checked out)")
    args = parser.parse_args()
    kept = {keep: args.keep, keep_rates: args.keep_rates, keep_longer: args.keep_longer}
    if any(kept.values()):
        if not (args.data and args.device):
            parser.error("what is kept needs --data and --device")
        for function, path in kept.items():
            if path:
                print(function(path, args.data, args.device, args.commit or checked_out()))
    elif not args.no_run:
        for script in sorted(ROOT.glob("0*.py")):
            where = ["--out-dir", str(RECORDED.relative_to(ROOT))]
            command = [sys.executable, script.name, "--data", "shapes", *where]
            subprocess.run(command, cwd=ROOT, check=True)
    for path in PAGES:
        path.write_text(refresh_all(path.read_text(encoding="utf-8")), encoding="utf-8")
    (ROOT / ".github" / "mistakes.md").write_text(tables.mistakes_page(), encoding="utf-8")
    (ROOT / ".github" / "claims.md").write_text(tables.claims_page(RECORDED), encoding="utf-8")


if __name__ == "__main__":
    main()
