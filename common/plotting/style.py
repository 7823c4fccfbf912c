"""The look of every figure: theme, colours, titles, labels at the ends of lines."""

import re
import textwrap
import warnings

from common import UserError

import matplotlib
import numpy as np
import seaborn
from matplotlib import font_manager, pyplot, ticker
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

RESIDUAL, PLAIN = "#0072B2", "#D55E00"
OTHERS = ["#009E73", "#CC79A7", "#E69F00"]
GREY = "#666666"
# For letters that the first font lacks, where one of these is installed: class names have any.
LETTERS = ["DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Noto Sans JP"]
LETTERS += ["Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "PingFang SC", "Hiragino Sans"]
LETTERS += ["Apple SD Gothic Neo", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Arial Unicode MS"]
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
TWINS = {"plain": (PLAIN, "--"), "residual": (RESIDUAL, "-")}  # colour and dash


windows = False  # whether new figures are pyplot's, which opens windows for them


def use_theme(show: bool = False) -> None:
    """Set the theme. Without `show` a figure is nobody's but its caller's: it needs no display, and
    the backend and the open figures of a notebook, or of another host, stay as they are.

    Raises: UserError if `show` is asked for, and matplotlib can open no window.
    """
    global windows
    windows = show
    if show:
        try:
            pyplot.switch_backend(matplotlib.get_backend())
        except ImportError as error:
            raise UserError(f"--show: matplotlib cannot open windows here ({error})") from error
    seaborn.set_theme(style="ticks", rc={"savefig.dpi": 150, "figure.dpi": 100})
    matplotlib.rcParams |= {"axes.spines.top": False, "axes.spines.right": False}
    installed = set(font_manager.get_font_names())
    letters = [name for name in LETTERS if name in installed]
    # What users call their folders and classes is never markup: $ is a dollar.
    matplotlib.rcParams |= {"text.parse_math": False, "font.family": ["sans-serif", *letters]}
    matplotlib.rcParams |= {"lines.linewidth": 2}
    warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a box says it, too


class Powers(ticker.LogFormatterSciNotation):
    """Labels of a logarithmic axis, such as 10⁻³, in letters instead of markup (see use_theme)."""

    def __call__(self, x, pos=None):
        label = super().__call__(x, pos).removeprefix("$\\mathdefault{").removesuffix("}$")
        label = re.sub(r"\^\{(.*?)\}", lambda power: power[1].translate(SUPERSCRIPTS), label)
        return label.replace(r"\times", "\N{MULTIPLICATION SIGN}")


def logarithmic(ax, *names: str) -> None:
    """Make the axes of these names ("x", "y") logarithmic."""
    for name in names:
        ax.set(**{f"{name}scale": "log"})
        axis = getattr(ax, f"{name}axis")
        axis.set_major_formatter(Powers())
        axis.set_minor_formatter(Powers())


def new_figure(title: str, subtitle: str, width: float = 9, height: float = 5, **subplots):
    """A figure (inches) whose title states the finding and whose subtitle states the set-up.

    `subplots` goes to `Figure.subplots`. Returns the figure and its axes.
    """
    figure = titled(title, subtitle, width, height)
    return figure, figure.subplots(**subplots)


def titled(title: str, subtitle: str, width: float, height: float):
    """A figure (inches) with that title and subtitle and no axes yet; they get the room below."""
    size = {"figsize": (width, height), "layout": "constrained"}
    figure = pyplot.figure(**size) if windows else FigureCanvasAgg(Figure(**size)).figure
    title = textwrap.fill(title, int(width * 9))
    subtitle = textwrap.fill(subtitle, int(width * 12.5))
    below = 0.12 + 0.24 * (title.count("\n") + 1)  # inches from the top
    bottom = below + 0.08 + 0.18 * (subtitle.count("\n") + 1)
    figure.text(0.015, 1 - 0.12 / height, title, va="top", weight="bold", size=13)
    figure.text(0.015, 1 - below / height, subtitle, va="top", color=GREY, size=10)
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - bottom / height), w_pad=0.1, h_pad=0.08)
    return figure


def band(axes, x, runs, line_style: tuple[str, str], width: float = 2) -> float:
    """Plot the mean over runs (one list of values a run, the same x) and their range.

    `line_style` is colour and dash; on a logarithmic axis the mean is geometric. Returns the mean
    at the last x.
    """
    colour, dash = line_style
    runs = np.asarray(runs, float)  # runs x points
    mean = np.exp(np.log(runs).mean(0)) if axes.get_yscale() == "log" else runs.mean(0)
    axes.plot(x, mean, dash, color=colour, linewidth=width)
    axes.fill_between(x, runs.min(0), runs.max(0), color=colour, alpha=0.2, linewidth=0)
    return float(mean[-1])


def label_ends(axes, labels: list[tuple[float, str, str]], gap: float = 0.055) -> None:
    """Write (y, text, colour) beside the right end of each line, moved apart where they collide.

    `gap` is the least distance, as a share of the axes' height. Call it when the limits are set.
    """
    to_share = axes.transData + axes.transAxes.inverted()
    right = axes.get_xlim()[1]
    placed = sorted((to_share.transform((right, y))[1], text, colour) for y, text, colour in labels)
    heights = [min(max(height, 0.0), 1.0) for height, _, _ in placed]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + gap)
    surplus = max(0.0, heights[-1] - 1.0)
    for height, (_, text, colour) in zip(heights, placed, strict=True):
        place = (1.015, height - surplus)
        axes.annotate(text, place, xycoords="axes fraction", va="center", color=colour, size=10)


def network_styles(names) -> dict[str, tuple[str, str]]:
    """Colour and dash of each network: plain and residual as everywhere; five are told apart."""
    plain = [TWINS["plain"]]
    others = [TWINS["residual"], *((colour, "-") for colour in OTHERS)]
    styles = {}
    for name in names:
        free = plain if "plain" in name and plain else others
        styles[name] = free.pop(0) if free else (GREY, "-")
    return styles
