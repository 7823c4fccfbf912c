"""One training loop for all lessons, alone or side by side, and its checkpoints."""

from . import checkpoints, parallel, signals, step
from .checkpoints import atomic_write
from .side_by_side import Run, by_name, one_thread, side_by_side, train_all
from .step import autocast, native_bf16, sgd, warmup_cosine
from .trainer import Diverged, Trainer, evaluate, predict, progress, steps_per_epoch, train_step

__all__ = ["Diverged", "Run", "Trainer", "atomic_write", "autocast", "by_name", "checkpoints"]
__all__ += ["evaluate", "native_bf16", "one_thread", "parallel", "predict", "progress", "sgd"]
__all__ += ["side_by_side", "signals", "step", "steps_per_epoch", "train_all", "train_step"]
__all__ += ["warmup_cosine"]
