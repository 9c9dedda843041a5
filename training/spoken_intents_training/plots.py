"""Pictures of an evaluation and of a training, in one style. Importing this loads matplotlib, which takes seconds.

Figures are made without pyplot, so nothing here depends on global state, a display or a thread.
"""

import io
import warnings
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from spoken_intents.errors import DataError
from spoken_intents_training.metrics import HISTOGRAM_BINS, wilson_interval

# Of the palette of Okabe and Ito (2008), which colour-blind people can tell apart.
RIGHT, WRONG, OTHER = "#0072B2", "#D55E00", "#009E73"
AREA = "#8CBFDD"  # `RIGHT`, lighter: for what is filled
INK, FAINT, PAPER = "#24292F", "#D0D7DE", "#FFFFFF"
DPI = 120
LONGEST_NAME = 26  # letters of an intent's name that are shown


def evaluation_plots(figures: Mapping[str, Any]) -> Dict[str, Figure]:
    """Every picture that `Evaluation.as_json` has figures for, by a name fit for a file."""
    drawn = {"confusion": confusion_matrix(figures["confusion"]), "intents": intent_bars(figures["intents"])}
    if figures["calibration"]:
        drawn["reliability"] = reliability(figures["calibration"], figures["suggested_threshold"])
    if figures["conditions"]:
        drawn["conditions"] = conditions_curve(figures["conditions"])
    return drawn


