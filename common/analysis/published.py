"""Numbers that papers and other projects published: each stands here once, with its place."""

# Test error on CIFAR-10 in percent, by the `--model` of lesson 6, after each paper's full training.
ERRORS = {
    "cifar_resnet-20": 8.75,  # He et al. 2015, table 6
    "cifar_resnet-56": 6.97,  # the same
    "cifar_resnet-110": 6.61,  # the same, mean of five
    "cifar_preact_resnet-164": 5.46,  # He et al. 2016, table 3, median of five
    "cifar_wide_resnet-16-4": 5.02,  # Zagoruyko & Komodakis 2016, table 6
    "cifar_wide_resnet-28-10": 4.00,  # Zagoruyko & Komodakis 2016, table 5
    "cifar_resnext-29-8-64": 3.65,  # Xie et al. 2017, table 7
    "cifar_densenet-100-12": 4.51,  # Huang et al. 2017, table 2
}

PLAIN_DEGRADES = "0.7 -> 3.3 % training error from depth 20 to 56, on CIFAR-10 (a-martyn/resnet)"
RESIDUAL_DOES_NOT = "0.4 -> 0.04 % training error from 20 to 56, on CIFAR-10 (a-martyn/resnet)"
THOUSAND_LAYERS = "4.92 % test error of 1,001 layers on CIFAR-10 (He et al. 2016, table 3)"
THOUSAND_GATED = "7.61 % of 1,001 layers with a ReLU after each addition (He et al. 2016, table 3)"
WIDE_AGAINST_DEEP = (
    "4.53 % error of a wide network (8.9 M parameters) against 4.92 of a deep one (10.2 M), which "
    "in batches of 64 has 4.64 (Zagoruyko & Komodakis 2016, table 5)"
)
WIDE_IS_FASTER = (
    "8 times as fast: a wide ResNet of 40 layers against one of 1,001 (Zagoruyko & Komodakis 2016, "
    "section 3)"
)
GROUPS_ARE_SLOWER = (
    "1.36 times: ResNeXt-101 32x4d against ResNet-101 (Xie et al. 2017, section 5.1)"
)
BN_EXPLODES = (
    "pi/(pi-1) = 1.467 times a layer for the squared gradient norm of wide fully connected layers, "
    "the batch to infinity (Yang et al. 2019, theorem 3.10)"
)
FLATTER = "56 layers: chaotic without shortcuts, flat with them (Li et al. 2018, section 6)"
SHALLOW_IS_BENIGN = (
    "20 layers: hardly non-convex, with or without shortcuts (Li et al. 2018, section 6)"
)
