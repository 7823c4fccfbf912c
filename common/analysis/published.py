"""Numbers that papers and other projects published: each stands here once, with its place."""

from typing import NamedTuple


class Published(NamedTuple):
    """A number, what it measures, and where it is printed."""

    number: str
    meaning: str
    where: str

    def __str__(self) -> str:
        """The whole as one phrase: "1.467 times per layer (Yang et al. 2019, theorem 3.10)"."""
        return f"{self.number} {self.meaning} ({self.where})"


HE_2015 = "He et al. 2015, table 6"
HE_2016 = "He et al. 2016, table 3"

# Test error on CIFAR-10 in percent, by the `--model` of lesson 6, after each paper's full training.
ERRORS = {
    "cifar_resnet-20": Published("8.75", "% test error", HE_2015),
    "cifar_resnet-56": Published("6.97", "% test error", HE_2015),
    "cifar_resnet-110": Published("6.61", "% test error, mean of five", HE_2015),
    "cifar_preact_resnet-164": Published("5.46", "% test error, median of five", HE_2016),
    "cifar_wide_resnet-16-4": Published("5.02", "%", "Zagoruyko & Komodakis 2016, table 6"),
    "cifar_wide_resnet-28-10": Published("4.00", "%", "Zagoruyko & Komodakis 2016, table 5"),
    "cifar_resnext-29-8-64": Published("3.65", "%", "Xie et al. 2017, table 7"),
    "cifar_densenet-100-12": Published("4.51", "%", "Huang et al. 2017, table 2"),
}

PLAIN_DEGRADES = Published(
    "0.7 -> 3.3", "% training error from depth 20 to 56, on CIFAR-10", "a-martyn/resnet"
)
RESIDUAL_DOES_NOT = Published(
    "0.04", "% training error at depth 56, on CIFAR-10", "a-martyn/resnet"
)
THOUSAND_LAYERS = Published("4.92", "% test error of 1,001 layers on CIFAR-10", HE_2016)
THOUSAND_GATED = Published("7.61", "% of 1,001 layers with a ReLU after each addition", HE_2016)
WIDE_AGAINST_DEEP = Published(
    "4.53 against 4.92",
    "% error: wide with 8.9 M parameters against deep with 10.2 M, or 4.64 in batches of 64",
    "Zagoruyko & Komodakis 2016, table 5",
)
WIDE_IS_FASTER = Published(
    "8", "times as fast: WRN-40-4 against ResNet-1001", "Zagoruyko & Komodakis 2016, section 3"
)
GROUPS_ARE_SLOWER = Published(
    "1.36", "times: ResNeXt-101 32x4d against ResNet-101", "Xie et al. 2017, section 5.1"
)
BN_EXPLODES = Published(
    "pi/(pi-1) = 1.467",
    "times a layer for the squared gradient norm of wide fully connected layers, the batch to "
    "infinity",
    "Yang et al. 2019, theorem 3.10",
)
FLATTER = Published(
    "56", "layers: chaotic without shortcuts, flat with them", "Li et al. 2018, section 6"
)
SHALLOW_IS_BENIGN = Published(
    "20", "layers: hardly non-convex, with or without shortcuts", "Li et al. 2018, section 6"
)
