"""Lesson 2: from one block to ResNet-18, 34, 50, 101 and 152.

You will learn
    that a ResNet is a stem, four stages of blocks and a classifier: written out by hand
    why deep networks use bottlenecks, and on which convolution their stride belongs
    how to know that an implementation is right: same weights in, same numbers out
    why an ImageNet stem ruins small images, and what the CIFAR networks do instead
Builds on: lesson 1. Paper: He et al. 2015 (arXiv:1512.03385), table 1, sections 4.1 and 4.2.
Takes about 10 seconds on two cores; it runs on the CPU whatever --device says, so that equal
numbers are equal to the last bit.
Writes stems.png, report.txt and results.json to outputs/02_resnet_implementation/; with --weights,
a checkpoint in torchvision's format, to outputs/02_resnet_implementation_weights/.

    python 02_resnet_implementation.py --model resnet50 --weights FILE.pth --image CAT.jpg
"""

import warnings
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F
import torchvision
from PIL import Image
from tqdm import tqdm

from common import analysis, checkpoints, data, lesson, models, plotting
from common.blocks import BasicBlock, Bottleneck

FAMILY = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
STAGES = ("conv1", "layer1", "layer2", "layer3", "layer4")


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
def by_hand(report) -> float:
    """The lines above against common.models.resnet18."""
    report.section("1. ResNet-18 by hand equals the class")
    model, x = models.resnet18().eval(), torch.randn(2, 3, 224, 224)
    difference = analysis.relative_difference([resnet18_by_hand(model.state_dict(), x)], [model(x)])
    report.say(f"largest relative difference: {difference:.1e}")
    report.check("by hand equals resnet18", difference < 1e-5)
    return difference


@torch.no_grad()
def table_1(report) -> dict[str, list]:
    """Stages, output sizes and blocks as built, read off the running networks."""
    report.section("2. Table 1 of the paper, as built (input 224x224)")
    rows = {stage: [stage] for stage in STAGES}
    for name in FAMILY:
        with torch.device("meta"):  # shapes without arithmetic
            model, x = getattr(models, name)(), torch.empty(1, 3, 224, 224)
        for stage, maps in analysis.activations(model, list(STAGES), x).items():
            module = getattr(model, stage)
            blocks = len(module) if isinstance(module, nn.Sequential) else 1
            rows[stage] += [f"{maps.shape[2]}x{maps.shape[3]}"] if name == FAMILY[0] else []
            rows[stage].append(f"{blocks} x {maps.shape[1]}")
    report.table(["stage", "output", *(f"{n[6:]}-layer" for n in FAMILY)], list(rows.values()))
    report.say("In each stage: convolution or blocks x output channels.")
    return rows


def basic_against_bottleneck(report) -> list[list]:
    """The two blocks of figure 5, and what a BasicBlock at the bottleneck's width would cost."""
    report.section("3. BasicBlock against Bottleneck, at 56x56")
    cases = [("BasicBlock(64, 64)", BasicBlock(64, 64), 64)]
    cases += [("Bottleneck(256, 64)", Bottleneck(256, 64), 256)]
    cases += [("BasicBlock(256, 256)", BasicBlock(256, 256), 256)]
    rows = []
    for name, block, channels in cases:
        macs = analysis.multiply_adds(block, channels, 56, 56) / 1e6
        field = analysis.receptive_field(block, channels)
        count = f"{analysis.parameter_count(block):,}"
        rows.append([name, channels, count, f"{macs:.0f}", field])
    header = ["block", "channels", "parameters", "multiply-adds (M)", "receptive field (pixels)"]
    report.table(header, rows)
    report.say("At about the same cost the bottleneck carries four times the channels; it pays")
    report.say("with a smaller receptive field: one 3x3 convolution a block, not two.")
    return rows


