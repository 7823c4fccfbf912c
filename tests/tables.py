"""The tables of README.md that are made from recorded results and from the code itself."""

import importlib
import json
import statistics
from operator import itemgetter
from pathlib import Path

from common import analysis
from common import models as networks
from common.analysis import Seeds, published, verdict
from tests.mistakes import (
    CIFAR_RESNET18,
    MISTAKES,
    RESNET18,
    Mistake,
    label,
    links,
    parameter_count,
    symptom,
)

import torch
import torchvision

VARIANTS = importlib.import_module("04_residual_variants").VARIANTS

# accuracy on CIFAR-10 (%): He et al. 2015, table 6; Zagoruyko & Komodakis 2016; and the
# other variants' papers, as lesson 4 quotes them
PUBLISHED = {"cifar_resnet-20": "91.25", "cifar_resnet-56": "93.03"}
PUBLISHED["cifar_wide_resnet-16-4"] = "94.98"
for variant in VARIANTS.values():
    if variant.published:
        error = float(published.ERRORS[variant.published].number)
        PUBLISHED[variant.published] = f"{100 - error:.2f}"

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
LETTERS = "abcdefgh"  # for notes below a table

# lesson 6's flags: short trainings, and for the models the full recipe
SHORT = "--epochs 6 --sizes 16 24 32"
POOL, RATES = "--model cifar_pool_resnet-64-256-256", "--lr 0.05 --smoothing 0.2 --muon 0.12"
FIVE_MINUTES = f"{POOL} --batch-size 512 {RATES}"  # for as many epochs as by default
RUNS = [
    FIVE_MINUTES,
    f"{POOL} --epochs 7 --batch-size 512 {RATES}",
    "--model cifar_resnet-14 --epochs 10 --sizes 16 24 32",
    "--model cifar_wide_resnet-16-2 --epochs 15 --sizes 16 24 32",
    "--model resnet18 --epochs 14 --lr 0.1 --sizes 16 24 32 --smoothing 0.1",
    *(f"--model cifar_{twin} {SHORT}" for twin in ("plain-20", "resnet-20")),
    *(f"--model cifar_{twin} {SHORT}" for twin in ("plain-56", "resnet-56")),
]
FULL = {
    name: f"--model {name} --epochs 200{' --lr 0.1' if name.startswith('resnet') else ''}"
    for name, _, size in MODELS
    if size == 32
}


START = ("fine-tuned", "from scratch", "from scratch, longer")  # of tests/finetune.py

PAGE = """# Mistakes in public implementations of residual networks

Each is a change of one line of our own code in [tests/mistakes.py](../tests/mistakes.py); the
numbers are measured on the code so changed, and a test holds that exactly the named checks catch
it. "Fixed" and "open" say what became of them as far as we know. This page is written by
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
        costs = [f"{analysis.parameter_count(model) / 1e6:.2f}", f"{macs / 1e9:.2f}"]
        costs.append(analysis.depth(model))
        shown = f"`{name}`" if size == 32 else f"`{name}`, {size}"
        published = PUBLISHED.get(name, "") if size == 32 else published_accuracy(name)
        rows.append([shown, block, *costs, published])
    header = ["`--model`", "blocks", "parameters (M)", "multiply-adds (G)", "layers"]
    return markdown([*header, "published (%)"], rows, "2345")


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
        rows.append([name, variant.idea, variant.purpose, step, accuracy(found["accuracy"])])
    header = ["variant", "its idea", "for, by its paper", "step (ms)", "test accuracy (%)"]
    return markdown(header, rows, "34")


def long_runs(recorded: Path) -> dict[str, list[dict]]:
    """What is kept of lesson 6's runs on CIFAR-10, by the flags of `RUNS` and `FULL`."""
    runs = {flags: [] for flags in (*RUNS, *FULL.values())}
    for path in sorted(recorded.glob("cifar10/*.json")):
        run = json.loads(path.read_text(encoding="utf-8"))
        runs[run["flags"]].append(run)
    for flags, found in runs.items():
        assert len({(run["data"], run["device"]) for run in found}) < 2, flags
        assert len({run["seed"] for run in found}) == len(found), flags
    return runs


def cifar10(recorded: Path) -> str:
    """What lesson 6 reached on CIFAR-10, by its flags."""
    rows, places = [], []
    for flags, found in long_runs(recorded).items():
        if not found:
            continue
        place = f"{found[0]['data']}, {found[0]['device']}"
        places += [place] if place not in places else []
        test, mirror = (accuracy([run[key] for run in found]) for key in ("test", "mirror"))
        minutes = f"{statistics.median(run['seconds'] for run in found) / 60:.0f}"
        shown = f"`{flags.removeprefix('--model ')}`", test, mirror.split("&nbsp;(")[0], minutes
        rows.append([*shown, LETTERS[places.index(place)]])
    table = markdown(
        ["`--model` and flags", "test (%)", "mirror (%)", "minutes", "on"], rows, "123"
    )
    where = "; ".join(map(": ".join, zip(LETTERS, places, strict=False)))
    return f"{table}\n\nMinutes of training: the median run's. On {where}."