def png(figure: Figure) -> bytes:
    """The figure as a PNG file's bytes."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        # Of names in a script that the font lacks or matplotlib cannot join; tables show them.
        warnings.filterwarnings("ignore", "Glyph .* missing|Matplotlib currently does not support")
        FigureCanvasAgg(figure).print_png(file)
    return file.getvalue()


def confusion_matrix(confusion: Mapping[str, Any]) -> Figure:
    """What was said (rows) by what was heard (columns): clips, shaded by their share of the row."""
    matrix = np.array(confusion["matrix"])
    rows, columns = matrix.shape
    cell = float(np.clip(14 / columns, 0.3, 0.6))  # inches
    names = 0.085 * min(LONGEST_NAME, max(map(len, [*confusion["said"], *confusion["heard"]]))) + 0.75
    figure, (axes,) = _figure(max(4.5, columns * cell + names + 0.3), max(3.2, rows * cell + names + 0.6))
    shares = matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
    diagonal = np.eye(rows, columns, dtype=bool)
    edges = np.arange(columns + 1) - 0.5, np.arange(rows + 1) - 0.5
    for hue, part in ((RIGHT, diagonal), (WRONG, ~diagonal)):
        shade = LinearSegmentedColormap.from_list("shade", [PAPER, hue])
        # A floor under the shade: a single slip in a large row shall be seen.
        shown = np.ma.masked_where(~part, np.where(matrix > 0, 0.12 + 0.88 * shares, 0))
        axes.pcolormesh(*edges, shown, cmap=shade, vmin=0, vmax=1, edgecolors=FAINT, linewidth=0.5)
    size = float(np.clip(cell * 19, 7, 9))
    for row, column in zip(*np.nonzero(matrix)):
        colour = PAPER if shares[row, column] > 0.5 else INK
        axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=colour, fontsize=size)
    axes.set_xticks(range(columns), [_plain(name) for name in confusion["heard"]], rotation=90, fontsize=size)
    axes.set_yticks(range(rows), [_plain(name) for name in confusion["said"]], fontsize=size)
    axes.grid(False)
    for side in ("right", "bottom"):  # where the last cells' edges are cut off
        axes.spines[side].set(visible=True, color=FAINT)
    axes.axvline(columns - 1.5, color=INK, linewidth=1)  # what comes behind is no intent
    axes.set(xlim=edges[0][[0, -1]], ylim=edges[1][[-1, 0]], xlabel="heard", ylabel="said")
    _title(axes, "Said and heard, in clips")
    return figure


def intent_bars(by_intent: Mapping[str, Mapping[str, Any]]) -> Figure:
    """F1 of every intent that was said, the worst on top, and recall with its 95 % interval."""
    rows = sorted(((name, row) for name, row in by_intent.items() if row["n"]), key=lambda item: (item[1]["f1"], item[0]))
    places = np.arange(len(rows))
    figure, (axes,) = _figure(7.5, max(2.4, 0.27 * len(rows) + 1.3))
    axes.barh(places, [row["f1"] for _, row in rows], height=0.62, color=AREA, label="F1")
    recalls = np.array([row["recall"] for _, row in rows])
    _whiskers(axes, recalls, [row["recall_95"] for _, row in rows], places, INK, "recall, 95 % interval", upright=False)
    axes.set_yticks(places, [f"{_plain(name)}  ({row['n']})" for name, row in rows])
    axes.set(xlim=(0, 1.02), ylim=(len(rows) - 0.4, -0.6))
    _title(axes, "By intent (clips)")
    axes.grid(axis="y", visible=False)
    _percent(axes.xaxis)
    _legend(axes, beside_title=True)
    return figure


def reliability(calibration: Mapping[str, Any], threshold: Optional[float] = None) -> Figure:
    """Accuracy by confidence, in bins of equally many clips, and how often each confidence was given."""
    figure, (axes, counts) = _figure(6, 6, rows=(3, 1))
    bins = calibration["bins"]
    sure, right = (np.array([one[name] for one in bins]) for name in ("confidence", "accuracy"))
    intervals = [wilson_interval(round(one["accuracy"] * one["n"]), one["n"]) for one in bins]
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle="--", label="perfectly calibrated")
    _whiskers(axes, right, intervals, sure, RIGHT, "accuracy, 95 % interval")
    low, high = calibration["error_95"]
    error = f"Expected calibration error {calibration['error']:.1%} (95 % interval {low:.1%} to {high:.1%})"
    axes.set(xlim=(0, 1.02), ylim=(-0.02, 1.04), ylabel="accuracy")
    _title(axes, error)
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    counts.bar(edges[:-1], calibration["histogram"], width=1 / HISTOGRAM_BINS, align="edge", color=AREA)
    counts.set(xlim=(0, 1.02), xlabel="confidence", ylabel="clips")
    for part in (axes, counts) if threshold is not None else ():
        part.axvline(threshold, color=WRONG, linewidth=1.3, label=f"suggested threshold {threshold:.2f}")
    _percent(axes.xaxis, axes.yaxis, counts.xaxis)
    _legend(axes)
    figure.align_ylabels()
    return figure


def recall_changes(by_intent: Mapping[str, Mapping[str, Any]]) -> Figure:
    """The share of each intent's clips that was heard right, before and after, in the given order."""
    rows = list(by_intent.items())
    places = np.arange(len(rows))
    figure, (axes,) = _figure(7.5, max(2.4, 0.27 * len(rows) + 1.3))
    before, after = (np.array([row[name] / row["n"] for _, row in rows]) for name in ("old", "new"))
    axes.hlines(places, before, after, color=[RIGHT if now >= then else WRONG for then, now in zip(before, after)], linewidth=2.5)
    axes.plot(before, places, "o", color=INK, markerfacecolor=PAPER, markersize=6.5, label="OLD")
    axes.plot(after, places, "o", color=INK, markersize=4.5, label="NEW")
    axes.set_yticks(places, [f"{_plain(name)}  ({row['n']})" for name, row in rows])
    axes.set(xlim=(-0.02, 1.03), ylim=(len(rows) - 0.4, -0.6))
    _title(axes, "Heard right, by intent (clips)")
    axes.grid(axis="y", visible=False)
    _percent(axes.xaxis)
    _legend(axes, beside_title=True)
    return figure