def five_models(report, names) -> list[list]:
    """Depth, size, cost and time of the family, each compared with torchvision's."""
    report.section(f"4. {len(names)} models and their distance from torchvision's")
    rows, image = [], torch.randn(1, 3, 224, 224)
    for name in tqdm(names, "models", disable=None, leave=False):
        model, reference = getattr(models, name)(), getattr(torchvision.models, name)()
        small, labels = torch.randn(4, 3, 64, 64), torch.randint(1000, (4,))
        logits, gradients = analysis.parity(model, reference, small, labels)
        count = analysis.parameter_count(model)
        extra = count - analysis.parameter_count(reference)
        macs = analysis.multiply_adds(model, 3, 224, 224) / 1e9
        with torch.no_grad():
            milliseconds = 1e3 * analysis.median_seconds(lambda m=model: m(image), 3)
        row = [name, analysis.depth(model), f"{count:,}", f"{macs:.2f}", f"{milliseconds:.0f}"]
        rows.append([*row, extra, f"{logits:.0e}", f"{gradients:.0e}"])
        report.check(f"{name} equals torchvision's", extra == 0 and max(logits, gradients) < 1e-5)
    header = ["model", "depth", "parameters", "multiply-adds (G)", "forward (ms)"]
    report.table([*header, "extra parameters", "logits differ", "gradients differ"], rows)
    report.say("Depth is counted from the modules. The last three columns: against torchvision,")
    report.say("after copying its weights; the largest difference relative to the largest value.")
    return rows


class BottleneckV1(Bottleneck):
    """The paper's stride: on the first 1x1 convolution instead of the 3x3."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1, shortcut: str = "B"):
        super().__init__(in_channels, channels, stride, shortcut)
        self.conv1.stride, self.conv2.stride = self.conv2.stride, self.conv1.stride


def stride_versions(report) -> dict[str, int]:
    """ResNet-50 with the stride of the paper (v1) and of torchvision (v1.5)."""
    report.section("5. Where the stride sits: v1 (paper) against v1.5 (torchvision)")
    macs, rows = {}, []
    for version, block in (("v1", BottleneckV1), ("v1.5", Bottleneck)):
        model = models.ResNet(block, [3, 4, 6, 3])
        macs[version] = analysis.multiply_adds(model, 3, 224, 224)
        count = f"{analysis.parameter_count(model):,}"
        rows.append([version, count, f"{macs[version] / 1e9:.2f}"])
    report.table(["ResNet-50", "parameters", "multiply-adds (G)"], rows)
    report.say("v1's strided 1x1 convolution looks at one position in four and skips the rest.")
    return macs


def stems(report, images: data.Dataset) -> dict[str, dict]:
    """What is left of a 32x32 image, stage by stage, behind either stem."""
    report.section("6. The stem decides what small images become")
    x, _ = next(images.batches("train", 1))
    seen: dict[str, dict] = {}
    for stem in ("cifar", "imagenet"):
        torch.manual_seed(report.args.seed)
        model = models.resnet18(10, stem).eval()
        with warnings.catch_warnings(record=True) as caught, torch.no_grad():
            warnings.simplefilter("always")
            seen[stem] = analysis.activations(model, list(STAGES), x)
        for warning in caught:
            report.say(f"warning raised by stem={stem!r}: {warning.message}")
    sizes = {s: [f"{t.shape[2]}x{t.shape[3]}" for t in maps.values()] for s, maps in seen.items()}
    report.table(["stem", *STAGES], [[stem, *row] for stem, row in sizes.items()])
    figure = draw_stems(images, sizes, seen)
    report.figure(figure, "stems")
    return sizes


def draw_stems(images: data.Dataset, sizes, seen):
    """The image and the channel that varies most at each stage, pixel by pixel."""
    ends = {stem: row[-1] for stem, row in sizes.items()}
    title = f"A 32x32 image reaches the classifier as {ends['cifar']} behind the CIFAR stem, "
    title += f"as {ends['imagenet']} behind the ImageNet stem"
    subtitle = f"ResNet-18, untrained, one image of {images.name}; the strongest channel of each "
    subtitle += "stage, coloured from its least to its largest value (one pixel: no range)"
    figure, axes = plotting.new_figure(title, subtitle, 11, 4.6, nrows=2, ncols=6)
    for row, (stem, maps) in zip(axes, seen.items(), strict=True):
        row[0].imshow(images.train.images[0].permute(1, 2, 0))
        row[0].set_title("image 32x32", fontsize=10)
        row[0].set_ylabel(f"{stem} stem", fontsize=11)
        for ax, (stage, maps_at), size in zip(row[1:], maps.items(), sizes[stem], strict=True):
            channel = maps_at[0].abs().sum(dim=(1, 2)).argmax()  # a 1x1 map has no variance
            ax.imshow(maps_at[0, channel], cmap="cividis")
            ax.set_title(f"{stage} {size}", fontsize=10)
        for ax in row:
            ax.set(xticks=[], yticks=[])
    return figure


def cifar_family(report) -> list[list]:
    """The networks made for 32x32: depth 6n + 2, counts beside the paper's table 6."""
    report.section("7. The CIFAR networks of the paper (3x3 stem, 16-32-64 channels)")
    paper = {20: "0.27", 32: "0.46", 44: "0.66", 56: "0.85", 110: "1.7"}  # millions
    rows = []
    for depth, millions in paper.items():
        residual, plain = models.cifar_resnet(depth), models.cifar_plain(depth)
        count = analysis.parameter_count(residual)
        option_b = analysis.parameter_count(models.cifar_resnet(depth, "B")) - count
        fits = f"{count / 1e6:.{len(millions) - 2}f}" == millions  # as the paper rounds it
        rows.append([analysis.depth(residual), f"{count:,}", millions, f"{option_b:,}"])
        equal = analysis.parameter_count(plain) == count
        report.check(f"depth {depth}: the paper's count; plain has as many", equal and fits)
    report.table(["depth", "parameters (option A)", "paper (M)", "option B adds"], rows)
    return rows


