"""The front desk of every lesson: its flags, its printed report, its results.json."""

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import re
import sys
import tempfile
import textwrap
import time
from pathlib import Path

from common import UserError, data, lock, training, unlock
from common.analysis import verdict

import torch
from matplotlib import pyplot
from tqdm import tqdm

OUTPUTS = Path("outputs")
SEEDS = 2**31  # a seed is counted modulo this, so that no library's range is left
SCRATCH = re.compile(r"\..+\.(pt|png|json|txt)-\d+")  # what training.atomic_write writes first

VERDICTS = """\
[holds]: it is true of all seeds, five or more. [does not hold]: the opposite is. [unclear]: they
differ, or are too few. Two networks are compared seed by seed: a seed stands for all that is random
in a run. n: seeds. ±: standard deviation over seeds, not a range. Exact: counted, without chance.
"""


def at_least(least: int):
    """A type for argparse: whole numbers from `least` on."""

    def whole(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) < least:
            rule = f"a whole number from {least} to 999,999,999"
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not {rule}")
        return int(text)

    return whole


def seed(text: str) -> int:
    """A type for argparse: any whole number, of which the remainder by SEEDS counts."""
    if not re.fullmatch(r"[+-]?[0-9]{1,4000}", text):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number")
    return int(text) % SEEDS


natural, positive, several = at_least(0), at_least(1), at_least(2)


def rate(text: str) -> float:
    """A positive number, for argparse."""
    value = decay(text)
    if not value:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number above 0")
    return value


def decay(text: str) -> float:
    """A number from 0 to a million, for argparse: far more than any rate or decay that trains, and
    so little that nothing overflows before the loss does."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1e6:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number from 0 to 1,000,000")
    return value


def share(text: str) -> float:
    """A number from 0 to below 1, for argparse."""
    if (value := decay(text)) >= 1:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number below 1")
    return value


MEANINGS = {  # of settings that several lessons have: type, help
    "batch_size": (positive, "images"),
    "depths": (positive, "of the networks, 6n + 2"),
    "epochs": (positive, "passes over the training images"),
    "image_size": (positive, "pixels"),
    "images": (positive, "training and validation images together"),
    "lr": (rate, "peak learning rate"),
    "seeds": (several, "repetitions, 2 or more"),
    "width": (positive, "channels of the first stage"),
}


def no_name(path: Path) -> str:
    """Why no file can have this name; "" if one can, whether it is there or not."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return ""
    except (OSError, ValueError) as error:  # too long, or with a NUL character
        return getattr(error, "strerror", None) or str(error)
    return ""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and whose --quick replaces settings; without a
    list of flags there are none, for `sys.argv` may be a notebook's."""

    quick: dict

    def parse_args(self, args=None, namespace=None):
        """The arguments; with --quick, those of the smallest run."""
        found = super().parse_args(args or [], namespace)
        vars(found).update(self.quick if getattr(found, "quick", False) else {})
        for value in vars(found).values():
            for path in value if isinstance(value, list) else [value]:
                if isinstance(path, Path) and (fault := no_name(path)):
                    self.error(f"{str(path)[:40]!r} is no name of a file ({fault})")
        needed = least_memory(vars(found))
        try:
            data.require_memory(needed, "such a network needs at least", "a smaller one")
        except UserError as error:
            self.error(str(error))
        return found

    def error(self, message: str):
        """Print the message and exit with status 2."""
        self.exit(2, f"{self.prog}: {message} (--help explains the options)\n")


def least_memory(flags: dict) -> float:
    """Bytes that networks of such flags take at the very least: one convolution of the last stage,
    of 4 * width channels, with its gradient and momentum; the maps that the first third of the
    layers keep of a batch; and what Python itself needs for every layer."""
    value = {name: flags.get(name) or 0 for name in ("width", "image_size", "images", "batch_size")}
    depths = [*(flags.get("depths") or []), flags.get("depth") or 8]
    maps = 4 * value["width"] * value["image_size"] ** 2 * min(value["batch_size"], value["images"])
    layers = max([*depths, *(flags.get(name) or 0 for name in ("layers", "blocks"))])
    return 3 * 4 * 9 * (4 * value["width"]) ** 2 + max(depths) / 3 * maps + 20_000 * layers


