"""The tables of README.md that are made from recorded results and from the code itself."""

import importlib
import json
import math
import re
import statistics
import string
from pathlib import Path

from common import analysis
from common import models as networks
from common.analysis import Seeds, published, rates, verdict
from tests.benchmark import NAMES
from tests.mistakes import (
    MISTAKES,
    label,
    links,
    parameter_count,
    symptom,
)

import torch
import torchvision

LESSON_4 = importlib.import_module("04_residual_variants")
REFERENCE, VARIANTS = LESSON_4.REFERENCE, LESSON_4.VARIANTS
MARGIN = importlib.import_module("03_training_comparison").MARGIN
EPOCHS = importlib.import_module("06_practical_example").SETTINGS["epochs"][0]
DEPTHS = 20, 56  # of the networks that lesson 3 compares

# network, its blocks, image size
MODELS = [
    ("cifar_plain-20", "PlainBlock", 32),
    ("cifar_resnet-20", "BasicBlock", 32),
    ("cifar_plain-56", "PlainBlock", 32),
    ("cifar_resnet-56", "BasicBlock", 32),
    ("cifar_se_resnet-110", "SEBasicBlock", 32),
    ("cifar_preact_resnet-164", "PreActBottleneck", 32),
    ("cifar_densenet-100-12", "DenseLayer", 32),
    ("cifar_wide_resnet-16-4", "WideBlock", 32),
    ("cifar_pool_resnet-64-256-256", "PoolBlock", 32),
    ("cifar_resnext-29-8-64", "ResNeXtBlock", 32),
    ("resnet18", "BasicBlock", 32),
    ("resnet34", "BasicBlock", 32),
    ("resnet50", "Bottleneck", 32),
    ("resnet18", "BasicBlock", 224),
    ("resnet34", "BasicBlock", 224),
    ("resnet50", "Bottleneck", 224),
    ("resnet152", "Bottleneck", 224),
    ("resnext50_32x4d", "ResNeXtBlock", 224),
    ("densenet121", "DenseLayer", 224),
]
QUESTION = {  # by lesson: what it asks, and its answer in a line
    "1": (
        "What does the arrow do to one block, and to the gradient in many blocks?",
        "Doing nothing gets easier. With batch norm, untrained, gradients explode far less.",
    ),
    "2": (
        "How do blocks become ResNet-50, and how do we know that ours is right?",
        "A stem, four stages, a classifier. Outputs and gradients equal torchvision's.",
    ),
    "3": (
        "Do more layers always learn more?",
        "Without arrows 56 layers learn less than 20, even of the training images.",
    ),
    "4": (
        "Which variant of the block is for what, and is any better?",
        "With 10 to 22 layers none is surely better. With 1,001 pre-activation helps.",
    ),
    "5": (
        "What does it look like inside?",
        "Networks of 20 layers: gradients, the loss around the weights, code as graphs, features.",
    ),
    "6": (
        "How do I train a network well, on my own pictures, too?",
        "One pipeline with validation, checkpoints and honest intervals.",
    ),
}
QUESTIONS = {  # for the README: claims of the lessons, by question, as they begin
    "What does the arrow do for training?": [
        "plain networks: 56 layers have a higher",
        "residual networks: 56 layers have at most",
        "4 residual blocks learn to return their input",
        "residual-20 loses less accuracy than plain-20",
    ],
    "Do gradients vanish in plain networks?": [
        "plain blocks as PyTorch initialises them",
        "untrained plain blocks with batch norm: the gradient explodes",
        "with batch norm, the gradient grows less",
    ],
    "What lets 110 or 1,001 layers learn? (Guessing: a loss of 2.3)": [
        "1,001 layers learn less well with post-activation",
        "with post-activation 1,001 layers",
        "110 layers without batch norm",
    ],
    "A Transformer adds, too. Norm inside the branch (pre) or after the sum (post)?": [
        "near the output of",
        "without warm-up pre-norm",
        "each at its own best rate, pre-norm",
    ],
    "What else did we expect of 14 and 20 layers?": [
        "on 32x32 images",
        "at a training loss of 1 residual networks of 20 layers lie in flatter places (run",
        "at a training loss of 1 residual networks of 20 layers lie in flatter places (rec",
        "on features at half depth",
    ],
}
LETTERS = string.ascii_lowercase  # for notes below a table

