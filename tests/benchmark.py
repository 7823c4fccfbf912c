"""Training throughput of this course's pipeline against the one that people copy.

    python -m tests.benchmark
    python -m tests.benchmark --record "two cores of an AMD EPYC (Zen 4)"    for the README

Both train a CIFAR-stem ResNet-18 (11.17 M parameters) on the same images, batch 128, SGD with
Nesterov momentum. Ours: common.data and common.training. The other: torchvision's resnet18 with
the stem swapped, float32, a DataLoader with PIL transforms (random crop, flip, normalise). The
two alternate in one run, so that a machine whose speed drifts slows both.
"""

import argparse
import contextlib
import functools
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import data, lesson, models, training

import torch
import torch.nn as nn
import torch.nn.functional as F
import torchvision
from torchvision import transforms

BATCH = 128
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # as copied with the code
RECORDED = Path(__file__).resolve().parent.parent / ".github" / "recorded"
NAMES = {True: "benchmark.json", False: "benchmark-float32.json"}  # by native_bf16


class Images(torch.utils.data.Dataset):
    """A split as PIL images through a transform, as torchvision's CIFAR10 serves them."""

    def __init__(self, split: data.Split):
        self.pixels, self.labels = split.images.permute(0, 2, 3, 1).numpy(), split.labels.tolist()
        crop, flip = transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()
        last = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        self.transform = transforms.Compose([crop, flip, *last])

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        picture = transforms.functional.to_pil_image(self.pixels[index])
        return self.transform(picture), self.labels[index]


def our_batches(dataset: data.Dataset):
    """Batches without end from common.data."""
    for epoch in itertools.count():
        yield from dataset.batches("train", BATCH, seed=epoch)


def copied_batches(dataset: data.Dataset, device: str):
    """Batches without end from a DataLoader with two workers, as people set it."""
    loader = torch.utils.data.DataLoader(
        Images(dataset.train),
        BATCH,
        shuffle=True,
        num_workers=2,
        drop_last=True,
        persistent_workers=True,
    )
    while True:
        for x, y in loader:
            yield x.to(device), y.to(device)


def our_step(device: str):
    """A training step of common.training on ResNet-18."""
    model = models.resnet18(10, stem="cifar").to(device, memory_format=torch.channels_last).train()
    optimizer = training.sgd(model, 0.05)
    return lambda x, y: training.train_step(model, x, y, optimizer, device)


def copied_network() -> nn.Module:
    """Torchvision's ResNet-18 with the stem swapped."""
    model = torchvision.models.resnet18(num_classes=10)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    return model


def copied_step(device: str):
    """A training step on `copied_network`."""
    model = copied_network().to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9, weight_decay=5e-4, nesterov=True)

    def step(x, y):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def images_per_second(batches, step, steps: int, device: str) -> float:
    """Images through `step` a second, waiting for the data included. A DataLoader's workers run
    ahead, by four batches here: they come to rest first, and what they have ready is passed."""
    time.sleep(0.5)
    for _ in itertools.islice(batches, 4):
        pass
    start, seen = time.perf_counter(), 0
    for x, y in itertools.islice(batches, steps):
        step(x, y)
        seen += len(y)
    if device != "cpu":
        getattr(torch, device).synchronize()
    return seen / (time.perf_counter() - start)


def compare(name: str, ours, copied, rounds: int, steps: int, device: str) -> list[float]:
    """Alternate the two, print both rates and the median ratio; returns the ratios."""
    for batches, step in (ours, copied):
        images_per_second(batches, step, 1, device)  # workers start, kernels are chosen
    rates = []
    for _ in range(rounds):
        rates.append([images_per_second(*pipeline, steps, device) for pipeline in (ours, copied)])
        print(f"{name}: ours {rates[-1][0]:.0f}, copied {rates[-1][1]:.0f} images/s", flush=True)
    ratios = [a / b for a, b in rates]
    middle = statistics.median(ratios)
    print(f"{name}: ratio {middle:.2f} (median of {rounds} pairs, {steps} steps of {BATCH} each)")
    return ratios


def small_network_rate(steps: int = 6) -> float:
    """Images a second of a ResNet-20 in training on all cores of the CPU."""
    model = models.cifar_resnet(20).to(memory_format=torch.channels_last).train()
    optimizer = training.sgd(model, 0.05)
    step = functools.partial(training.train_step, model, optimizer=optimizer, device="cpu")
    return images_per_second(our_batches(data.load("shapes")), step, steps, "cpu")


def thread_rates(rounds: int, busy: bool) -> list[float]:
    """Ratios of `small_network_rate` with threads that soon sleep while they wait, as `common` sets
    them, to PyTorch's default; with `busy`, beside a process that keeps one core occupied.

    Every rate is measured in a process of its own: the setting is read when torch is loaded.
    """
    sleeping = "from tests import benchmark; print(benchmark.small_network_rate())"
    spinning = f"import torch; {sleeping}"  # torch first: `common` comes too late to set it
    ours = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {key: value for key, value in os.environ.items() if key not in ours}
    ratios = []
    loop = [sys.executable, "-c", "while True: pass"]
    with subprocess.Popen(loop) if busy else contextlib.nullcontext() as other:
        try:
            for _ in range(rounds):
                rates = []
                for code in (sleeping, spinning):
                    command = [sys.executable, "-c", code]
                    done = subprocess.run(command, env=environment, capture_output=True, check=True)
                    rates.append(float(done.stdout))
                where = "beside a busy process" if busy else "alone"
                print(f"threads, {where}: {rates[0]:.0f} and by default {rates[1]:.0f} images/s")
                ratios.append(rates[0] / rates[1])
        finally:
            if busy:
                other.kill()
    return ratios


def main(argv: list[str] | None = None) -> dict[str, list[float]]:
    """Measure the whole training step, the data path alone, and threads that wait."""
    flags = lesson.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--rounds", type=lesson.positive, default=5, help="(default: %(default)s)")
    flags.add_argument("--steps", type=lesson.positive, default=6, help="(default: %(default)s)")
    flags.add_argument("--record", metavar="DEVICE", help="write the ratios for the README")
    args = flags.parse_args(argv)
    device = lesson.device("auto")
    dataset = data.load("shapes").to(device)
    print(f"torch {torch.__version__}, {device}, native bf16: {training.native_bf16(device)}")
    ours, copied = our_batches(dataset), copied_batches(data.load("shapes"), device)
    sizes = (args.rounds, args.steps, device)
    pipelines = (ours, our_step(device)), (copied, copied_step(device))
    ratios = {"training": compare("training", *pipelines, *sizes)}

    def nothing(x, y):
        pass

    pipelines = (ours, nothing), (copied, nothing)
    ratios["data"] = compare("data path", *pipelines, args.rounds, 120, device)
    if device == "cpu":
        ratios["threads_idle"] = thread_rates(args.rounds, busy=False)
        ratios["threads_busy"] = thread_rates(args.rounds, busy=True)
    if args.record:
        bf16 = training.native_bf16(device)
        where = {"device": args.record, "torch": torch.__version__, "native_bf16": bf16}
        path = RECORDED / NAMES[bf16]
        path.write_text(json.dumps(where | ratios, indent=1) + "\n", encoding="utf-8")
    return ratios


if __name__ == "__main__":
    main(sys.argv[1:])
