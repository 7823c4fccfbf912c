import itertools

from common import blocks, plotting
from common.blocks import BasicBlock, Bottleneck, DenseLayer, PlainBlock, PreActBlock, SEBasicBlock
from common.plotting import diagram

import pytest
import torch.nn.functional as F
from matplotlib import pyplot

plotting.use_theme()


@pytest.mark.parametrize(
    ("block", "channels", "nodes", "skip", "after"),
    [
        (PlainBlock(64, 64), 64, 8, set(), None),
        (BasicBlock(64, 64), 64, 9, {("x", "+")}, 1),
        (Bottleneck(256, 64), 256, 12, {("x", "+")}, 1),
        (PreActBlock(64, 64), 64, 9, {("x", "+")}, 0),
        (BasicBlock(16, 32, 2), 16, 11, {("x", "Conv2d"), ("Conv2d", "BN"), ("BN", "+")}, 1),
        (PreActBlock(16, 32, 2), 16, 10, {("ReLU", "Conv2d"), ("Conv2d", "+")}, 0),
        (BasicBlock(8, 16, 2, "A"), 8, 11, {("x", "index"), ("index", "pad with 0"),
                                            ("pad with 0", "+")}, 1),
        (DenseLayer(16, 8), 16, 9, {("x", "concat")}, 0),
    ],
)  # fmt: skip
def test_nodes_and_skip_edges(block, channels, nodes, skip, after):
    graph = diagram.trace(block, channels, 8, 8)
    kinds = {name: node.kind for name, node in graph.nodes.items()}
    assert len(graph.nodes) == nodes
    assert {(kinds[a], kinds[b]) for a, b in graph.skip} == skip
    assert graph.skip <= set(graph.edges)
    counts = graph.counts()
    assert counts["operations"] == nodes - 2
    assert counts["after the join"] == after
    assert counts["on the shortcut"] == (len(skip) - 1 if skip else None)


def test_shapes_are_those_of_the_results():
    graph = diagram.trace(BasicBlock(16, 32, 2), 16, 8, 8)
    shapes = {node.shape for node in graph.nodes.values()}
    assert shapes == {"16x8x8", "32x4x4"}
    assert graph.nodes["x"].shape == "16x8x8"
    assert "conv 3x3 /2" in {node.label for node in graph.nodes.values()}


@pytest.mark.parametrize(
    "block", [BasicBlock(16, 32, 2), SEBasicBlock(16, 16), PreActBlock(16, 16)]
)
def test_the_layout_has_a_place_for_every_node(block):
    graph = diagram.trace(block, 16, 8, 8)
    places = [(node.layer, node.lane) for node in graph.nodes.values()]
    assert len(set(places)) == len(places)
    for a, b in graph.edges:
        assert graph.nodes[a].layer < graph.nodes[b].layer


class Longer(BasicBlock):
    """A BasicBlock with one more operation and no addition."""

    def forward(self, x):
        return F.relu(F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))))


def test_a_changed_block_changes_the_graph_and_the_title():
    graphs = [diagram.trace(block, 16, 8, 8) for block in (BasicBlock(16, 16), Longer(16, 16))]
    assert [len(graph.nodes) for graph in graphs] == [9, 9]
    assert [len(graph.skip) for graph in graphs] == [1, 0]
    titles = []
    for graph in graphs:
        figure = diagram.draw({"this": graph})
        titles.append(" ".join(figure.texts[0].get_text().split()))
        pyplot.close(figure)
    assert all(title.startswith("No block here leaves x alone") for title in titles)
    figure = diagram.draw({"this": diagram.trace(PreActBlock(16, 16), 16, 8, 8)})
    assert figure.texts[0].get_text().startswith("this leaves x alone")
    pyplot.close(figure)


def test_every_skip_is_drawn_in_the_residual_colour():
    blocks = {"plain": PlainBlock(16, 16), "basic": BasicBlock(16, 16)}
    figure = diagram.draw({n: diagram.trace(block, 16, 8, 8) for n, block in blocks.items()})
    blue = [[line.get_color() for line in ax.lines].count(plotting.RESIDUAL) for ax in figure.axes]
    pyplot.close(figure)
    assert blue == [0, 1]


def test_boxes_do_not_overlap():
    graph = diagram.trace(BasicBlock(16, 32, 2), 16, 8, 8)
    for a, b in itertools.combinations(graph.nodes.values(), 2):
        aside = abs(a.lane - b.lane) * diagram.LANE >= 2 * diagram.HALF_WIDTH
        assert aside or abs(a.layer - b.layer) >= 2 * diagram.HALF_HEIGHT


@pytest.mark.parametrize("name", diagram.DRAWABLE)
def test_every_block_of_the_course_can_be_drawn(name):
    cls = getattr(blocks, name)
    channels = 64 * getattr(cls, "expansion", 1)
    graph = diagram.trace(cls(channels, 64), channels, 8, 8)
    assert bool(graph.skip) == (name != "PlainBlock")
    pyplot.close(diagram.draw({name: graph}))