def long_run_claims(recorded: Path) -> list[list[str]]:
    """Degradation on CIFAR-10, from the long runs of four networks."""
    runs = long_runs(recorded)

    def errors(name: str, accuracy_of) -> Seeds:
        return Seeds(1 - accuracy_of(run) for run in runs[f"--model {name} {SHORT}"])

    def row(claim: str, source: str, shallow: Seeds, relation: str, deep: Seeds) -> list[str]:
        measured = f"{shallow:.1%} -> {deep:.1%}"
        judged = verdict(deep, relation, shallow)
        return ["6", claim, source, measured, len(deep), judged]

    def trained(run: dict) -> float:
        return run["epochs"][-1]["train_accuracy"]

    plain = [errors(f"cifar_plain-{depth}", trained) for depth in (20, 56)]
    residual = [errors(f"cifar_resnet-{depth}", itemgetter("test")) for depth in (20, 56)]
    higher = "plain: depth 56 has a higher training error than depth 20"
    lower = "residual: depth 56 has a lower test error than depth 20"
    reproduced = "0.7 -> 3.3 %, fully trained on CIFAR-10 (a-martyn/resnet)"
    paper = "8.75 -> 6.97 %, fully trained on CIFAR-10 (He et al. 2015, table 6)"
    return [
        row(higher, reproduced, plain[0], ">", plain[1]),
        row(lower, paper, residual[0], "<", residual[1]),
    ]


def accuracy(shares: list[float]) -> str:
    """Mean, standard deviation and n of accuracies, in percent, on one line."""
    text = f"{Seeds(shares):.1%}".removesuffix(" %") + f" (n = {len(shares)})"
    return text.replace(" ", "&nbsp;")


def claims(recorded: Path) -> str:
    """Every finding of the lessons, as it was recorded."""
    rows, made_on = [], set()
    for results in lesson_results(recorded):
        number = results["lesson"][:2].lstrip("0")
        made_on.add(f"{results['data']}, device {results['device']}")
        for finding in results["findings"]:
            rows.append([number, *finding.values()])
    rows += long_run_claims(recorded)
    table = markdown(["lesson", "claim", "source", "measured here", "n", "verdict"], rows, "4")
    where = f"On {' and '.join(sorted(made_on))}; seconds as in the table of lessons."
    return f"{table}\n\n{where} Lesson 6: data, device and minutes as in the table before."


def speed(recorded: Path) -> str:
    """The ratios of tests/benchmark.py, as recorded."""
    results = json.loads((recorded / "benchmark.json").read_text(encoding="utf-8"))

    def ratio(key: str, digits: int = 1) -> str:
        ratios = results[key]
        low, middle, high = (f(ratios) for f in (min, statistics.median, max))
        return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"

    bf16 = "native bf16" if results["native_bf16"] else "float32"
    rounds = len(results["training"])
    return (
        f"Our training is {ratio('training')} times as fast, the data path alone {ratio('data')} "
        f"times. PyTorch's threads spin while they wait; the lessons let them sleep soon. Beside "
        f"another busy process a ResNet-20 then trains {ratio('threads_busy')} times as fast, "
        f"alone at {ratio('threads_idle', 2)} of the speed. Median and range of {rounds} pairs, on "
        f"{results['device']}, {bf16}, torch {results['torch']}."
    )


def finetune(recorded: Path) -> str:
    """What tests/finetune.py measured, as recorded."""
    results = json.loads((recorded / "finetune.json").read_text(encoding="utf-8"))
    tuned, short, long = (results[key] for key in START)

    def against(others: list[float]) -> str:
        better = sum(ours > theirs for ours, theirs in zip(tuned, others, strict=True))
        return f"{accuracy(others)} % (fine-tuning is better for {better} of {len(others)} seeds)"

    return (
        f"Measured: a {results['model']} that was trained on Shapes-10 reaches {accuracy(tuned)} % "
        f"on six other shapes when it is fine-tuned on a hundred images of 32 pixels; from scratch "
        f"{against(short)}, and in five times as many epochs {against(long)}. "
        "The lower rate, 0.3 of the classifier's, was chosen with test images of two sets in view. "
        f"On {results['device']}, `python -m tests.finetune`."
    )


def lesson_results(recorded: Path) -> list[dict]:
    """results.json of every lesson, in order."""
    files = sorted(recorded.glob("0*/results.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in files]


def lessons(recorded: Path) -> str:
    """The lessons, what each is about (from its docstring), and the seconds of its record."""
    rows = []
    for results in lesson_results(recorded):
        name = f"{results['lesson']}.py"
        title = importlib.import_module(results["lesson"]).__doc__.splitlines()[0]
        about = title.split(": ", 1)[1].rstrip(".")
        rows.append([f"[{name}]({name})", about, f"{results['seconds']:.0f}"])
    return markdown(["lesson", "about", "seconds"], rows, "2")


def mistakes(shown: list[Mistake] | None = None) -> str:
    """Mistakes, by default those of a ResNet: what they do, and what catches them."""
    rows = []
    for mistake in shown or [m for m in MISTAKES if m.exhibit in (RESNET18, CIFAR_RESNET18)]:
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
    parts = [PAGE, mistakes(MISTAKES), "## Found in", "\n".join(found), "## Checks"]
    return "\n\n".join([*parts, "\n".join(asked)]) + "\n"