# lesson 6's flags: short trainings, and for the models the full recipe
SHORT = "--epochs 6 --sizes 16 24 32"
POOL, RATES = "--model cifar_pool_resnet-64-256-256", "--lr 0.05 --smoothing 0.2 --muon 0.12"
FIVE_MINUTES = f"{POOL} --batch-size 512 {RATES}"  # for as many epochs as by default
RUNS = [
    FIVE_MINUTES,
    f"{POOL} --epochs 7 --batch-size 512 {RATES}",
    f"--model cifar_pool_resnet-64-256-512 --epochs 12 --batch-size 512 {RATES}",
    "--model cifar_resnet-14 --epochs 10 --sizes 16 24 32",
    "--model cifar_wide_resnet-16-2 --epochs 15 --sizes 16 24 32",
    "--model resnet18 --epochs 14 --lr 0.1 --sizes 16 24 32 --smoothing 0.1",
    *(f"--model cifar_{twin} {SHORT}" for twin in ("plain-20", "resnet-20")),
    *(f"--model cifar_{twin} {SHORT}" for twin in ("plain-56", "resnet-56")),
    *(f"--model cifar_{variant} {SHORT}" for variant in ("se_resnet-20", "preact_resnet-20")),
    *(f"--model cifar_{variant} {SHORT}" for variant in ("densenet-22-12", "wide_resnet-16-2")),
]
FULL = {
    name: f"--model {name} --epochs 200{' --lr 0.1' if name.startswith('resnet') else ''}"
    for name, _, size in MODELS
    if size == 32
}


START = ("fine-tuned", "from scratch", "from scratch, longer")  # of tests/finetune.py

CLAIMS = """# Claims and evidence

What lessons 1 to 5 measured with `--data shapes`. `python -m tests.record` runs them and writes
this page. Both sides of a claim start from the same n seeds. A claim *holds* if all of at least
five pairs agree. It *does not hold* if all say the opposite. Otherwise it is *unclear*, with the
number of pairs that agree. Without any difference five pairs would all agree in 1 of 32 cases, and
all disagree in 1 of 32. Claims that name a margin or a fixed limit have other odds. *Exact* is what
was counted, without chance. The number of claims is not corrected for. Numbers are mean ± standard
deviation. Losses are in nats, the unit of the natural logarithm."""

PAGE = """# Mistakes in public implementations of residual networks

Each is a change of one line of our own code in [tests/mistakes.py](../tests/mistakes.py); the
numbers are measured on the code so changed, and a test holds that exactly the named checks catch
it. "Fixed" and "open" say what became of them as far as we know. If you are new to this, begin with
the first row, ImageNet's max-pool, and the last row. This page is written by
`python -m tests.record --no-run`."""


def markdown(header: list[str], rows: list[list], right: str = "") -> str:
    """A table in Markdown; the columns in `right`, by their numbers, are set to the right."""
    rule = ["---:" if str(i) in right else "---" for i in range(len(header))]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [header, rule, *rows])


def models(recorded: Path) -> str:
    """Blocks, size and cost of the networks by name; published accuracies."""
    rows = []
    for name, block, size in MODELS:
        with torch.device("meta"):
            model = networks.build(name, 10 if size == 32 else 1000, size)
        macs = analysis.multiply_adds(model, 3, size, size)
        cost = f"{analysis.parameter_count(model) / 1e6:.2f} M, {macs / 1e9:.2f} G"
        shown = f"`{name}`" if size == 32 else f"`{name}`, {size}"
        published = cifar10_accuracy(name) if size == 32 else published_accuracy(name)
        rows.append([f"{shown} {block}", cost, published])
    return markdown(["`--model`, its blocks", "size, cost", "paper (%)"], rows, "12")


