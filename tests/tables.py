"""The tables of README.md that are made from recorded results and from the code itself."""

import importlib
import json
from pathlib import Path

import torch
import torchvision

from common import analysis, lesson
from common.checkpoints import build_model

# network, its blocks, image size
MODELS = [
    ("cifar_resnet-20", "BasicBlock", 32),
    ("cifar_resnet-56", "BasicBlock", 32),
    ("cifar_preact_resnet-164", "PreActBottleneck", 32),
    ("cifar_wide_resnet-28-10", "WideBlock", 32),
    ("cifar_resnext-29-8-64", "ResNeXtBlock", 32),
    ("cifar_densenet-100-12", "DenseLayer, Transition", 32),
    ("cifar_se_resnet-110", "SEBasicBlock", 32),
    ("resnet18", "BasicBlock", 32),
    ("resnet18", "BasicBlock", 224),
    ("resnet34", "BasicBlock", 224),
    ("resnet50", "Bottleneck", 224),
    ("resnet101", "Bottleneck", 224),
    ("resnet152", "Bottleneck", 224),
    ("resnext50_32x4d", "ResNeXtBlock", 224),
    ("wide_resnet50_2", "Bottleneck", 224),
    ("densenet121", "DenseLayer, Transition", 224),
    ("seresnet50", "SEBottleneck", 224),
]


# lesson 6's flags, a published accuracy and its source
RUNS = [
    ("--model cifar_resnet-14 --epochs 10 --sizes 16 24 32", ""),
    ("--model cifar_wide_resnet-16-2 --epochs 15 --sizes 16 24 32", ""),
    ("--model resnet18 --epochs 14 --lr 0.1 --sizes 16 24 32 --smoothing 0.1", ""),
    ("--model cifar_resnet-20 --epochs 200", "91.25 (He et al. 2015)"),
    ("--model cifar_resnet-56 --epochs 200", "93.03 (He et al. 2015)"),
    ("--model cifar_preact_resnet-164 --epochs 200", "94.54 (He et al. 2016)"),
    ("--model cifar_wide_resnet-28-10 --epochs 200", "96.00 (Zagoruyko & Komodakis 2016)"),
    ("--model cifar_densenet-100-12 --epochs 200", "95.49 (Huang et al. 2017)"),
    ("--model resnet18 --epochs 200 --lr 0.1", ""),
]


def markdown(header: list[str], rows: list[list], right: str = "") -> str:
    """A table in Markdown; the columns in `right`, by their numbers, are set to the right."""
    rule = ["---:" if str(i) in right else "---" for i in range(len(header))]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [header, rule, *rows])


def models() -> str:
    """Blocks, parameters, multiply-adds and layers of the networks by name."""
    rows = []
    for name, blocks, size in MODELS:
        with torch.device("meta"):
            model = build_model(name, 10 if size == 32 else 1000, size)
        macs = analysis.multiply_adds(model, 3, size, size)
        count, layers = f"{analysis.parameter_count(model):,}", analysis.depth(model)
        published = published_accuracy(name) if size == 224 else ""
        rows.append([f"`{name}`", blocks, size, count, f"{macs / 1e9:.2f}", layers, published])
    header = ["`--model`", "blocks", "image", "parameters", "multiply-adds (G)", "layers"]
    return markdown([*header, "ImageNet top-1 (%)"], rows, "23456")


def published_accuracy(name: str) -> str:
    """ImageNet top-1 accuracy (%) of torchvision's first weights, as torchvision states it."""
    if name not in torchvision.models.list_models():
        return ""
    first = next(iter(torchvision.models.get_model_weights(name)))
    return f"{first.meta['_metrics']['ImageNet-1K']['acc@1']:.1f}"


def cifar10(recorded: Path) -> str:
    """What lesson 6 reached on CIFAR-10, by its flags; what was not run says so."""
    files = [p.read_text(encoding="utf-8") for p in sorted(recorded.glob("cifar10/*.json"))]
    runs = [json.loads(text) for text in files]
    assert {run["flags"] for run in runs} <= {flags for flags, _ in RUNS}
    rows = []
    for flags, published in RUNS:
        found = [run for run in runs if run["flags"] == flags]
        assert len({(run["data"], run["device"]) for run in found}) < 2, flags
        ours = ["not measured yet", "", ""]
        if found:
            minutes = [run["seconds"] / 60 for run in found]
            ours = [accuracy([run[key] for run in found]) for key in ("test", "mirror")]
            ours.append(f"{max(minutes):.0f}")
        rows.append([f"`{flags}`", published, *ours])
    header = ["`python 06_practical_example.py --data cifar10 ...`", "paper (%)", "ours (%)"]
    table = markdown([*header, "with mirror (%)", "minutes"], rows, "1234")
    kinds = " and ".join(sorted({f"{run['data']}, {run['device']}" for run in runs}))
    return f"{table}\n\nOurs: {kinds}." if runs else table


def accuracy(shares: list[float]) -> str:
    """Mean, standard deviation and n of accuracies, in percent."""
    if len(shares) == 1:
        return f"{100 * shares[0]:.1f} (n = 1)"
    return lesson.percent(shares).replace("+-", "±")


def claims(recorded: Path) -> str:
    """Every finding of the lessons, as it was recorded."""
    rows, made_on = [], set()
    for results in lesson_results(recorded):
        number = results["lesson"][:2].lstrip("0")
        made_on.add(f"{results['data']}, device {results['device']}")
        for found in results["findings"]:
            measured = found["measured"].replace("+-", "±")
            rows.append([number, found["claim"], found["predicted"], measured, found["verdict"]])
    table = markdown(["lesson", "claim", "source", "measured here", "verdict"], rows)
    return f"{table}\n\nOn {' and '.join(sorted(made_on))}; seconds as in the table of lessons."


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
