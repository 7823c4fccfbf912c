"""Is it the same? Of numbers, of networks, and of the source of two classes."""

import ast
import difflib
import inspect
import math
import textwrap
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F


def relative_difference(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    """Largest |a - b| over a list of tensors, relative to each tensor's largest |b|.

    Infinite if a value is NaN or infinite, which equals nothing.
    Raises: ValueError for lists of unequal length and tensors of unequal shapes.
    """
    differences = []
    for a, b in zip(ours, theirs, strict=True):
        if a.shape != b.shape:  # they might broadcast
            raise ValueError(f"cannot compare {tuple(a.shape)} with {tuple(b.shape)}")
        differences.append(((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item())
    return max(math.inf if math.isnan(d) else d for d in differences)  # max may drop a NaN


def parity(ours: nn.Module, reference: nn.Module, x, y) -> tuple[float, float]:
    """Relative differences of logits (eval mode) and parameter gradients (train mode) after
    copying the reference's weights with strict=True. x is N C H W, y holds class indices. Both are
    left in train mode, with gradients."""
    ours.load_state_dict(reference.state_dict(), strict=True)
    with torch.no_grad():
        logits = relative_difference([ours.eval()(x)], [reference.eval()(x)])
    for model in (ours.train(), reference.train()):
        F.cross_entropy(model(x), y).backward()
    found = dict(ours.named_parameters())
    pairs = [(found[name].grad, p.grad) for name, p in reference.named_parameters()]
    return logits, relative_difference(*zip(*pairs, strict=True))


def source_difference(old: Callable, new: Callable) -> list[str]:
    """Where two classes or functions are defined, then the lines that only one has (-old, +new)."""
    places, root = [], Path(__file__).resolve().parent.parent.parent
    for code in (old, new):
        path = Path(inspect.getsourcefile(code)).resolve().relative_to(root).as_posix()
        places.append(f"{code.__qualname__}: {path}, line {inspect.getsourcelines(code)[1]}")
    lines = difflib.unified_diff(_code(old), _code(new), n=0)
    return places + [line for line in lines if not line.startswith(("---", "+++", "@@"))]


def _code(code: Callable) -> list[str]:
    """The source of a class or function without docstrings and blank lines, each signature on one
    line."""
    lines = textwrap.dedent(inspect.getsource(code)).splitlines()
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
