"""How figures look: colours, letters, axes. In one place, so that all figures read alike."""

import functools
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, ParamSpec, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Bbox

from rdfia.common.figure_spots import as_json

# Okabe and Ito's, which people with any colour vision tell apart.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8C6D00", "#555555")
STYLE: dict[Any, Any] = {
    "axes.edgecolor": "0.4",
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.titlesize": 11,
    "font.size": 9.5,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "xtick.color": "0.25",
    "ytick.color": "0.25",
}
INK = "#000000"
# What letters, axes, grey dots and paper are where the system is dark.
DARK = {INK: "#e8e8e8", "#404040": "#c8c8c8", "#666666": "#999999", "#555555": "#b0b0b0"}
DARK |= {"#ffffff": "#121212"}
DESCRIPTION, SPOTS = "Description", "Spots"  # of a PNG: its text chunks
EITHER = "#767676"  # reads at 4.5 to 1 on white and on black
MOST_POINTS = 20_000  # of lines in an SVG
MOST_LABELS = 6  # lines that are named at their ends; more have a legend
MOST_TITLES = 6  # of panels, that describe a figure which has no other description
APART = 0.075  # of the height of a panel, between names at the ends of lines
LARGE = ((1e12, 1e12, "T"), (1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"))  # from, unit, its letter
Asked = ParamSpec("Asked")
Drawn = TypeVar("Drawn", bound=Figure | None)


class _Measure(str):
    share: bool
    better: str


def axis_label(label: str, *, share: bool = False, better: Literal["more", "less", ""] = "") -> str:
    """Return the label of an axis that also knows what it measures.

    Args:
        label: Of the axis.
        share: It is a share, which ends at 1.
        better: Which way.
    """
    known = _Measure(label)
    known.share, known.better = share, better
    return known


def like(measure: str, text: str) -> str:
    """Return another label of the same measure."""
    return axis_label(text, share=is_share(measure), better=getattr(measure, "better", ""))


def styled(draw: Callable[Asked, Drawn]) -> Callable[Asked, Drawn]:
    """Let a function draw in this style, and leave that of the user's other figures alone."""

    @functools.wraps(draw)
    def drawn(*args: Asked.args, **kwargs: Asked.kwargs) -> Drawn:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def holds_pictures(figure: Figure) -> bool:
    """Return whether there are pixels in a figure."""
    return any(axes.images for axes in figure.axes)


def as_png(figure: Figure) -> bytes:
    """Return a figure as PNG that is described by its label, or its titles; one of pictures for any paper."""
    if holds_pictures(figure):
        on_any_paper(figure)
    buffer = io.BytesIO()
    description = figure.get_label() or titles_of(figure)
    known = {DESCRIPTION: description} if description else {}
    box = written_part(figure)
    if spots := as_json(figure, box):
        known[SPOTS] = spots
    figure.savefig(buffer, format="png", dpi=120, bbox_inches=box, metadata=known)
    return buffer.getvalue()


def titles_of(figure: Figure) -> str:
    """Return what is written above a figure and its panels: of one that holds pictures, what they show."""
    of_panels = dict.fromkeys(axes.get_title() for axes in figure.axes if axes.get_title())
    first = ", ".join(list(of_panels)[:MOST_TITLES])
    more = f" and {len(of_panels) - MOST_TITLES} more" if len(of_panels) > MOST_TITLES else ""
    return " ".join(": ".join(filter(None, [figure.get_suptitle(), first + more])).split())


def written_part(figure: Figure) -> Bbox:
    """Return what is written of a figure, in inches: all that is drawn, as labels may stand out.

    All has its place from then on: laying out takes as long as drawing, and is done once.
    """
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        with matplotlib.rc_context({"figure.autolayout": False, "figure.constrained_layout.use": False}):
            figure.set_layout_engine(None)
    return figure.get_tightbbox().padded(0.1)


def on_any_paper(figure: Figure) -> None:
    """Let a figure of pictures be read on light and dark paper: no background, and letters between both.

    What is written into pictures stays as it is.
    """
    figure.patch.set_alpha(0)
    for axes in figure.axes:
        beside = [] if axes.images else [text for text in axes.texts if to_hex(text.get_color()) == INK]
        legend = axes.get_legend()
        of_legend = legend.get_texts() if legend else []
        for text in (axes.title, axes.xaxis.label, axes.yaxis.label, *beside, *of_legend):
            text.set_color(EITHER)
        axes.tick_params(which="both", color=EITHER, labelcolor=EITHER)
        axes.patch.set_alpha(0)
        for spine in axes.spines.values():
            spine.set_color(EITHER)
    if title := figure.get_suptitle():
        figure.suptitle(title, color=EITHER)


def as_svg(figure: Figure) -> bytes | None:
    """Return a figure of lines and letters as SVG that follows the colours of the system, light or dark.

    Returns:
        UTF-8; None of a figure that holds pictures, or more points than are worth their bytes.
    """
    points = sum(len(np.atleast_1d(line.get_xdata())) for axes in figure.axes for line in axes.lines)
    if holds_pictures(figure) or points > MOST_POINTS:
        return None
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "rdfia"}):  # the same bytes each time
        figure.savefig(
            buffer, format="svg", bbox_inches=written_part(figure), metadata={"Date": None, "Creator": None}
        )
    text = buffer.getvalue()
    names = {light: f"--c{light[1:]}" for light in DARK}
    for light, name in names.items():
        text = text.replace(light, f"var({name})")
    light_rules = "".join(f"{name}:{light};" for light, name in names.items())
    dark_rules = "".join(f"{names[light]}:{dark};" for light, dark in DARK.items())
    # Letters that are black are those whose colour is not said.
    rules = (
        f"svg{{{light_rules}fill:var({names[INK]})}}@media(prefers-color-scheme:dark){{svg{{{dark_rules}}}}}"
    )
    return text.replace("</style>", f"{rules}</style>", 1).encode()