def rate_grid(recorded: dict) -> dict[str, rates.Rates]:
    """The grid that a results.json keeps: there a rate is a text, and NaN is null."""

    def numbers(errors: list) -> list[float]:
        return [math.nan if error is None else error for error in errors]

    return {
        name: {
            float(rate): {split: numbers(errors) for split, errors in splits.items()}
            for rate, splits in by_rate.items()
        }
        for name, by_rate in recorded.items()
    }


def cifar10_accuracy(name: str) -> str:
    """Accuracy (%) on CIFAR-10 that the network's paper gives."""
    if name not in published.ERRORS:
        return ""
    return f"{100 - published.ERRORS[name]:.2f}"


def published_accuracy(name: str) -> str:
    """ImageNet top-1 accuracy (%) of torchvision's first weights, as torchvision states it."""
    if name not in torchvision.models.list_models():
        return ""
    first = next(iter(torchvision.models.get_model_weights(name)))
    return f"{first.meta['_metrics']['ImageNet-1K']['acc@1']:.1f}"


def variants(recorded: Path) -> str:
    """The variants of lesson 4: their idea, and what they cost and gave."""
    path = recorded / "04_residual_variants" / "results.json"
    networks = json.loads(path.read_text(encoding="utf-8"))["measured"]["networks"]
    rows = []
    for name, found in networks.items():
        step = f"{1000 * statistics.median(found['step']):.0f}"
        variant = VARIANTS[name]
        idea = f"{variant.idea}. For {variant.purpose}" if name != REFERENCE else variant.idea
        rows.append([name, idea, step, accuracy(found["accuracy"])])
    header = ["variant", "its idea and aim, by its paper", "step (ms)", "test (%)"]
    return markdown(header, rows, "23")


