"""Lesson 2: from one block to ResNet-18, 34, 50, 101 and 152.

You will learn
    that a ResNet is a stem, four stages of blocks and a classifier: written out by hand
    why deep networks use bottlenecks, and on which convolution their stride belongs
    how to know that an implementation is right: same weights in, same numbers out
    what an ImageNet stem leaves of a small image, and what that does to the error
Builds on: lesson 1. Paper: He et al. 2015 (arXiv:1512.03385), table 1, sections 4.1 and 4.2.
Takes about 100 seconds on two cores; it runs on the CPU whatever --device says, so that equal
numbers are equal to the last bit.
Writes stems.png, report.txt and results.json to outputs/02_resnet_implementation/; with --weights,
a checkpoint in torchvision's format, to outputs/02_resnet_implementation_weights/.

    python 02_resnet_implementation.py --model resnet50 --weights FILE.pth --image CAT.jpg
"""

import statistics
import timeit
import warnings
from functools import partial
from pathlib import Path

from common import analysis, data, lesson, models, plotting, training
from common.analysis import Seeds
from common.blocks import BasicBlock, Bottleneck

import torch
import torch.nn as nn
import torch.nn.functional as F
import torchvision
from PIL import Image

FAMILY = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
QUICK = ("resnet18", "resnet50")  # with --quick: one network of either block
STAGES = ["conv1", "layer1", "layer2", "layer3", "layer4"]
STEMS = ("cifar", "imagenet")
SEEDS, QUICK_SEEDS = 5, 2  # networks behind each stem
PAPER = {20: "0.27", 32: "0.46", 44: "0.66", 56: "0.85", 110: "1.7"}  # table 6: depth, millions

QUESTION = """\
The last of the ResNets below has several times the layers of ResNet-18. Has it more times the
parameters than that, or fewer? And the multiplications?"""
ANSWER = """\
{} has {:.1f} times the layers of {}, {:.1f} times the parameters and {:.1f} times the
multiply-adds. Section 3 says what its bottlenecks save."""
BOTTLENECK = """\
Bottleneck(256, 64) has 256 channels in and out. A 1x1 convolution reduces them to 64 for its 3x3,
another 1x1 restores them. So at about the cost of the first row it carries four times the channels.
The last row is a BasicBlock of as many. The price: the bottleneck's single 3x3 sees less of the
input than two of them. What one output depends on is called the receptive field."""
EXPERIMENT = """\
python 02_resnet_implementation.py --seed 100 trains the networks of section 7 from other random
numbers. Does the verdict stay?"""