def colour(number: int) -> str:
    """Return the colour of the line or bar of a number; after eight they come again."""
    return PALETTE[number % len(PALETTE)]


def shape(number: int) -> str:
    """Return the shape of the points of a number, another one whenever colours come again."""
    return "osD^v"[number // len(PALETTE) % 5]


def dashes(number: int) -> str:
    """Return the dashes of the line of a number, others whenever colours come again."""
    return ("-", "--", "-.", ":")[number // len(PALETTE) % 4]


def short(value: float, digits: int = 3) -> str:
    """Return a number as people say it: 138 M, 27.4 k, 0.912; large ones with so many digits that count."""
    for least, unit, letter in LARGE:
        if abs(value) >= least:
            return f"{value / unit:.{digits}g} {letter}"
    return f"{value:,.0f}" if abs(value) >= 100 or value == round(value) else f"{value:.3g}"


def readable(axis: Axis) -> None:
    """Write an axis's large numbers as 5 M, without an exponent in a corner, and no two ticks alike."""

    def text(value: float, _: object) -> str:
        if abs(value) < 1e4:
            return f"{value:g}"
        low, high = sorted(axis.get_view_interval())
        between = max((high - low) / 10, 1e-9 * abs(value))  # of ticks, at least
        return short(value, max(3, math.ceil(math.log10(abs(value) / between)) + 1))

    axis.set_major_formatter(FuncFormatter(text))


def label_axis(axis: Axis, measure: str) -> None:
    """Name an axis, and say which way is better."""
    better = getattr(measure, "better", "")
    axis.set_label_text(f"{measure} ({better} is better)" if better else str(measure))


def is_share(measure: str) -> bool:
    """Return whether a label is that of a share."""
    return getattr(measure, "share", False)


def end_at_one(axes: Axes, which: Literal["x", "y"]) -> None:
    """Let an axis of shares have no tick above 1, and nothing but the room for numbers."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    low, high = axis.get_view_interval()
    end = min(high, 1.0)  # a tick beyond the view would widen it
    axis.set_ticks([tick for tick in axis.get_ticklocs() if low <= tick <= end + 1e-9])
    axes.spines["bottom" if which == "x" else "left"].set_bounds(low, end)


def leave_the_beginning(axes: Axes, lines: Sequence[Sequence[float]]) -> None:
    """Cut off first values that would flatten all that follows, and say so: a first loss of 18."""
    values = np.concatenate([np.asarray(line, float) for line in lines]) if lines else np.zeros(0)
    values = values[np.isfinite(values)]
    if len(values) < 4 or values.min() < 0:
        return
    later = np.concatenate([np.asarray(line[max(1, len(line) // 20) :], float) for line in lines])
    usual, most = later[np.isfinite(later)].max(initial=0.0), values.max()
    if most > 4 * usual > 0:
        axes.set_ylim(values.min() - 0.06 * usual, 1.3 * usual)
        text = f"at first up to {short(float(most))}"
        axes.annotate(text, (0.01, 0.98), xycoords="axes fraction", va="top", fontsize=8, color=EITHER)


def name_lines(axes: Axes, ends: Mapping[str, tuple[float, str]]) -> None:
    """Write the names of lines at their ends, apart from each other; more than a few into a legend beside.

    Args:
        axes: That hold the lines.
        ends: By name the last value and the colour.
    """
    if not any(ends):
        return  # a line without a name says what its axis says
    if len(ends) > MOST_LABELS or not all(np.isfinite(y) for y, _ in ends.values()):
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return
    low, high = axes.get_ylim()
    logarithmic = axes.get_yscale() == "log"
    place: Callable[[Any], Any] = np.log if logarithmic else np.asarray
    low, high = float(place(low)), float(place(high))
    order = sorted(ends, key=lambda name: ends[name][0])
    heights = [float(np.clip((place(ends[name][0]) - low) / (high - low or 1.0), 0, 1)) for name in order]
    for number in range(1, len(heights)):  # upwards, and then back into the panel
        heights[number] = max(heights[number], heights[number - 1] + APART)
    over = heights[-1] - 1.0
    if over > 0:
        heights[-1] = 1.0
        for number in range(len(heights) - 2, -1, -1):
            heights[number] = min(heights[number], heights[number + 1] - APART)
    for name, height in zip(order, heights, strict=True):
        axes.annotate(
            name,
            (1.0, height),
            (4, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            color=ends[name][1],
            va="center",
            fontsize=9,
        )
