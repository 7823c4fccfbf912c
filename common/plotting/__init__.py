"""The figures: each takes numbers and returns a figure; none trains."""

from . import curves, diagram, features, flow, landscape, maps, predictions, style
from .style import GREY, OTHERS, RESIDUAL, TWINS, band, label_ends, new_figure, titled, use_theme

__all__ = ["GREY", "OTHERS", "RESIDUAL", "TWINS", "band", "curves", "diagram", "features", "flow"]
__all__ += ["label_ends", "landscape", "maps", "new_figure", "predictions", "style", "titled"]
__all__ += ["use_theme"]