def parser(doc: str, settings: dict | None = None) -> Parser:
    """The flags that all lessons have, and one for each of a lesson's settings.

    The lesson's docstring becomes its --help. `settings` holds {name: (value, value with --quick)},
    where None leaves it as it is, and behind these type and meaning, unless MEANINGS has them.
    """
    layout = argparse.RawDescriptionHelpFormatter
    flags = Parser(description=doc, formatter_class=layout, allow_abbrev=False)
    quick = {name: setting[1] for name, setting in (settings or {}).items()}
    flags.quick = {name: value for name, value in quick.items() if value is not None}
    add = flags.add_argument
    small = "the smallest run that touches every step; flags that make it larger give way"
    add("--quick", action="store_true", help=small)
    any_number = "of all random numbers, any whole number modulo 2^31 (default: %(default)s)"
    add("--seed", type=seed, default=0, metavar="N", help=any_number)
    devices = ["auto", "cpu", "cuda", "mps"]
    add("--device", choices=devices, default="auto", help="(default: %(default)s, the fastest)")
    sources = "cifar10 and cifar100 download what is missing; shapes is built in; auto takes what "
    sources += "is there, and in lesson 6 tries to download"
    choices = ["auto", "cifar10", "cifar100", "shapes"]
    add("--data", choices=choices, default="auto", help=f"{sources} (default: %(default)s)")
    layouts = "CIFAR as torchvision stores it, train/CLASS/* and test/CLASS/* of any images (and "
    layouts += "val/CLASS/*), or CLASS/* alone, which is split"
    add("--data-dir", type=Path, metavar="DIR", help=layouts)
    add("--data-url", metavar="URL", help="a mirror of CIFAR's python.tar.gz; it is verified")
    where = "figures, report.txt and results.json go to a folder in it (default: %(default)s)"
    add("--out-dir", type=Path, metavar="DIR", default=OUTPUTS, help=where)
    add("--show", action="store_true", help="open the figures in windows at the end")
    for name, (default, _quick, *own) in (settings or {}).items():
        kind, meaning = own or MEANINGS[name]
        several_values = {"nargs": "+", "metavar": "N"} if isinstance(default, list) else {}
        text = meaning if default is None else f"{meaning} (default: {shown(default)})"
        flag = f"--{name.replace('_', '-')}"
        add(flag, type=kind, default=default, help=text, **several_values)
    return flags


def shown(default) -> str:
    """A default as one would type it."""
    return " ".join(map(str, default)) or "none" if isinstance(default, list) else str(default)


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


def filled(text: str, width: int = 96) -> str:
    """The text in lines; a number stays with its unit, its deviation and its name."""
    kept = re.sub(r" (?=[±%=])|(?<=[±=]) ", "\N{NO-BREAK SPACE}", text)
    return textwrap.fill(kept, width, break_on_hyphens=False).replace("\N{NO-BREAK SPACE}", " ")