def main(argv: list[str] | None = None) -> dict:
    """Run the lesson; returns what it measured."""
    args = arguments(argv)
    plotting.use_theme(args.show)
    torch.manual_seed(args.seed)
    if args.weights:
        return use_weights(args)
    images = data.load(args.data, args.data_dir, args.data_url, limit=4_000)
    report = lesson.Report(__file__, args, images.name, images.why)
    report.ask(QUESTION)
    measured = {}

    report.section("1. ResNet-18 by hand equals the class")
    # Thirty lines hold the whole network. They are right if they give the class's numbers.
    difference = measured["by_hand_difference"] = by_hand_difference()
    report.say(f"largest relative difference: {difference:.2g}")
    report.check("by hand equals resnet18", difference < 1e-5)

    report.section("2. Table 1 of the paper, as built (input 224x224)")
    # All five are one plan with other counts, read off the running networks, not off the code.
    measured["table_1"] = table_1()
    report.say("In each stage: number of blocks x output channels. A max-pool before layer1 halves")
    report.say("the size, and so does the first block of each later stage.")
    report.table(list(measured["table_1"].values()))

    report.section("3. BasicBlock against Bottleneck, at 56x56")
    # Why the deep ones change the block: many channels are affordable where only 1x1s touch them.
    measured["blocks"] = basic_against_bottleneck()
    report.table(measured["blocks"])
    report.explain(BOTTLENECK)

    names = QUICK if args.quick else FAMILY
    report.section(f"4. {len(names)} models and their distance from torchvision's")
    # Right shapes and counts prove little. Equal gradients for equal weights leave little room.
    measured["five_models"] = compare_with_torchvision(report, names)
    report.table(measured["five_models"])
    report.say("Depth counts the layers of the longest path. The last three columns compare with")
    report.say("torchvision's network, whose weights were copied. 0 means equal to the last bit.")
    report.say("Logits are a network's outputs, one a class, before they become probabilities.")

    report.section("5. Where the stride sits: v1 (paper) against v1.5 (torchvision)")
    # What section 4 compared is not quite the paper's network: torchvision moved the stride.
    measured["stride_multiply_adds"] = stride_versions(report)
    report.say("v1's strided 1x1 convolution looks at one position in four and skips the rest.")

    report.section("6. The stem decides what small images become")
    # These networks divide the resolution by 32: 7x7 pixels are left of 224, one is left of 32.
    report.say("The first layers: of ImageNet's networks a 7x7 convolution of stride 2 and a")
    report.say("max-pool, for CIFAR a single 3x3 convolution of stride 1.")
    maps = maps_behind_stems(report, images)
    sizes = {stem: [plotting.maps.size(m) for m in by.values()] for stem, by in maps.items()}
    report.table([{"stem": s, **dict(zip(STAGES, row, strict=True))} for s, row in sizes.items()])
    report.figure(plotting.maps.stems(images.train.images[0], maps, images.name), "stems")
    measured["stems"] = sizes

    report.section("7. The same network behind either stem, trained")
    # Fewer pixels cost less, and may be enough for ten classes. So both are trained.
    measured["stem_errors"] = compare_stems(report, images)

    report.section("8. The CIFAR networks of the paper (3x3 stem, 16-32-64 channels)")
    # What the paper trained on such images instead; lessons 3 to 6 use these.
    measured["cifar_family"] = cifar_family(report)
    report.table(measured["cifar_family"])
    report.say("Millions of parameters as the paper rounds them. Option A pads the shortcut with")
    report.say("zeros where the channels change. Option B has 1x1 convolutions there instead.")
    report.answer(answer(measured["five_models"]), EXPERIMENT)
    return report.save(measured)


def arguments(argv: list[str] | None):
    """The shared flags and this lesson's own."""
    flags = lesson.parser(__doc__)
    what = f"the network of --weights: {', '.join(models.TORCHVISION)} (default: resnet18)"
    flags.add_argument("--model", choices=models.TORCHVISION, metavar="NAME", help=what)
    weights = "a checkpoint in torchvision's format, as it is or wrapped by another program"
    flags.add_argument("--weights", type=Path, metavar="FILE", help=weights)
    flags.add_argument("--image", type=Path, metavar="FILE", help="a picture to classify")
    args = flags.parse_args(argv)
    if (args.image or args.model) and not args.weights:
        flags.error("--image and --model need --weights: an untrained network has nothing to say")
    args.model = args.model or FAMILY[0]
    lesson.device(args.device)  # refuses a device that is not there
    args.device = "cpu"
    return args


