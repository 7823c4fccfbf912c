"""What lesson 6's checkpoints hold: a table of names, types and ranges, and weights that are
numbers. A file may come from anywhere, so that it is checked before anything is built from it."""

from common import UserError

import torch

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def whole(least: int, most: int = 10**9):
    """A rule: whole numbers in this range."""
    return lambda value: type(value) is int and least <= value <= most


def number(least: float = 0.0, most: float = 1e300):
    """A rule: numbers in this range, NaN not among them."""
    return lambda value: type(value) in (int, float) and least <= value <= most


def each(rule, least: int = 0, most: int = 10**9):
    """A rule: lists of so many values, each of which follows another rule."""
    return lambda values: (
        isinstance(values, list | tuple) and least <= len(values) <= most and all(map(rule, values))
    )


def text(value) -> bool:
    """A rule: words, or a path."""
    return isinstance(value, str) and "\0" not in value


def optional(value) -> bool:
    """A rule: words, or nothing."""
    return value is None or text(value)


def switch(value) -> bool:
    """A rule: yes or no."""
    return type(value) is bool


def stored(value) -> bool:
    """A rule: tensors of which every value is stored: one of stride 0 can claim any size."""
    plain = torch.is_tensor(value) and value.layout == torch.strided and not value.is_meta
    return plain and value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def scalar(value) -> bool:
    """A rule: tensors of one finite real number."""
    return stored(value) and value.ndim == 0 and not value.is_complex() and bool(value.isfinite())


def tensors(value) -> bool:
    """A rule: tensors by their names."""
    return isinstance(value, dict) and all(
        isinstance(key, str) and torch.is_tensor(value[key]) for key in value
    )


def momenta(value) -> bool:
    """A rule: the state of our optimisers, a momentum for each number of a parameter."""
    return isinstance(value, dict) and all(
        isinstance(state, dict) and stored(state.get("momentum_buffer")) for state in value.values()
    )


def row(value) -> bool:
    """A rule: the numbers of an epoch."""
    return isinstance(value, dict) and ROW.keys() <= value.keys() and not misfit(value, ROW)


share = number(0, 1)
ROW = {"epoch": whole(1), "pixels": whole(1), "lr": number(), "train_loss": number()}
ROW |= {"train_accuracy": share, "val_loss": number(), "val_accuracy": share}
ROW |= {"images_per_s": number(), "seconds": number()}
SETTINGS = {  # as the flags of lesson 6 allow them
    "model": text,
    "weights": optional,
    "epochs": whole(1),
    "image_size": whole(1, 10_000),
    "quick": switch,
    "batch_size": whole(1),
    "lr": number(0, 1e30),
    "weight_decay": number(0, 1e30),
    "sizes": each(whole(1, 10_000)),
    "cutout": whole(0),
    "smoothing": share,
    "ema": share,
    "muon": number(0, 1e30),
    "accumulate": whole(1),
    "balance": switch,
    "frozen": whole(0),
    "seed": whole(0, 9 * 10**14),  # 10,007 times as much is a seed of PyTorch's
}
SOURCES = {
    "data": lambda value: value in ("auto", "cifar10", "cifar100", "shapes"),
    "data_dir": optional,
    "data_url": optional,
    "skip_unreadable": switch,
    "save_every": whole(0),
    "compile": switch,
}
SUMS = {"loss": scalar, "correct": scalar, "seen": whole(0, 10**15)}
SUMS |= {"peak": number(), "seconds": number()}
TRAINING = {
    "optimizer": {"state": momenta},
    "schedule": {"last_epoch": whole(0, 10**15)},
    "random": lambda value: stored(value) and value.dtype == torch.uint8 and value.ndim == 1,
    "random_cuda": each(stored),
    "step": whole(0),
    "average": lambda value: value is None or tensors(value),
    "sums": SUMS,
    "rows": each(row),
    "seconds": number(),
}
CHECKPOINT = {
    "model": tensors,
    "model_name": text,
    "classes": each(text, 2),
    "epoch": whole(0),
    "val_accuracy": share,
    "settings": SETTINGS,
    "sources": SOURCES,
    "image_size": whole(1, 10_000),
    "image_counts": each(whole(0)),
    "mean": each(number(-1e6, 1e6), 3, 3),
    "std": each(number(1e-6, 1e6), 3, 3),
    "images": text,
    "training": TRAINING,
}


def misfit(entries: dict, rules: dict) -> str:
    """The name of the first entry that does not follow its rule; "" if all do. None need be there:
    what an older kind of checkpoint lacks is missed where it is used."""
    for name in rules.keys() & entries.keys():
        rule, value = rules[name], entries[name]
        if not isinstance(rule, dict):
            inner = "" if rule(value) else name
        elif not isinstance(value, dict):
            inner = name
        else:
            inner = misfit(value, rule) and f"{name}.{misfit(value, rule)}"
        if inner:
            return inner
    return ""


def check(entries: dict, where: str) -> None:
    """Raises: UserError, naming the first entry of a checkpoint that does not follow the table, or
    the first weight that is no finite number."""
    if wrong := misfit(entries, CHECKPOINT):
        raise UserError(f"{where}: its entry {wrong} is of a wrong type, size or range")
    training = entries.get("training", {})
    check_numbers(entries["model"], where)
    check_numbers(training.get("average") or {}, f"{where}: in the average")
    for index, state in training.get("optimizer", {}).get("state", {}).items():
        check_numbers({f"momentum {index}": state["momentum_buffer"]}, where)


def check_numbers(state: dict[str, torch.Tensor], where: str) -> None:
    """Raises: UserError, naming the first weight that is no finite number."""
    for key, value in state.items():
        if fault := _fault(key, value):
            raise UserError(f"{where}: {key} {fault}")


def _fault(key: str, value: torch.Tensor) -> str:
    """What makes a tensor useless as a weight, in words; "" if nothing does."""
    if not stored(value):
        return "is not stored value by value"
    if key.endswith("num_batches_tracked"):
        return "" if value.dtype == torch.int64 else f"is of {value.dtype}, not of int64"
    if value.dtype not in FLOATS:
        return f"is of {value.dtype}, not of float32 or its like"
    if not value.isfinite().all():
        return "is not finite, as after a training that diverged"
    negative = key.endswith("running_var") and value.numel() and value.min() < 0
    return "is negative" if negative else ""