class Report:
    """Prints what a lesson finds and writes the same to report.txt and results.json; of several
    processes the first one does.

    Raises: UserError if the output folder cannot be written.
    """

    def __init__(self, script: str, args: argparse.Namespace, data_name: str, why="", precision=""):
        self.args, self.start = args, time.perf_counter()
        self.lines, self.findings, self.failed = [], [], []
        self.writes = training.parallel.rank() == 0
        self.folder = args.out_dir / Path(script).stem
        if training.parallel.apart():
            raise UserError("torchrun is for lesson 6; start this one with python")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
            if self.writes and lock(self.folder):
                for path in self.folder.iterdir():  # by runs that were killed: none but ours lives
                    if SCRATCH.fullmatch(path.name):
                        path.unlink()
        except (OSError, ValueError) as error:  # the latter of a name that no file can have
            raise UserError(f"--out-dir {args.out_dir} cannot be written ({error})") from error
        except UserError as error:
            raise UserError(f"--out-dir {args.out_dir}: {error}; name another folder") from error
        versions = {name: importlib.metadata.version(name) for name in ("torch", "torchvision")}
        versions["python"] = platform.python_version()
        self.device, self.data = device(args.device), data_name
        settings = {"seed": args.seed, "device": self.device, "data": data_name}
        fast = training.native_bf16(self.device)  # what networks train in, see training.autocast
        settings["precision"] = precision or ("bfloat16" if fast else "float32")
        settings["threads"] = torch.get_num_threads()
        self.results = {"lesson": self.folder.name, "versions": versions, **settings}
        self.results["settings"] = {key: str(value) for key, value in vars(args).items()}
        both = {**versions, **settings}
        self.say(f"{self.folder.name}: " + ", ".join(f"{k} {v}" for k, v in both.items()))
        if args.quick:
            self.say("--quick: this run touches every step; its numbers and verdicts prove nothing")
        for line in why.splitlines():
            self.say(f"data: {line}")

    def say(self, text: str = "") -> None:
        """Print a line."""
        self.lines.append(text)
        if self.writes:
            tqdm.write(coloured(for_terminal(text)), file=sys.stdout)

    def explain(self, text: str) -> None:
        """Print a paragraph, in lines that fit a terminal."""
        self.say(filled(text))

    def section(self, title: str) -> None:
        """Print a heading."""
        self._gap()
        self.say(f"{title}\n{'-' * len(title)}")

    def _gap(self) -> None:
        """A blank line, unless there is one, or a heading."""
        if self.lines[-1] and not self.lines[-1].endswith("---"):
            self.say()

    def table(self, rows: list[dict]) -> None:
        """Print rows {header: value}, numbers to the right; units belong in the header."""
        header = list(rows[0])
        cells = [header] + [[str(row.get(key, "")) for key in header] for row in rows]
        columns = list(zip(*cells, strict=True))
        widths = [max(map(len, column)) for column in columns]
        numeric = [all(map(_is_number, column[1:])) for column in columns]
        for row in cells:
            aligned = zip(row, widths, numeric, strict=True)
            self.say("  ".join(c.rjust(w) if n else c.ljust(w) for c, w, n in aligned).rstrip())

    def check(self, what: str, passed: bool) -> None:
        """Print a self-check; one that fails makes the script's exit status 1."""
        self.say(f"check: {what}: {'passed' if passed else 'FAILED'}")
        if not passed:
            self.failed.append(what)

    def claim(
        self, sentence: str, left, relation, right, source, measured="{} against {}", margin=0.0
    ) -> None:
        """Print a claim beside its source, what this run measured, and the verdict.

        The claim is that `left` is `relation` (>, <, <=) `right`; each is Seeds, one number for
        each trained network, or an exact number. `measured` is a format for both, such as
        "{:.1%} against {:.1%}". A claim of "<=" names the `margin` that it allows in its sentence.
        """
        seeds = [side for side in (left, right) if isinstance(side, list)]
        entry = {
            "claim": sentence,
            "source": str(source),
            "measured": measured.format(left, right),
            "n": len(seeds[0]) if seeds else "exact",
            "verdict": verdict(left, relation, right, margin),
        }
        self._gap()
        if not self.findings:
            self.say(VERDICTS)
        self.findings.append(entry)
        counted = f", n = {entry['n']}" if seeds else " (exact)"
        self.say(f"[{entry['verdict']}] {sentence}")
        for line in (f"measured: {entry['measured']}{counted}", f"source: {source}"):
            self.say(textwrap.indent(filled(line, 94), "    "))
        self.say()

    def ask(self, question: str) -> None:
        """Print what the reader may predict before the numbers come; `answer` returns to it."""
        self.say("\n" + filled(f"Predict first: {question}"))

    def answer(self, text: str, experiment: str) -> None:
        """Print what was measured of the question of `ask`, and one experiment to go on with."""
        self.section("What did you predict?")
        self.explain(text)
        self.explain(f"Try next: {experiment}")

    def figure(self, figure, name: str) -> None:
        """Write a matplotlib figure as PNG, whole or not at all; a notebook shows it."""
        path = self.folder / f"{name}.png"
        if self.writes:
            with training.atomic_write(path) as scratch:
                figure.savefig(scratch, format="png")
            if not self.args.show:
                display(path)
        self.say(f"figure: {path}")

    def save(self, measured: dict) -> dict:
        """Write report.txt and results.json; returns what results.json holds."""
        seconds = time.perf_counter() - self.start
        self.results |= {"seconds": round(seconds, 1), "findings": self.findings}
        self.results |= {"failed_checks": self.failed, "measured": measured}
        self.results = plain(self.results)
        path = self.folder / "results.json"
        self.say(f"{seconds:.0f} s; the numbers are in {path}")
        if not self.writes:
            return self.results
        text = json.dumps(self.results, indent=1, allow_nan=False)
        for name, content in (("results.json", text), ("report.txt", "\n".join(self.lines))):
            with training.atomic_write(self.folder / name) as scratch:
                scratch.write_text(f"{content}\n", "utf-8", "surrogateescape")
        unlock(self.folder)
        if self.args.show:
            pyplot.show()
        return self.results