def resnet18_by_hand(w: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """ResNet-18 in raw tensor operations, from its state dict `w` (eval mode)."""

    def conv(x, name, stride=1):
        weight = w[f"{name}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    def bn(x, name):
        mean, var = w[f"{name}.running_mean"], w[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, w[f"{name}.weight"], w[f"{name}.bias"])

    def block(x, name, stride):
        out = F.relu(bn(conv(x, f"{name}.conv1", stride), f"{name}.bn1"))
        out = bn(conv(out, f"{name}.conv2"), f"{name}.bn2")
        if f"{name}.downsample.0.weight" in w:  # the shape changes: project x (option B)
            x = bn(conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        return F.relu(out + x)

    def stage(x, name, stride):
        return block(block(x, f"{name}.0", stride), f"{name}.1", 1)

    x = F.relu(bn(conv(x, "conv1", 2), "bn1"))  # N 64 112 112
    x = F.max_pool2d(x, 3, stride=2, padding=1)  # N 64 56 56
    x = stage(x, "layer1", 1)  # N 64 56 56: the first stage keeps the resolution
    x = stage(x, "layer2", 2)  # N 128 28 28
    x = stage(x, "layer3", 2)  # N 256 14 14
    x = stage(x, "layer4", 2)  # N 512 7 7
    x = x.mean(dim=(2, 3))  # N 512
    return F.linear(x, w["fc.weight"], w["fc.bias"])  # N 1000


@torch.no_grad()
def by_hand_difference() -> float:
    """Largest relative difference of the lines above and common.models.resnet18."""
    model = models.resnet18().eval()
    for tensor in model.state_dict().values():
        if tensor.ndim == 1:  # a new network's are all 0 or 1: a mix-up of them would not show
            tensor.uniform_(0.5, 1.5)
    x = torch.randn(2, 3, 224, 224)
    return analysis.relative_difference([resnet18_by_hand(model.state_dict(), x)], [model(x)])


@torch.no_grad()
def table_1() -> dict[str, dict]:
    """Stages, output sizes and blocks of the five networks: {stage: {header: value}}."""
    rows = {stage: {"stage": stage} for stage in STAGES}
    for name in FAMILY:
        with torch.device("meta"):  # shapes without arithmetic
            model, x = getattr(models, name)(), torch.empty(1, 3, 224, 224)
        for stage, maps in analysis.activations(model, STAGES, x).items():
            module = getattr(model, stage)
            blocks = len(module) if isinstance(module, nn.Sequential) else 1
            rows[stage]["output"] = plotting.maps.size(maps)  # one for all five
            rows[stage][f"{name.removeprefix('resnet')}-layer"] = f"{blocks} x {maps.shape[1]}"
    return rows


def basic_against_bottleneck() -> list[dict]:
    """The two blocks of figure 5, and what a BasicBlock at the bottleneck's width would cost."""
    rows = []
    cases = [(BasicBlock, 64, 64), (Bottleneck, 256, 64), (BasicBlock, 256, 256)]
    for kind, in_channels, channels in cases:
        block = kind(in_channels, channels)
        macs = analysis.multiply_adds(block, in_channels, 56, 56)
        row = {"block": f"{kind.__name__}({in_channels}, {channels})", "channels": in_channels}
        row |= {"parameters": f"{analysis.parameter_count(block):,}"}
        row |= {"multiply-adds (M)": f"{macs / 1e6:.0f}"}
        row |= {"receptive field (pixels)": analysis.receptive_field(block, in_channels)}
        rows.append(row)
    return rows


def compare_with_torchvision(report, names) -> list[dict]:
    """Depth, size, cost and time of each network, and its distance from torchvision's."""
    image = torch.randn(1, 3, 224, 224)
    rows = []
    with training.progress("models", len(names)) as bar:
        for name in names:
            model, reference = getattr(models, name)(), getattr(torchvision.models, name)()
            # 64 pixels are enough for every layer; batch norm needs more than one image.
            x, y = torch.randn(4, 3, 64, 64), torch.randint(1000, (4,))
            logits, gradients = analysis.parity(model, reference, x, y)
            extra = analysis.parameter_count(model) - analysis.parameter_count(reference)
            equal = extra == 0 and max(logits, gradients) < 1e-5  # float32 has seven digits
            report.check(f"{name} equals torchvision's", equal)
            row = {"model": name, **size_and_cost(model, image), "extra parameters": extra}
            row |= {"logits differ": f"{logits:.0g}", "gradients differ": f"{gradients:.0g}"}
            rows.append(row)
            bar.update()
    return rows


@torch.no_grad()
def size_and_cost(model: nn.Module, image: torch.Tensor) -> dict:
    """Depth, parameters, and what one image (1 3 H W) costs."""
    macs = analysis.multiply_adds(model, *image.shape[1:])  # leaves the model in eval mode
    _, *seconds = timeit.repeat(lambda: model(image), number=1, repeat=4)  # the first warms up
    return {
        "depth": analysis.depth(model),
        "parameters": f"{analysis.parameter_count(model):,}",
        "multiply-adds (G)": f"{macs / 1e9:.2f}",
        "forward (ms)": f"{1e3 * statistics.median(seconds):.0f}",
    }


class BottleneckV1(Bottleneck):
    """The paper's stride: on the first 1x1 convolution instead of the 3x3."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1, shortcut: str = "B"):
        super().__init__(in_channels, channels, stride, shortcut)
        self.conv1.stride, self.conv2.stride = self.conv2.stride, self.conv1.stride


def answer(rows: list[dict]) -> str:
    """The answer to the QUESTION: the last network beside the first."""
    first, last = rows[0], rows[-1]
    columns = ("depth", "parameters", "multiply-adds (G)")
    of_first, of_last = (
        [float(str(row[c]).replace(",", "")) for c in columns] for row in (first, last)
    )
    depth, *costs = (b / a for a, b in zip(of_first, of_last, strict=True))
    return ANSWER.format(last["model"], depth, first["model"], *costs)


def stride_versions(report) -> dict[str, int]:
    """Multiply-adds of ResNet-50 with the stride of the paper (v1) and of torchvision (v1.5)."""
    macs, rows = {}, []
    for version, block in (("v1", BottleneckV1), ("v1.5", Bottleneck)):
        model = models.ResNet(block, [3, 4, 6, 3])
        macs[version] = analysis.multiply_adds(model, 3, 224, 224)
        row = {"ResNet-50": version, "parameters": f"{analysis.parameter_count(model):,}"}
        rows.append(row | {"multiply-adds (G)": f"{macs[version] / 1e9:.2f}"})
    report.table(rows)
    return macs


def maps_behind_stems(report, images: data.Dataset) -> dict[str, dict[str, torch.Tensor]]:
    """What ResNet-18 makes of a 32x32 image behind either stem: {stem: {stage: 1 C H W}}."""
    x, _ = next(images.batches("train", 1))  # 1 3 32 32
    maps = {}
    for stem in STEMS:
        torch.manual_seed(report.args.seed)
        model = models.resnet18(10, stem).eval()
        # The class warns of such images; the warning belongs into the report.
        with warnings.catch_warnings(record=True) as caught, torch.no_grad():
            warnings.simplefilter("always")
            maps[stem] = analysis.activations(model, STAGES, x)
        for warning in caught:
            report.say(f"The class warns, as it should: {warning.message}")
    return maps


def behind_stem(stem: str, seed: int, classes: int) -> nn.Module:
    """A narrow CIFAR ResNet-14, which trains in seconds, with its own stem or with ImageNet's."""
    torch.manual_seed(seed)
    model = models.cifar_resnet(14, num_classes=classes, width=8)  # both have the same body
    if stem == "imagenet":
        model.conv1 = nn.Conv2d(3, 8, 7, stride=2, padding=3, bias=False)
        # CifarNet has no place for a max-pool; behind the ReLU it acts as in ResNet.
        model.relu = nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, stride=2, padding=1))
        models.kaiming_init(model.conv1)
    return model


def compare_stems(report, images: data.Dataset) -> dict[str, Seeds]:
    """Validation error behind either stem, by seed, at the same images, epochs and rate."""
    seed, few, epochs, count = report.args.seed, images.first(1_000), 14, SEEDS
    if report.args.quick:
        few, epochs, count = images.first(64), 1, QUICK_SEEDS
    jobs = [(stem, n) for stem in STEMS for n in range(seed, seed + count)]
    classes = len(few.classes)
    runs = [training.Run(stem, n, behind_stem(stem, n, classes), {"lr": 0.1}) for stem, n in jobs]
    macs = {run.name: analysis.multiply_adds(run.model, 3, 32, 32) for run in runs}
    results = training.train_all(runs, few, epochs, 16, "cpu")
    early = (epochs + 2) // 3  # a third of the way
    at_first, errors = (
        {stem: Seeds.of(rows, partial(error_after, epoch=epoch)) for stem, rows in results.items()}
        for epoch in (early, epochs)
    )
    rows = []
    for stem, error in errors.items():
        row = {"stem": stem, "multiply-adds (M)": f"{macs[stem] / 1e6:.2f}"}
        row[f"error after {early} epochs"] = f"{at_first[stem]:.1%}"
        rows.append(row | {f"after {epochs}": f"{error:.1%}"})
    report.table(rows)
    used, new = len(few.train.labels), len(few.val.labels)
    report.say(f"A narrow ResNet-14, {used} images in batches of 16, at a learning rate of 0.1.")
    report.say(f"Errors: mean ± deviation over seeds, on {new} validation images.")
    for stem, error in errors.items():
        by_seed = ", ".join(f"{100 * e:.0f}" for e in error)
        report.say(f"After {epochs} epochs, seed by seed, {stem}: {by_seed} %")
    ratio = macs["cifar"] / macs["imagenet"]
    report.say(f"The CIFAR stem keeps all pixels. So the network costs {ratio:.0f} times as much.")
    sentence = "on 32x32 images a stem that keeps all pixels gives the lower validation error"
    source = "the 3x3 stem is the paper's choice for such images (He et al. 2015, section 4.2)"
    both = errors["cifar"], "<", errors["imagenet"]
    report.claim(sentence, *both, source, "{:.1%} against {:.1%}")
    return errors


def error_after(rows: list[dict], epoch: int) -> float:
    """Validation error after an epoch, counted from 1."""
    return 1 - rows[epoch - 1]["val_accuracy"]


def cifar_family(report) -> list[dict]:
    """The networks made for 32x32: depth 6n + 2, counts beside the paper's table 6."""
    rows = []
    for depth, millions in PAPER.items():
        residual, plain = models.cifar_resnet(depth), models.cifar_plain(depth)
        count = analysis.parameter_count(residual)
        option_b = analysis.parameter_count(models.cifar_resnet(depth, "B"))
        row = {"depth": analysis.depth(residual), "parameters (option A)": f"{count:,}"}
        rows.append(row | {"paper (M)": millions, "option B adds": f"{option_b - count:,}"})
        digits = len(millions) - 2
        as_in_paper = f"{count / 1e6:.{digits}f}" == millions  # as the paper rounds it
        equal = analysis.parameter_count(plain) == count
        report.check(f"depth {depth}: the paper's count; plain has as many", equal and as_in_paper)
    return rows


def use_weights(args) -> dict:
    """--weights: load a checkpoint of torchvision's into our network, and classify a picture."""
    model = training.checkpoints.load_torchvision(args.model, args.weights)
    picture = data.open_image(args.image) if args.image else None
    images = data.load(args.data, args.data_dir, args.data_url, limit=100)
    report = lesson.Report(f"{Path(__file__).stem}_weights", args, images.name, images.why)
    report.say(f"{args.weights}: every weight has its place in {args.model} (strict=True)")
    measured = {"top_five": []}
    if picture:
        report.section("The five most probable classes")
        measured["top_five"] = classify(model, picture)
        report.table(measured["top_five"])
    return report.save(measured)


@torch.no_grad()
def classify(model: nn.Module, picture: Image.Image) -> list[dict[str, str]]:
    """The five most probable classes of a picture."""
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1  # for transforms and names only
    names = weights.meta["categories"]
    probabilities = model(weights.transforms()(picture)[None]).softmax(dim=1)  # 1 classes
    if probabilities.shape[1] != len(names):  # a checkpoint for other images than ImageNet's
        names = [f"class {i}" for i in range(probabilities.shape[1])]
    (best,) = analysis.predictions.likeliest(probabilities, names, 5)
    return [{"class": name, "probability (%)": f"{100 * p:.1f}"} for name, p in best]


if __name__ == "__main__":
    lesson.run(main)
