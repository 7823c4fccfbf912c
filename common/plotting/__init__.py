"""The figures: each takes numbers and returns a figure; none trains."""

from . import curves, diagram, features, flow, landscape, maps, predictions, style
from .style import RESIDUAL, TWINS, new_figure, use_theme

__all__ = ["RESIDUAL", "TWINS", "curves", "diagram", "features", "flow", "landscape", "maps"]
__all__ += ["new_figure", "predictions", "style", "use_theme"]