def display(picture: Path) -> None:
    """Show a picture below the cell of a notebook; elsewhere do nothing."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if hasattr(shell, "kernel"):  # IPython in a terminal has none
        ipython.display.display(ipython.display.Image(filename=picture, width=900))


def for_terminal(text: str) -> str:
    """The text, with +- for the sign that an ASCII terminal does not have."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "ascii", "surrogateescape")
    except UnicodeEncodeError:
        return text.replace("±", "+-")
    return text


def coloured(text: str) -> str:
    """The text, with a verdict in green, yellow or red where a terminal shows colours."""
    terminal = getattr(sys.stdout, "isatty", bool)()  # the streams of hosts need not have it
    if not terminal or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb":
        return text
    for colour, judged in ((32, "holds"), (33, "unclear.*"), (31, "does not hold")):
        text = re.sub(rf"^\[(?:{judged})\]", rf"\033[{colour}m\g<0>\033[0m", text)
    return text


def _is_number(cell: str) -> bool:
    """Whether a table sets the cell to the right; an empty one does not matter."""
    return not cell or cell.startswith("nan") or cell.lstrip("+-")[:1].isdigit()


def plain(value):
    """The value in JSON's types; what is not a finite number becomes null."""
    if dataclasses.is_dataclass(value):
        return plain(vars(value))
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, torch.Tensor):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def run(main) -> None:
    """Run a lesson as a script: mistakes of the reader, a lack of memory and signals are one line,
    with the status 2 or, of a signal, 128 and its number."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # that of a notebook or of IDLE has none, and needs none
            stream.reconfigure(errors="replace", line_buffering=True)
    why = ""
    with training.signals.raised():
        try:
            status = 1 if main(sys.argv[1:])["failed_checks"] else 0
        except UserError as error:
            status, why = 2, str(error)
        except (training.signals.Stopped, KeyboardInterrupt) as stop:
            status, why = getattr(stop, "status", 130), str(stop) or "interrupted"
        except (MemoryError, RuntimeError) as error:
            if not (why := lack_of_memory(error)):
                raise
            status = 2
        except OSError as error:  # `head` has seen enough, the log's disk is full, no terminal
            if error.errno is None or error.filename is not None:  # another one's fault
                if not isinstance(error, PermissionError):
                    raise
                status, why = 2, f"{error.filename} cannot be opened: {error.strerror}"
            else:
                status, why = 141, "" if isinstance(error, BrokenPipeError) else f"output: {error}"
                with contextlib.suppress(OSError, AttributeError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if why:  # which a second Ctrl-C does not cut short
            with training.signals.handled(lambda number, frame: None), contextlib.suppress(OSError):
                print(f"{Path(sys.argv[0]).name}: {' '.join(why.split())}", file=sys.stderr)
    raise SystemExit(status)


def lack_of_memory(error: Exception) -> str:
    """What a lesson says of memory that PyTorch or NumPy did not get; "" of other errors."""
    size = re.search(r"allocate ([\d.]+ [KMGT]?i?B|\d+ bytes)", str(error))
    overflow = r"Storage size calculation overflowed|numel: integer multiplication overflow"
    overflow += "|CUDA error: out of memory"  # another program has taken it
    if not (size or isinstance(error, MemoryError) or re.search(overflow, str(error))):
        return ""
    amount = size[1] if size else "this" if "CUDA" in str(error) else "more than there can be"
    if amount.endswith("bytes"):
        amount = f"{int(amount.split()[0]) / 1e9:.1f} GB"
    return f"too little memory for {amount}: take a smaller network, image or batch"
