"""Blocks as pictures of their own code: traced, laid out by the graph, drawn."""

import operator
from collections import Counter
from dataclasses import dataclass, field

from common import blocks

import torch
import torch.fx
import torch.nn as nn
from matplotlib.patches import FancyBboxPatch
from torch.fx.passes.shape_prop import ShapeProp

from .style import GREY, RESIDUAL, new_figure

DRAWABLE = [n for n in blocks.__all__ if n.endswith(("Block", "Bottleneck", "Layer"))]
DRAWABLE.remove("DenseBlock")  # of any number of layers

JOINS = {operator.add: "+", operator.iadd: "+", torch.add: "+", torch.cat: "concat"}
FILLS = {"Conv2d": "#D9DFE7", "Linear": "#D9DFE7", "BN": "#F1F1F1", "ReLU": "#FAE9C8"}
LANE, HALF_WIDTH, HALF_HEIGHT = 4.0, 1.75, 0.3  # in the unit of one layer


@dataclass
class Node:
    """An operation of a traced block; `layer` counts from the top, `lane` to the right."""

    name: str
    kind: str  # x, y, +, Conv2d, BN, ReLU ...
    label: str
    shape: str  # of its output, C x H x W
    inputs: list[str]
    layer: int = 0
    lane: int = 0


@dataclass
class Graph:
    """Nodes in order of execution; the edges of the shortcut and the operations on it."""

    nodes: dict[str, Node]
    skip: set[tuple[str, str]] = field(default_factory=set)
    skipped: set[str] = field(default_factory=set)

    @property
    def edges(self) -> list[tuple[str, str]]:
        """Every (from, to)."""
        return [(source, node.name) for node in self.nodes.values() for source in node.inputs]

    def counts(self) -> dict[str, int | None]:
        """Operations in all, on the shortcut, behind the join; None where there is none."""
        inner = [node for node in self.nodes.values() if node.kind not in ("x", "y")]
        counts = {"operations": len(inner), "on the shortcut": None, "after the join": None}
        if self.skip:
            join = max(self.nodes[target].layer for _, target in self.skip)
            counts["on the shortcut"] = len(self.skipped)
            counts["after the join"] = sum(node.layer > join for node in inner)
        return counts


def trace(block: nn.Module, *shape: int) -> Graph:
    """The graph of a block for one input of `shape` (C H W), read from its code by torch.fx.

    Operations whose result is no tensor are left out.
    """
    traced = torch.fx.symbolic_trace(block.eval())
    with torch.no_grad():
        ShapeProp(traced).propagate(torch.zeros(1, *shape))
    nodes: dict[str, Node] = {}
    for node in traced.graph.nodes:
        size = getattr(node.meta.get("tensor_meta"), "shape", None)
        if size is None:
            continue
        inputs = [n.name for n in node.all_input_nodes if n.name in nodes]
        layer = 1 + max((nodes[name].layer for name in inputs), default=-1)  # the longest path
        text = "x".join(map(str, size[1:]))
        nodes[node.name] = Node(node.name, *_describe(node, traced), text, inputs, layer)
    graph = Graph(nodes)
    _find_skips(graph)
    taken: Counter[int] = Counter()
    for node in nodes.values():
        side = node.name in graph.skipped
        node.lane = 1 if side else -taken[node.layer]  # two on one layer: the second aside
        taken[node.layer] += not side
    return graph


def _describe(node: torch.fx.Node, traced: torch.fx.GraphModule) -> tuple[str, str]:
    """Kind and label of an operation."""
    if node.op in ("placeholder", "output"):
        return ("x", "x") if node.op == "placeholder" else ("y", "y")
    if node.op == "call_module":
        module = traced.get_submodule(node.target)
        kind = type(module).__name__
        if isinstance(module, nn.Conv2d):
            size, stride = "x".join(map(str, module.kernel_size)), module.stride[0]
            extra = f" /{stride}" if stride > 1 else ""
            return kind, f"conv {size}{extra}" + (f" g{module.groups}" * (module.groups > 1))
        kind = "BN" if kind.startswith("BatchNorm") else kind
        kind = {"AdaptiveAvgPool2d": "mean", "Sigmoid": "sigmoid"}.get(kind, kind)
        return kind, kind
    if node.target in JOINS:
        return JOINS[node.target], JOINS[node.target]
    kind = node.target if isinstance(node.target, str) else node.target.__name__
    kind = {"relu": "ReLU", "getitem": "index", "pad": "pad with 0"}.get(kind, kind)
    return kind, kind


def _find_skips(graph: Graph) -> None:
    """At every addition or concatenation the branch of fewer operations is the shortcut."""
    order = list(graph.nodes)
    above: dict[str, set[str]] = {}  # each node with all that it depends on
    for name, node in graph.nodes.items():
        above[name] = {name}.union(*(above[source] for source in node.inputs))
        if node.kind not in JOINS.values() or len(node.inputs) != 2:
            continue
        shared = set.intersection(*(above[source] for source in node.inputs))
        if not shared:
            continue
        fork = max(shared, key=order.index)
        end = min(node.inputs, key=lambda source: len(above[source] - above[fork]))
        inner = above[end] - above[fork]
        graph.skipped |= inner
        graph.skip |= {(a, b) for a, b in graph.edges if b in inner} | {(end, name)}