def long_runs(recorded: Path) -> dict[str, list[dict]]:
    """What is kept of lesson 6's runs on CIFAR-10, by the flags of `RUNS` and `FULL`."""
    runs = {flags: [] for flags in (*RUNS, *FULL.values())}
    for path in sorted(recorded.glob("cifar10/*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        runs[run["flags"]].append(run)
    for flags, found in runs.items():
        assert len({run["data"] for run in found}) < 2, flags
        assert len({run["seed"] for run in found}) == len(found), flags
    return runs


def cifar10(recorded: Path) -> str:
    """What lesson 6 reached on CIFAR-10, by its flags."""
    rows, places, halves, runs = [], [], [], long_runs(recorded)
    images = sorted({run["data"] for found in runs.values() for run in found})
    for flags, found in runs.items():
        if not found:
            continue
        minutes = {}
        for run in found:
            place = run["device"] if len(images) == 1 else f"{run['data']}, {run['device']}"
            places += [place] if place not in places else []
            letter = LETTERS[places.index(place)]
            minutes.setdefault(letter, []).append(run["seconds"] / 60)
        spent = ", ".join(f"{median_and_range(m)} ({k})" for k, m in minutes.items())
        test, mirror = (accuracy([run[key] for run in found]) for key in ("test", "mirror"))
        halves += map(half_interval, found)
        both = f"{test.split(' (')[0]}, {mirror}"
        shown = flags if "--epochs" in flags else f"{flags} --epochs {EPOCHS}"
        rows.append([f"`{shown.removeprefix('--model ')}`", both, spent])
    table = markdown(["`--model` and flags", "test, mirror (%)", "minutes"], rows, "12")
    where = "; ".join(map(": ".join, zip(LETTERS, places, strict=False)))
    return (
        f"{table}\n\n{' and '.join(images)}. Minutes of training: the median run's, and the range "
        f"where it is wide. On {where}. The choice of test images alone leaves up to "
        f"±{max(halves):.1f} points (Wilson's 95 % interval)."
    )


def median_and_range(minutes: list[float]) -> str:
    """The median, and the range of runs that took very unlike times."""
    low, middle, high = (f"{f(minutes):.0f}" for f in (min, statistics.median, max))
    return f"{middle}, {low} to {high}" if max(minutes) > 1.3 * min(minutes) else middle


def tricks(recorded: Path) -> str:
    """What tests/tricks.py measured with each trick left out or added."""
    kept = json.loads((recorded / "tricks.json").read_text(encoding="utf-8"))
    right = {
        name: {n: Seeds(run[f"views {n}"] for run in runs.values()) for n in (1, 2, 6)}
        for name, runs in kept["runs"].items()
    }
    seconds = {
        name: f"{statistics.median(run['seconds'] for run in runs.values()):.0f}"
        for name, runs in kept["runs"].items()
    }
    recipe = right.pop("the recipe")
    changed = {name: views[1] for name, views in right.items()}
    changed |= {"mirror images in the test": recipe[2], "six views in the test": recipe[6]}
    best = max(kept["sgd"], key=kept["sgd"].get)
    more = {
        "without Muon": f": SGD at {best}, the best of {', '.join(kept['sgd'])} on another seed",
        "growing images": f": {3 * kept['size'] // 4} pixels, then {kept['size']}",
    }
    rows = [["the recipe of the first row", f"{recipe[1]:.1%}", "", seconds["the recipe"]]]
    for name, seeds in changed.items():
        points = [100 * (a - b) for a, b in zip(seeds, recipe[1], strict=True)]
        better = f"{sum(p > 0 for p in points)} of {len(points)}"
        gain = f"{statistics.fmean(points):+.1f}, better in {better}"
        shown = name if name.startswith("without") else f"with {name}"
        rows.append([shown + more.get(name, ""), f"{seeds:.1%}", gain, seconds.get(name, "")])
    header = ["what is changed", "right", "points, seeds", "seconds"]
    spent = "Seconds: of training and validation, the median."
    return f"{markdown(header, rows, '123')}\n\n{setting(kept)} {spent}"


def skips(recorded: Path) -> str:
    """What tests/tricks.py measured with and without skips, from two kinds of first weights."""
    kept = json.loads((recorded / "skips.json").read_text(encoding="utf-8"))
    rows, gains = [], []
    for residual in (1, 3):
        for start in ("default", "identity"):
            cells = (kept["runs"][f"{residual}, {skip}, {start}"] for skip in ("skip", "no skip"))
            skip, none = (Seeds(run["views 1"] for run in cell.values()) for cell in cells)
            judged = mark(verdict(skip, ">", none))
            gains.append(f"{100 * (skip.mean - none.mean):+.1f}")
            count = 1 + 3 * (1 + residual)  # a stem, and in each group a pooling one and these
            rows.append([f"{count}, {start}", f"{skip:.1%}", f"{none:.1%}", judged])
    header = ["convolutions, first weights", "skip", "no skip", "a skip is better"]
    said = "A skip brings {} points in seven convolutions and {} in thirteen".format(*gains[::2])
    said += ". From a start near the identity it brings {} and {}.".format(*gains[1::2])
    return f"{markdown(header, rows, '12')}\n\n{said} {setting(kept)}"


def setting(kept: dict) -> str:
    """How tests/tricks.py trained, for the line below a table."""
    widths = "-".join(map(str, kept["widths"]))
    return (
        f"Right validation images, mean ± deviation over n = {len(kept['seeds'])} seeds: "
        f"`cifar_pool_resnet-{widths}`, {kept['epochs']} epochs, {kept['data']} at "
        f"{kept['size']}x{kept['size']} pixels, on {kept['device']}."
    )


def time_to_accuracy(recorded: Path) -> str:
    """What tests/time_to_accuracy.py measured."""
    kept = json.loads((recorded / "time_to_accuracy.json").read_text(encoding="utf-8"))
    ours = next(r for r in kept["ours"] if r["val_accuracy"] >= kept["target"])
    theirs = kept["copied"][-1]

    def percent(row: dict) -> str:
        return f"{100 * row['val_accuracy']:.1f} %"

    there = f"there after {theirs['seconds']:,.0f} s"
    if theirs["val_accuracy"] < kept["target"]:
        there = f"at {percent(theirs)} when it was stopped after {theirs['seconds']:,.0f} s"
    alike = "ours in bfloat16" if kept["native_bf16"] else "both in float32"
    widths = "-".join(map(str, kept["widths"]))
    when = f"after epoch {kept['ours'].index(ours) + 1} of its {kept['epochs']}"
    return (
        f"On {kept['device'].removesuffix(', in float32')}, {alike}, one seed: "
        f"`cifar_pool_resnet-{widths}` had {percent(ours)} of the validation images right after "
        f"{ours['seconds']:.0f} s, {when}. The copied code "
        f"was {there}, {theirs['seconds'] / ours['seconds']:.0f} times as long. "
        f"{kept['data']}, torch {kept['torch']}."
    )


def half_interval(run: dict) -> float:
    """Half the width of the 95 % interval of a run's test accuracy, in points."""
    hits = round(run["test"] * run["test_images"])
    low, high = analysis.predictions.wilson(hits, run["test_images"])
    return 100 * (high - low) / 2


def accuracy(shares: list[float]) -> str:
    """Mean, standard deviation and n of accuracies, in percent."""
    return f"{Seeds(shares):.1%}".removesuffix(" %") + f" (n = {len(shares)})"


def claims_page(recorded: Path) -> str:
    """Every finding of the lessons, as it was recorded: a heading for each lesson."""
    parts, sources = [CLAIMS], []
    for results in lesson_results(recorded):
        findings = results["findings"]
        if not findings:
            continue
        parts.append(f"## [Lesson {number(results)}](../{results['lesson']}.py): {about(results)}")
        parts.append(
            markdown(["claim and source", "measured", "verdict"], rows_of(findings, sources))
        )
        counted = sorted({f["n"] for f in findings if f["n"] != "exact"})
        n = f"n = {' or '.join(map(str, counted))} networks" if counted else "Exact"
        parts.append(f"{n}, on {results['data']}.")
    notes = [f"[^{i}]: {source}" for i, source in enumerate(sources, 1)]
    return "\n\n".join([*parts, "## Sources", "\n".join(notes)]) + "\n"


def rows_of(findings: list[dict], sources: list[str]) -> list[list[str]]:
    """Claims with what was measured; a source is a footnote, added to `sources` where it is new."""
    rows = []
    for found in findings:
        if found["source"] not in sources:
            sources.append(found["source"])
        note = f"[^{sources.index(found['source']) + 1}]"
        exact = " (exact)" if found["n"] == "exact" else ""
        rows.append([found["claim"] + note, found["measured"] + exact, mark(found["verdict"])])
    return rows


def mark(verdict: str) -> str:
    """A verdict that is visible at a glance."""
    return {"holds": "✓ holds", "does not hold": "✗ does not hold"}.get(verdict, f"? {verdict}")


def main_result(recorded: Path) -> str:
    """The recorded grid of learning rates on real images: errors, and what they say of depth."""
    kept = json.loads((recorded / "rates" / "cifar10.json").read_text(encoding="utf-8"))
    grid = rate_grid(kept["rates"])
    at_best = rates.around_best(grid, 1)
    rows = []
    for kind, arrow in (("plain", "without the arrow"), ("residual", "with the arrow")):
        errors = [at_best[f"{kind}-{depth}"] for depth in DEPTHS]
        rows.append([arrow, *(f"{seeds:.1%}" for seeds in errors)])
    header = ["training error", *(f"{depth} layers" for depth in DEPTHS)]
    n = len(at_best["plain-20"])
    how = (
        f"Mean ± standard deviation over n = {n} networks, each at the learning rate of its lowest "
        "validation error. The curves show at least half and twice that rate. Not all rates that "
        "the command tries are drawn. The images are from the "
        f"{kept['data']}, shrunk to 12x12 pixels. On {kept['device']}:"
    )
    folded = f"<details><summary>How this was measured</summary>{how} "
    folded += f"<code>{kept['command']}</code></details>"
    table = markdown(header, rows, "12")
    return f"{table}\n\nGuessing one of ten classes has 90 % error. {depth_costs(grid)}\n\n{folded}"


def depth_costs(grid: dict) -> str:
    """Lesson 3's two claims at the best rates, and at half and twice those, in a sentence."""
    found = {"plain": {}, "residual": {}}
    for factor, where in rates.FACTORS.items():
        errors = rates.around_best(grid, factor)
        for kind, relation, margin in (("plain", ">", 0.0), ("residual", "<=", MARGIN)):
            deep, shallow = (errors[f"{kind}-{depth}"] for depth in reversed(DEPTHS))
            missing = deep is None or shallow is None
            judged = "not measured" if missing else verdict(deep, relation, shallow, margin)
            found[kind][where] = judged
    points = f"{100 * MARGIN:.0f} percentage points"
    if all(judged == "holds" for by_rate in found.values() for judged in by_rate.values()):
        return (
            "All seeds agree: without the arrow 56 layers have the higher training error. With it "
            f"they stay within {points} of 20 layers' error, the margin that we had set. This also "
            "holds at half and at twice the best rates."
        )
    texts = {
        kind: ", ".join(f"{judged} at {where}" for where, judged in by_rate.items())
        for kind, by_rate in found.items()
    }
    return (
        f"That depth costs the plain network training error: {texts['plain']}. That it costs the "
        f"residual one at most {points}: {texts['residual']}."
    )


def first_lines(recorded: Path) -> str:
    """What lesson 3 prints of its training, as recorded."""
    report = (recorded / "03_training_comparison" / "report.txt").read_text(encoding="utf-8")
    section = report.split("\n2. ")[1].splitlines()
    table = next(i for i, line in enumerate(section) if line.startswith("network "))
    return "\n".join(["```console", "2. " + section[0], *section[table : table + 5], "```"])


def found(recorded: Path) -> str:
    """The main findings, a small table for each question."""
    findings = {
        f["claim"]: (f, results)
        for results in lesson_results(recorded)
        for f in results["findings"]
    }
    parts = []
    for question, claims in QUESTIONS.items():
        rows = []
        for claim in claims:
            f, results = next(pair for text, pair in findings.items() if text.startswith(claim))
            link = f"[lesson {number(results)}]({results['lesson']}.py)"
            sign = re.sub(" holds| does not hold| unclear:", "", mark(f["verdict"]))
            rows.append([f["claim"], f["measured"], f"{sign}, {link}"])
        parts.append(markdown([question, "measured", "✓, lesson"], rows))
    return "\n\n".join(parts)


def speed(recorded: Path) -> str:
    """The ratios of tests/benchmark.py, as recorded with bfloat16 and in float32."""
    paths = [recorded / name for name in NAMES.values()]
    both = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]

    def ratio(results: dict, key: str, digits: int = 1) -> str:
        low, middle, high = (f(results[key]) for f in (min, statistics.median, max))
        return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"

    parts = []
    for results in both:
        alike = "ours in bfloat16" if results["native_bf16"] else "both in float32"
        parts.append(
            f"On {results['device']}, {alike}: our training is {ratio(results, 'training')} times "
            f"as fast, the data path alone {ratio(results, 'data')} times. PyTorch's threads spin "
            f"while they wait; the lessons let them sleep soon. Beside another busy process a "
            f"ResNet-20 then trains {ratio(results, 'threads_busy')} times as fast, alone at "
            f"{ratio(results, 'threads_idle', 2)} of the speed. Median and range of "
            f"{len(results['training'])} pairs, torch {results['torch']}."
        )
    return "\n\n".join(parts)


def finetune(recorded: Path) -> str:
    """What tests/finetune.py measured, as recorded."""
    results = json.loads((recorded / "finetune.json").read_text(encoding="utf-8"))
    tuned, short, long = (results[key] for key in START)

    def against(others: list[float]) -> str:
        better = sum(ours > theirs for ours, theirs in zip(tuned, others, strict=True))
        return f"{Seeds(others):.1%} (fine-tuning is better for {better} of {len(others)} seeds)"

    return (
        f"A {results['model']} that was trained on Shapes-10 reaches {Seeds(tuned):.1%} "
        f"on six other shapes when it is fine-tuned on a hundred images of 32 pixels; from scratch "
        f"{against(short)}, and in five times as many epochs {against(long)}. "
        f"Mean ± deviation, n = {len(tuned)}. The classifier first learns alone, then all layers "
        "at 0.3 of its rate, a factor that was chosen with test images of two sets in view. "
        f"On {results['device']}, `python -m tests.finetune`."
    )


def longer(recorded: Path) -> str:
    """Training errors of lesson 3 as it is, and trained three times as long."""
    path = recorded / "03_training_comparison" / "results.json"
    default = json.loads(path.read_text(encoding="utf-8"))
    kept = json.loads((recorded / "longer.json").read_text(encoding="utf-8"))
    errors = {name: Seeds(values) for name, values in kept["errors"].items()}
    rows = []
    for name, values in default["measured"]["errors"].items():
        rows.append([name, f"{Seeds(values):.1%}", f"{errors[name]:.1%}"])
    epochs = int(default["settings"]["epochs"])
    header = ["training error", f"{epochs} epochs", f"{kept['command'].split()[-1]} epochs"]
    judged = verdict(errors["plain-56"], ">", errors["plain-20"])
    agree = {"holds": "In all seeds plain-56 still has the higher error than plain-20."}
    said = agree.get(judged, f"That plain-56 has the higher error than plain-20: {judged}.")
    where = f"n = {len(errors['plain-56'])}, {kept['data']}, the last column on {kept['device']}."
    return f"{markdown(header, rows, '12')}\n\n{said} {where}"


def lesson_results(recorded: Path) -> list[dict]:
    """results.json of every lesson, in order."""
    files = sorted(recorded.glob("0*/results.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in files]


def number(results: dict) -> str:
    """The lesson's number."""
    return results["lesson"][:2].lstrip("0")


def about(results: dict) -> str:
    """What a lesson is about: the first line of its docstring, without its number."""
    title = importlib.import_module(results["lesson"]).__doc__.splitlines()[0]
    return title.split(": ", 1)[1].rstrip(".")


def lessons(recorded: Path) -> str:
    """The question that each lesson asks, its answer in a line, and the seconds of its record."""
    rows = []
    for results in lesson_results(recorded):
        name = f"{results['lesson']}.py"
        question, answer = QUESTION[number(results)]
        rows.append(
            [f"[{number(results)}]({name})", question, answer, f"{results['seconds']:.0f} s"]
        )
    return markdown(["", "question", "answer in a line", "time"], rows, "3")


def mistakes() -> str:
    """The mistakes: what they do, and what catches them."""
    rows = []
    for mistake in MISTAKES:
        caught = ", ".join(map(label, mistake.caught_by))
        if parameter_count in mistake.missed_by:
            caught += "; not by the count"
        rows.append([mistake.bug, symptom(mistake), caught])
    return markdown(["mistake", "symptom", "caught by"], rows)


def mistakes_page() -> str:
    """All mistakes, where they were found, and what each check asks."""
    found = [f"- {m.bug}: {links(m.found)}" for m in MISTAKES]
    checks = dict.fromkeys(check for m in MISTAKES for check in m.exhibit.checks)
    asked = [f"- **{label(check)}**: {check.__doc__.rstrip('.')}" for check in checks]
    parts = [PAGE, mistakes(), "## Found in", "\n".join(found), "## Checks"]
    return "\n\n".join([*parts, "\n".join(asked)]) + "\n"
