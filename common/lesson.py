"""What every lesson shares: its flags, its device, its printed report and its results.json."""

import argparse
import ast
import difflib
import importlib.metadata
import inspect
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from tqdm import tqdm

from common import UserError, files, parallel, signals

OUTPUTS = Path("outputs")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str):
        """Print the message and exit with status 2."""
        self.exit(2, f"{self.prog}: {message} (--help explains the options)\n")


def parser(doc: str) -> Parser:
    """The flags that all lessons have; the lesson's docstring becomes its --help."""
    layout = argparse.RawDescriptionHelpFormatter
    flags = Parser(description=doc, formatter_class=layout, allow_abbrev=False)
    add = flags.add_argument
    small = "the smallest run that touches every step; flags that make it larger give way"
    add("--quick", action="store_true", help=small)
    add("--seed", type=natural, default=0, help="of all random numbers (default: %(default)s)")
    devices = ["auto", "cpu", "cuda", "mps"]
    add("--device", choices=devices, default="auto", help="(default: %(default)s, the fastest)")
    sources = "cifar10 downloads what is missing; shapes is built in; auto takes what is there, "
    sources += "and in lesson 6 tries to download"
    choices = ["auto", "cifar10", "shapes"]
    add("--data", choices=choices, default="auto", help=f"{sources} (default: %(default)s)")
    layouts = "CIFAR-10 as torchvision stores it, or train/CLASS/* and test/CLASS/* of any images"
    add("--data-dir", type=Path, metavar="DIR", help=layouts)
    add("--data-url", metavar="URL", help="a mirror of cifar-10-python.tar.gz; it is verified")
    where = "figures, report.txt and results.json go to a folder in it (default: %(default)s)"
    add("--out-dir", type=Path, metavar="DIR", default=OUTPUTS, help=where)
    add("--show", action="store_true", help="open the figures in windows at the end")
    return flags


def training_flags(flags: Parser, lr: float, image_size: int, images: int) -> None:
    """The flags of the lessons that train many networks, with small defaults."""
    add, whole = flags.add_argument, positive
    epochs = "passes over the training images (default: %(default)s)"
    add("--epochs", type=whole, default=3, help=epochs)
    repetitions = "repetitions, 2 or more (default: %(default)s)"
    add("--seeds", type=several, default=3, help=repetitions)
    add("--width", type=whole, default=8, help="channels, first stage (default: %(default)s)")
    add("--image-size", type=whole, default=image_size, help="pixels (default: %(default)s)")
    add("--images", type=whole, default=images, help="train and val (default: %(default)s)")
    add("--batch-size", type=whole, default=48, help="images (default: %(default)s)")
    add("--lr", type=rate, default=lr, help="peak learning rate (default: %(default)s)")


def at_least(least: int):
    """A type for argparse: whole numbers from `least` on."""

    def whole(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {least} or more")
        return int(text)

    return whole


natural, positive, several = at_least(0), at_least(1), at_least(2)


def rate(text: str) -> float:
    """A positive number, for argparse."""
    value = decay(text)
    if not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def decay(text: str) -> float:
    """A number from 0 on, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of 0 or more")
    return value


def share(text: str) -> float:
    """A number from 0 to below 1, for argparse."""
    if (value := decay(text)) >= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number below 1")
    return value


def device(name: str) -> str:
    """The device to use: the fastest one present for "auto".

    Raises: UserError if the named device is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    there["cpu"] = True
    if name == "auto":
        return next(kind for kind in ("cuda", "mps", "cpu") if there[kind])
    if not there[name]:
        raise UserError(f"--device {name}: this PyTorch sees no such device; try --device cpu")
    return name


def summary(values: list[float], digits: int = 3) -> str:
    """Mean, sample standard deviation and n of repeated measurements."""
    mean, deviation = statistics.fmean(values), spread(values)
    return f"{mean:.{digits}f} +- {deviation:.{digits}f} (n = {len(values)})"


def spread(values: list[float]) -> float:
    """Sample standard deviation; NaN for a single value."""
    return torch.tensor(values, dtype=torch.float64).std().item() if len(values) > 1 else math.nan


def verdict(margin: float, noise: float) -> str:
    """Judge a claim by how far the measurement is on its side (margin), given its spread."""
    if margin > noise:
        return "holds"
    return "does not hold" if margin < -noise else "not reproduced in this run"


def percent(shares: list[float]) -> str:
    """The summary of shares, in percent."""
    return summary([100 * share for share in shares], 1)


def in_words(verdict: str) -> str:
    """The verdict on "this one is better", for a table."""
    words = {"holds": "better", "does not hold": "worse"}
    return words.get(verdict, "no difference beyond the spread")


def greater(larger: list[float], smaller: list[float]) -> str:
    """Judge the claim that one sample's mean exceeds another's by more than either's spread."""
    margin = statistics.fmean(larger) - statistics.fmean(smaller)
    return verdict(margin, max(spread(larger), spread(smaller)))


def not_greater(one: list[float], other: list[float]) -> str:
    """Judge the claim that one sample's mean does not exceed another's by more than the spread."""
    margin = statistics.fmean(one) - statistics.fmean(other)
    return verdict(max(spread(one), spread(other)) - margin, 0.0)


def source_difference(old: type, new: type) -> list[str]:
    """Where two classes are defined, then the lines of code that only one has (-old, +new)."""
    places, root = [], Path(__file__).resolve().parent.parent
    for cls in (old, new):
        path = Path(inspect.getsourcefile(cls)).resolve().relative_to(root).as_posix()
        places.append(f"{cls.__name__}: {path}, line {inspect.getsourcelines(cls)[1]}")
    lines = difflib.unified_diff(_code(old), _code(new), n=0)
    return places + [line for line in lines if not line.startswith(("---", "+++", "@@"))]


def _code(cls: type) -> list[str]:
    """The source of a class without docstrings and blank lines, each signature on one line."""
    lines = inspect.getsource(cls).splitlines()
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.FunctionDef):
            first, last = node.lineno - 1, node.body[0].lineno - 1
            indent = lines[first][: node.col_offset]
            signature = " ".join(line.strip() for line in lines[first:last])
            signature = signature.replace("( ", "(").replace(", )", ")")
            lines[first:last] = [indent + signature] + [""] * (last - first - 1)
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            first, last = node.body[0].lineno, node.body[0].end_lineno
            lines[first - 1 : last] = [""] * (last - first + 1)
    return [line for line in lines if line.strip()]