@torch.no_grad()
def classify(report, model: nn.Module, picture: Image.Image) -> list[list[str]]:
    """The five most probable classes of a picture."""
    report.section("The five most probable classes")
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1  # for transforms and names only
    names = weights.meta["categories"]
    probabilities = model(weights.transforms()(picture)[None])[0].softmax(0)
    values, indices = probabilities.topk(min(5, len(probabilities)))
    if len(probabilities) != len(names):
        names = [f"class {i}" for i in range(len(probabilities))]
    rows = [[names[i], f"{100 * p:.1f}"] for p, i in zip(values, indices.tolist(), strict=True)]
    report.table(["class", "probability (%)"], rows)
    return rows


def arguments(argv: list[str] | None):
    """The shared flags and this lesson's own."""
    flags = lesson.parser(__doc__)
    flags.add_argument("--model", choices=FAMILY, help="of --weights (default: resnet18)")
    flags.add_argument(
        "--weights", type=Path, metavar="FILE", help="a checkpoint in torchvision's format"
    )
    flags.add_argument("--image", type=Path, metavar="FILE", help="a picture to classify")
    args = flags.parse_args(argv)
    if (args.image or args.model) and not args.weights:
        flags.error("--image and --model need --weights: an untrained network has nothing to say")
    args.model = args.model or FAMILY[0]
    lesson.device(args.device)  # refuses a device that is not there
    args.device = "cpu"
    return args


def main(argv: list[str] | None = None) -> dict:
    """Run the lesson; returns what it measured."""
    args = arguments(argv)
    plotting.use_theme(args.show)
    torch.manual_seed(args.seed)
    model = checkpoints.load_torchvision(args.model, args.weights) if args.weights else None
    picture = data.open_image(args.image) if args.image else None
    images = data.load(args.data, args.data_dir, args.data_url, limit=100)
    name = f"{Path(__file__).stem}_weights" if model else __file__
    report = lesson.Report(name, args, images.name, images.why)
    if model:
        report.say(f"{args.weights}: every weight has its place in {args.model} (strict=True)")
        return report.save({"top_five": classify(report, model, picture) if picture else []})
    return report.save(
        {
            "by_hand_difference": by_hand(report),
            "table_1": table_1(report),
            "blocks": basic_against_bottleneck(report),
            "five_models": five_models(report, FAMILY[:3:2] if args.quick else FAMILY),
            "stride_multiply_adds": stride_versions(report),
            "stems": stems(report, images),
            "cifar_family": cifar_family(report),
        }
    )


if __name__ == "__main__":
    lesson.run(main)
