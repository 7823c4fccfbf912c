"""One training loop for all lessons, which can be put down and taken up at any step."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence

from common import UserError, models

import torch
import torch.nn as nn
import torch.nn.functional as F
from tqdm import tqdm

from . import parallel
from .step import autocast, averaged, channels_last, sgd, warmup_cosine


class Diverged(UserError):
    """The training loss is no longer a number."""


def steps_per_epoch(dataset, batch_size: int) -> int:
    """Number of batches in one pass over the training images."""
    return math.ceil(len(dataset.train.labels) / batch_size)


class Trainer:
    """A training that can be walked step by step, put down at any step and taken up again.

    The option `lr` is the peak of the schedule, `warmup` a share of all steps, `cutout` in pixels,
    `ema` the decay of the average of the weights (0: none), which is then what is validated, `muon`
    the peak rate of convolutions under `step.Muon` (0: SGD, as for the rest). `balance` draws all
    classes equally often. For `smoothing` and `accumulate` (its `parts`) see train_step. `sizes`
    makes the training images that many pixels wide, each size for an equal share of the epochs
    (Howard 2018, fast.ai's entry to DAWNBench for ImageNet); validation and test images stay as
    they are. In the first `frozen` epochs the classifier learns alone, by the schedule
    `step.warmup_cosine`.
    The order and augmentation of epoch e are a function of `seed` and e alone. `rows` has one row
    of plain numbers per epoch: losses are mean cross-entropies (nats), accuracies shares of
    samples, the training one measured on the augmented images as they passed; `lr` is the highest
    rate of the epoch; `images_per_s` counts training only, `seconds` all since the beginning.
    `step` counts in the epoch.
    Raises: UserError if a process would get fewer images of a batch than `accumulate` parts.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset,
        epochs: int,
        *,
        batch_size: int = 128,
        lr: float = 0.1,
        weight_decay: float = 5e-4,
        warmup: float = 0.15,
        cutout: int = 0,
        sizes: Sequence[int] | None = None,
        smoothing: float = 0.0,
        ema: float = 0.0,
        muon: float = 0.0,
        accumulate: int = 1,
        balance: bool = False,
        frozen: int = 0,
        seed: int = 0,
        device: str = "cpu",
    ):
        self.model = channels_last(model, device)
        self.dataset, self.epochs, self.batch_size = dataset, epochs, batch_size
        self.frozen, self.seed, self.device = frozen, seed, device
        self.batches = {"cutout": cutout, "balance": balance, "part": parallel.part()}
        self.sizes = tuple(sizes or ()) or (dataset.train.images.shape[3],)
        self.loss = {"smoothing": smoothing, "parts": accumulate}
        self.average = averaged(model, ema) if ema else None
        self.net = parallel.replicated(self.model)
        self.steps = epochs * steps_per_epoch(dataset, batch_size)
        least = len(dataset.train.labels) * epochs // self.steps // parallel.world()
        if parallel.world() > 1 and least < accumulate:
            raise UserError(f"--batch-size {batch_size}: every process needs {accumulate} images")
        self.optimizer = sgd(model, lr, weight_decay, muon)
        first = min(frozen, epochs) * self.steps // epochs  # of the classifier alone
        self.schedule = warmup_cosine(self.optimizer, self.steps, round(warmup * self.steps), first)
        self.rows, self.seconds, self.mark = [], 0.0, time.perf_counter()
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        """Sums of the running epoch; they stay on the device until its end."""
        zero = torch.zeros((), device=self.device)
        self.sums = {"loss": zero, "correct": zero, "seen": 0, "peak": 0.0, "seconds": 0.0}
        self.step = 0

    def run(self, bar: tqdm | None = None, on_step: Callable | None = None) -> Iterator[dict]:
        """Train to the end, yielding each row; `bar` counts steps.

        `on_step(step, batch)` is called before every update and once after the last; `batch` holds
        loss and accuracy (tensors on the device) of the update before, None at the beginning.
        Raises: Diverged when the loss is not finite.
        """
        on_step = on_step or (lambda step, batch: None)
        self.mark, done = time.perf_counter(), self.schedule.last_epoch
        on_step(done, None)
        mine = "training", self.steps, "step", done
        with contextlib.nullcontext(bar) if bar is not None else progress(*mine) as bar:
            while len(self.rows) < self.epochs:
                self._train_epoch(bar, on_step)
                self.rows.append(self._row())
                self._begin_epoch()
                yield self.rows[-1]

    def _train_epoch(self, bar, on_step) -> None:
        """The batches that are left of an epoch."""
        self.model.train()
        if self.frozen:
            models.freeze_body(self.model, len(self.rows) < self.frozen)
            self.net = parallel.replicated(self.model)  # it notes at its start what learns
        self._tick()
        seed = self.seed * 10_007 + len(self.rows) + 1
        options = {**self.batches, "skip": self.step, "size": self._size()}
        for x, y in self.dataset.batches("train", self.batch_size, seed, **options):
            self.sums["peak"] = max(self.sums["peak"], self.optimizer.param_groups[0]["lr"])
            images = self._images_in_batch()
            share = parallel.world() * len(y) / images  # DDP takes the mean of ranks
            settings = self.loss | {"weight": share}
            loss, logits = train_step(self.net, x, y, self.optimizer, self.device, **settings)
            self.schedule.step()
            self.step += 1
            if self.average:
                self.average.update_parameters(self.model)
            hits = (logits.argmax(1) == y).sum()
            more = {"loss": loss * len(y), "correct": hits, "seen": images, "seconds": self._tick()}
            self.sums |= {key: self.sums[key] + value for key, value in more.items()}
            on_step(self.schedule.last_epoch, (loss, hits / len(y)))
            self._tick()  # what `on_step` does is no training: it may write a checkpoint
            bar.update()
            if self.schedule.last_epoch % 20 == 0:  # now and then: reading makes a GPU wait
                self.check()

    def _size(self) -> int:
        """Pixels of the training images in this epoch."""
        return self.sizes[len(self.rows) * len(self.sizes) // self.epochs]

    def _images_in_batch(self) -> int:
        """Images of the next batch in all processes together (see Dataset.batches)."""
        images, batches = len(self.dataset.train.labels), self.steps // self.epochs
        return images // batches + (self.step < images % batches)

    def _tick(self) -> float:
        """The seconds since the last tick, which are added to the total."""
        now = time.perf_counter()
        passed, self.mark = now - self.mark, now
        self.seconds += passed
        return passed

    def check(self) -> float:
        """The sum of the epoch's losses; raises Diverged if one of them was not a number."""
        return _finite(parallel.total(self.sums["loss"]).item(), self.schedule.last_epoch)

    def _row(self) -> dict:
        """The numbers of the epoch that has just ended."""
        loss, sums = self.check(), self.sums
        seconds = sums["seconds"] + self._tick()
        parallel.same_buffers(self.evaluated_model)
        val_loss, val_accuracy = evaluate(self.evaluated_model, self.dataset, "val", self.device)
        self._tick()
        row = {"epoch": len(self.rows) + 1, "pixels": self._size(), "lr": sums["peak"]}
        row |= {"train_loss": loss / sums["seen"]}
        row |= {"train_accuracy": parallel.total(sums["correct"]).item() / sums["seen"]}
        row |= {"images_per_s": sums["seen"] / seconds, "val_accuracy": val_accuracy}
        row |= {"val_loss": _finite(val_loss, self.schedule.last_epoch), "seconds": self.seconds}
        return row

    @property
    def evaluated_model(self) -> nn.Module:
        """The averaged network if there is one, else the network."""
        return self.average.module if self.average else self.model

    def state(self) -> dict:
        """Everything but the model's own state, as tensors and plain values. Every process of a
        training must ask for it; that of rank 0 is the one to keep.

        Raises: Diverged if a loss of this epoch was not a number.
        """
        self.check()
        cuda = torch.cuda.get_rng_state_all() if self.device.startswith("cuda") else []
        state = {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}
        state |= {"random": torch.get_rng_state(), "random_cuda": cuda, "step": self.step}
        state["average"] = self.average.module.state_dict() if self.average else None
        sums = {key: parallel.total(self.sums[key]) for key in ("loss", "correct")}
        return state | {"sums": {**self.sums, **sums}, "rows": self.rows, "seconds": self.seconds}

    def restore(self, state: dict) -> None:
        """Continue where `state` was taken, on any device. Of optimiser and schedule it takes what
        the options do not say: the momentum, and the number of steps.

        Raises: ValueError or KeyError if `state` is of another training.
        """
        rows, step, done = state["rows"], state["step"], state["schedule"]["last_epoch"]
        in_epoch = self.steps // self.epochs
        if done != len(rows) * in_epoch + step or step > in_epoch or done > self.steps:
            raise ValueError("rows and steps do not belong together")
        self._restore_optimizer(state["optimizer"]["state"], done)
        self.rows, self.step, self.seconds = rows, step, state["seconds"]
        sums = state["sums"]
        share = 0 if parallel.rank() else 1  # what was summed up stays with rank 0
        on_device = {key: share * sums[key].to(self.device) for key in ("loss", "correct")}
        self.sums = {key: on_device.get(key, sums[key]) for key in self.sums}
        if self.average:
            self.average.module.load_state_dict(state["average"], strict=True)
            self.average.n_averaged.fill_(self.schedule.last_epoch)  # one after every update
        if parallel.rank():
            torch.manual_seed(self.seed + 10_007 * parallel.rank() + self.schedule.last_epoch)
            return
        torch.set_rng_state(state["random"])
        if self.device.startswith("cuda") and len(state["random_cuda"]):
            torch.cuda.set_rng_state(state["random_cuda"][0])

    def _restore_optimizer(self, momenta: dict[int, dict], done: int) -> None:
        """The momentum of every parameter, and the schedule after so many steps."""
        groups = self.optimizer.param_groups
        shapes = dict(enumerate(p.shape for group in groups for p in group["params"]))
        kept = {index: state["momentum_buffer"] for index, state in momenta.items()}
        if any(momentum.shape != shapes[index] for index, momentum in kept.items()):
            raise ValueError("a momentum is of another shape than its parameter")
        kept = {index: {"momentum_buffer": momentum} for index, momentum in kept.items()}
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": kept})
        schedule = self.schedule
        pairs = zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
        rates = [base * factor(done) for base, factor in pairs]
        place = {"last_epoch": done, "_step_count": done + 1, "_last_lr": rates}
        schedule.load_state_dict(schedule.state_dict() | place)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def progress(title: str, total: int | None, unit: str = "it", done: int = 0) -> tqdm:
    """A progress bar that leaves nothing behind, and is silent where there is no terminal and in
    all processes but the first."""
    silent = parallel.rank() > 0 or None
    return tqdm(desc=title, total=total, unit=unit, initial=done, disable=silent, leave=False)


def train_step(
    model, x, y, optimizer, device: str, smoothing: float = 0.0, parts: int = 1, weight: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """One update on one batch; returns the mean loss and the logits, detached.

    Label smoothing gives the share `smoothing` of the target to all classes alike. The batch
    passes in `parts`, whose gradients add up: memory for one part, the gradient of the whole batch
    (but for batch-norm statistics, which are a part's own). `weight` multiplies the gradient.
    Raises: UserError where batch norm gets a single value of each channel.
    """
    optimizer.zero_grad(set_to_none=True)
    losses, outputs, parts = [], [], min(parts, len(y))
    for x_part, y_part in zip(x.tensor_split(parts), y.tensor_split(parts), strict=True):
        with autocast(device), two_values():
            logits = model(x_part).float()  # the softmax stays in float32
            loss = F.cross_entropy(logits, y_part, label_smoothing=smoothing)
        loss = loss * (len(y_part) / len(y))
        (loss * weight).backward()
        losses.append(loss.detach())
        outputs.append(logits.detach())
    optimizer.step()
    return torch.stack(losses).sum(), torch.cat(outputs)


@contextlib.contextmanager
def two_values() -> Iterator[None]:
    """Inside the `with`, batch norm's refusal of one image with a 1x1 map names the flags."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        message = "batch norm cannot learn from one image alone where its map is 1x1: take a larger"
        raise UserError(f"{message} --batch-size, or a smaller --accumulate") from error


def _finite(value: float, step: int) -> float:
    """The value; Diverged is raised if it is NaN or infinite."""
    if not math.isfinite(value):
        raise Diverged(f"the loss stopped being a number before step {step}: try a smaller --lr")
    return value


@torch.no_grad()
def predict(
    model: nn.Module, dataset, split: str, device: str = "cpu", mirror: bool = False
) -> torch.Tensor:
    """Logits of every image of a split in its order, or with `mirror` of its mirror image: float32
    N classes, in eval mode. Each process computes its part of every batch, and gets all."""
    model.eval()
    outputs, size = [], max(32, getattr(dataset, split).images.shape[3])
    batch = 500 * 32**2 // size**2  # of large images fewer fit into the memory
    with autocast(device):
        for x, _ in dataset.batches(split, max(1, batch), part=parallel.part()):
            logits = model(x.flip(3) if mirror else x).float()
            outputs.append(parallel.gathered(logits))
    return torch.cat(outputs)


def evaluate(model: nn.Module, dataset, split: str, device: str = "cpu") -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy (share of samples) over a whole split."""
    logits, labels = predict(model, dataset, split, device), getattr(dataset, split).labels
    hits = (logits.argmax(1) == labels).sum().item()
    return F.cross_entropy(logits, labels).item(), hits / len(labels)