def conditions_curve(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Accuracy of the clips as they are, with ever more noise, and over the telephone."""
    figure, (axes,) = _figure(7, 4.2)
    places = np.arange(len(rows))
    accuracy = np.array([row["accuracy"] for row in rows])
    noisy = np.array([row["snr_db"] is not None for row in rows])
    line = np.flatnonzero(noisy | (places == 0))
    axes.plot(line, accuracy[line], color=RIGHT, linewidth=1.5)
    source = next((row["noise"] for row in rows if row["noise"]), "noise")
    for part, hue, name in (
        (line, RIGHT, f"{source}, 95 % interval"),
        (np.setdiff1d(places, line), OTHER, "telephone band, µ-law"),
    ):
        if len(part):
            _whiskers(axes, accuracy[part], [rows[i]["accuracy_95"] for i in part], places[part], hue, name)
    axes.set_xticks(places, [row["condition"] for row in rows])
    axes.set(ylim=(0, 1.03), xlim=(-0.5, len(rows) - 0.5), ylabel="accuracy", xlabel="speech above noise")
    _title(axes, f"In noise and over the telephone ({rows[0]['n']} clips)")
    axes.grid(axis="x", visible=False)
    _percent(axes.yaxis)
    _legend(axes)
    return figure


def training_curves(log: Sequence[Mapping[str, Any]]) -> Figure:
    """Loss and learning rate over a training.

    Args:
        log: Entries with epoch (or step), and any of loss and learning_rate.

    Raises:
        DataError: There is nothing of that in the log.
    """
    panels = [(key, name) for key, name in _PANELS if any(entry.get(key) is not None for entry in log)]
    if not panels:
        raise DataError(f"The log of the training has none of {', '.join(key for key, _ in _PANELS)}.")
    over = "epoch" if all("epoch" in entry for entry in log) else "step"
    figure, parts = _figure(7.5, 1.2 + 2.1 * len(panels), rows=(1,) * len(panels))
    for axes, (key, name) in zip(parts, panels):
        known = [entry for entry in log if entry.get(key) is not None]
        x, y = (np.array([entry[of] for entry in known], dtype=float) for of in (over, key))
        window = max(1, len(y) // 40)
        many = window > 1 and key == "loss"
        axes.plot(x, y, color=RIGHT, linewidth=1.5, alpha=0.3 if many else 1, marker="o" if len(y) <= 30 else "", markersize=4)
        if many:  # losses of single batches jump
            smooth = np.convolve(y, np.ones(window) / window, "valid")
            axes.plot(x[window - 1 :], smooth, color=RIGHT, linewidth=1.8)
        axes.set(ylabel=name)
        axes.set_ylim(bottom=0)
        axes.ticklabel_format(axis="y", scilimits=(-2, 4))
    _title(parts[0], "Training")
    parts[-1].set_xlabel(over)
    figure.align_ylabels()
    return figure


_PANELS = (("loss", "loss"), ("learning_rate", "learning rate"))


def _figure(width: float, height: float, rows: Tuple[int, ...] = (1,)) -> Tuple[Figure, List[Axes]]:
    """A figure of that many inches, and its axes one below the other, of heights in proportion to `rows`."""
    figure = Figure((width, height), dpi=DPI, facecolor=PAPER, constrained_layout={"w_pad": 0.08, "h_pad": 0.08})
    shapes = figure.subplots(len(rows), 1, squeeze=False, sharex=True, gridspec_kw={"height_ratios": rows})
    for axes in shapes[:, 0]:
        axes.set_facecolor(PAPER)
        axes.set_axisbelow(True)
        axes.grid(color=FAINT, linewidth=0.6)
        axes.tick_params(colors=INK, labelsize=9, length=0)
        for side in ("top", "right", "left", "bottom"):
            axes.spines[side].set_visible(False)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set(color=INK, fontsize=9.5)
    return figure, list(shapes[:, 0])


def _whiskers(
    axes: Axes, shares: np.ndarray, intervals: Sequence[Sequence[float]], places: np.ndarray, colour: str, name: str, upright: bool = True
) -> None:  # fmt: skip
    low, high = np.array(intervals).T
    lengths = np.maximum(0, [shares - low, high - shares])
    x, y, error = (places, shares, {"yerr": lengths}) if upright else (shares, places, {"xerr": lengths})
    axes.errorbar(x, y, **error, fmt="o", color=colour, markersize=4.5, elinewidth=1.2, capsize=2.5, label=name)


def _percent(*axes: Any) -> None:
    for axis in axes:
        axis.set_major_formatter(PercentFormatter(1.0))


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", color=INK, fontsize=10.5)


def _legend(axes: Axes, beside_title: bool = False) -> None:
    where = {"loc": "lower right", "bbox_to_anchor": (1.01, 1), "ncol": 2, "borderaxespad": 0.1} if beside_title else {}
    axes.legend(fontsize=8.5, frameon=not beside_title, edgecolor=FAINT, labelcolor=INK, **where)


def _plain(name: str) -> str:
    """A name as it is drawn: not as a formula, and not longer than fits."""
    shown = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
    return shown.replace("$", r"\$")