class Report:
    """Prints what a lesson finds and writes the same to report.txt and results.json; of several
    processes the first one does.

    Raises: UserError if the output folder cannot be written.
    """

    def __init__(self, script: str, args: argparse.Namespace, data_name: str, why: str = ""):
        self.args, self.start = args, time.perf_counter()
        self.lines, self.findings, self.failed = [], [], []
        self.writes = parallel.rank() == 0
        self.folder = args.out_dir / Path(script).stem
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as error:
            raise UserError(f"--out-dir {args.out_dir} cannot be written ({error})") from error
        versions = {name: importlib.metadata.version(name) for name in ("torch", "torchvision")}
        versions["python"] = platform.python_version()
        settings = {"seed": args.seed, "device": device(args.device), "data": data_name}
        self.results = {"lesson": self.folder.name, "versions": versions, **settings}
        self.results["settings"] = {key: str(value) for key, value in vars(args).items()}
        both = {**versions, **settings}
        self.say(f"{self.folder.name}: " + ", ".join(f"{k} {v}" for k, v in both.items()))
        if args.quick:
            self.say("--quick: this run touches every step; its numbers and verdicts prove nothing")
        if why:
            self.say(f"data: {data_name}, because {why}")

    def say(self, text: str = "") -> None:
        """Print a line."""
        self.lines.append(text)
        if self.writes:
            tqdm.write(text, file=sys.stdout)

    def section(self, title: str) -> None:
        """Print a heading."""
        self._gap()
        self.say(f"{title}\n{'-' * len(title)}")

    def _gap(self) -> None:
        """A blank line, unless there is one, or a heading."""
        if self.lines[-1] and not self.lines[-1].endswith("---"):
            self.say()

    def table(self, header: list[str], rows: list[list]) -> None:
        """Print rows under their header, numbers to the right; units belong in the header."""
        cells = [header] + [[str(cell) for cell in row] for row in rows]
        columns = list(zip(*cells, strict=True))
        widths = [max(map(len, column)) for column in columns]
        numeric = [all(map(_is_number, col[1:])) for col in columns]
        for row in cells:
            aligned = zip(row, widths, numeric, strict=True)
            self.say("  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in aligned).rstrip())

    def check(self, what: str, passed: bool) -> None:
        """Print a self-check; one that fails makes the script's exit status 1."""
        self.say(f"check: {what}: {'passed' if passed else 'FAILED'}")
        if not passed:
            self.failed.append(what)

    def finding(self, claim: str, predicted: str, measured: str, judged: str) -> None:
        """Print a claim beside its source's prediction, what this run measured, and the verdict."""
        entry = {"claim": claim, "predicted": predicted, "measured": measured, "verdict": judged}
        self.findings.append(entry)
        self._gap()
        for key, value in entry.items():
            self.say(f"  {key:<9}  {value}")
        self.say()

    def figure(self, figure, name: str) -> None:
        """Write a matplotlib figure as PNG, whole or not at all."""
        path = self.folder / f"{name}.png"
        if self.writes:
            with files.whole(path) as scratch:
                figure.savefig(scratch, format="png")
        self.say(f"figure: {path}")

    def save(self, measured: dict) -> dict:
        """Write report.txt and results.json; returns what results.json holds."""
        seconds = time.perf_counter() - self.start
        self.results |= {"seconds": round(seconds, 1), "findings": self.findings}
        self.results |= {"failed_checks": self.failed, "measured": measured}
        self.results = _plain(self.results)
        path = self.folder / "results.json"
        self.say(f"{seconds:.0f} s; the numbers are in {path}")
        if not self.writes:
            return self.results
        text = json.dumps(self.results, indent=1, allow_nan=False)
        for name, content in (("results.json", text), ("report.txt", "\n".join(self.lines))):
            with files.whole(self.folder / name) as scratch:
                scratch.write_text(f"{content}\n", "utf-8", "surrogateescape")
        if self.args.show:
            from matplotlib import pyplot

            pyplot.show()
        return self.results


def _is_number(cell: str) -> bool:
    """Whether a table sets the cell to the right; an empty one does not matter."""
    return not cell or cell.startswith("nan") or cell.lstrip("+-")[:1].isdigit()


def _plain(value):
    """The value in JSON's types; what is not a finite number becomes null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, torch.Tensor):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def run(main) -> None:
    """Run a lesson as a script: mistakes of the reader are one line and status 2."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace", line_buffering=True)
    script = Path(sys.argv[0]).name
    try:
        results = main()
    except UserError as error:
        print(f"{script}: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except signals.Stopped as stop:
        print(f"{script}: {stop}", file=sys.stderr)
        raise SystemExit(stop.status) from None
    except KeyboardInterrupt:
        print(f"{script}: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of our output, `head` say, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    raise SystemExit(1 if results["failed_checks"] else 0)