def draw(graphs: dict[str, Graph], title: str = ""):
    """A figure with each graph from top to bottom, all on one scale, shortcuts in blue.

    Without a `title` it names the blocks on whose shortcut nothing lies, before and after the join.
    """
    subtitle = "Drawn from the code of common/blocks. Shapes: "
    subtitle += "channels x height x width of the result. Blue: the shortcut and its join"
    nodes = [node for graph in graphs.values() for node in graph.nodes.values()]
    left = min(LANE * node.lane for node in nodes) - HALF_WIDTH - 0.5
    right = max([LANE * node.lane + HALF_WIDTH + 0.2 for node in nodes] + [HALF_WIDTH + 0.7])
    layers = max(node.layer for node in nodes) + 1
    size = 0.68 * len(graphs) * (right - left), 0.6 * (layers + 1) + 1  # inches
    figure, axes = new_figure(
        title or _free(graphs), subtitle, *size, ncols=len(graphs), squeeze=False
    )
    for ax, (name, graph) in zip(axes[0], graphs.items(), strict=True):
        for edge in graph.edges:
            _draw_edge(ax, graph, *edge)
        for node in graph.nodes.values():
            _draw_node(ax, node)
        ax.text(0, 0.9, name, size=13, weight="bold", ha="center", va="center")
        ax.set(xlim=(left, right), ylim=(0.4 - layers, 1.3))
        ax.set_axis_off()
    return figure


def _free(graphs: dict[str, Graph]) -> str:
    """Which blocks leave x alone."""
    counts = {name: graph.counts() for name, graph in graphs.items()}
    free = [n for n, c in counts.items() if c["on the shortcut"] == c["after the join"] == 0]
    free = [n for n in free if all(graphs[n].nodes[s].kind == "x" for s, _ in graphs[n].skip)]
    title = f"{' and '.join(free) or 'No block here'} leave{'s' * (len(free) < 2)} x alone: "
    return title + "nothing on the shortcut, nothing after the join"


def _draw_node(axes, node: Node) -> None:
    """A box with what is done on the left and the shape of the result on the right."""
    x, y = LANE * node.lane, -node.layer
    join, end = node.kind in JOINS.values(), node.kind in ("x", "y")
    fill = RESIDUAL if join else "white" if end else FILLS.get(node.kind, "#E4F0E7")
    options = {"facecolor": fill, "edgecolor": GREY, "linewidth": 0 if join or end else 1}
    options |= {"boxstyle": "round,pad=0,rounding_size=0.12", "zorder": 3}  # above the arrows
    corner = x - HALF_WIDTH, y - HALF_HEIGHT
    axes.add_patch(FancyBboxPatch(corner, 2 * HALF_WIDTH, 2 * HALF_HEIGHT, **options))
    text = {"va": "center_baseline", "zorder": 4, "color": "white" if join else "black"}
    weight = "bold" if join or end else "normal"
    axes.text(x - HALF_WIDTH + 0.2, y, node.label, size=12, weight=weight, **text)
    axes.text(x + HALF_WIDTH - 0.2, y, node.shape, size=10, ha="right", **text)


def _draw_edge(axes, graph: Graph, start: str, end: str) -> None:
    """An arrow: straight down, or around what lies between; a skip on the right, in blue."""
    source, target = graph.nodes[start], graph.nodes[end]
    skip = (start, end) in graph.skip
    (x, y), (to_x, to_y) = ((LANE * node.lane, -node.layer) for node in (source, target))
    between = {n.lane for n in graph.nodes.values() if source.layer < n.layer < target.layer}
    if source.lane == target.lane and source.lane in between:
        side = x + (1 if skip else -1) * (HALF_WIDTH + 0.45)
        path = [(x, y), (side, y), (side, to_y), (to_x, to_y)]
    elif source.lane > target.lane:  # back to the main path: down, then across
        path = [(x, y), (x, to_y), (to_x, to_y)]
    else:
        path = [(x, y), (to_x, y), (to_x, to_y)]
    (x, y), (to_x, to_y) = path[-2:]  # stop at the border of the box
    reach = HALF_WIDTH if x > to_x else -HALF_WIDTH
    path[-1] = (to_x, to_y + HALF_HEIGHT) if x == to_x else (to_x + reach, to_y)
    line = {"color": RESIDUAL if skip else "#333333", "linewidth": 3 if skip else 1.4}
    axes.plot(*zip(*path, strict=True), solid_joinstyle="round", **line)
    arrow = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, **line}
    axes.annotate("", path[-1], path[-2], arrowprops=arrow, zorder=2)
