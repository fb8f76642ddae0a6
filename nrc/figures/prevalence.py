"""Figure 2 of NeurIPS 2024: NRC1-3 above, errors and R^2 below, one column per data set."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from nrc.figures import curves, reference, selection, style
from nrc.figures.curves import Drawing, TauAxis
from nrc.figures.registry import figure
from nrc.figures.style import C0, C1, C2, CONTROL, key
from nrc.runs.read import Run, Runs

ROWS = [("collapse", "", ""), ("errors", "", "")]
RIGHT: dict[str, Any] = {"color": C1, "lw": 1.1, "ls": "-."}
CENTRED: dict[str, Any] = {"color": C2, "lw": 1.1, "ls": ":"}
THIN: dict[str, Any] = {"color": style.PUBLISHED, "lw": 0.6}


@figure(
    "prevalence",
    paper="NeurIPS 2024",
    numbers=(2,),
    reads=selection.EXPERIMENTS,
    caption="NRC1-3 and errors at the headline weight decay, and NRC1 of the control without weight decay; each seed "
    "thin, the mean thick, tau = 0 at the left edge. Thin grey: published curves of an earlier generation of the paper's "
    "runs, one seed, NRC1 and NRC2 there of raw features; the arrows at the right edge are where they end later (NRC2 hollow, NRC3 orange); their "
    "weight decay and budget stand in the title. ResNets are measured with BatchNorm's running statistics, which lag "
    "behind while the learning rate is high.",
)
def prevalence(runs: Runs) -> Iterator[Drawing]:
    """NRC1 to NRC3, errors and R² against tau, with the published curves in grey."""
    for kind, words, mains in selection.headlines(runs):
        controls = {data: runs.control(selection.KINDS[kind][0], data) for data in mains}
        yield _one(kind, words, mains, controls)


def _one(kind: str, words: str, mains: Mapping[str, list[Run]], controls: Mapping[str, list[Run]]) -> Drawing:
    title = f"Prevalence of neural regression collapse, {words}"
    drawing = Drawing(f"prevalence_{kind}", title, 2, len(mains), 3.9)
    rights: dict[str, Axes] = {}

    def panel(axes: Axes, tau: TauAxis, groups: Any, row: curves.Row) -> None:
        main, control, published = groups["main"], groups["control"], kind in selection.LAYERS
        axes.set_yscale("log")
        axes.tick_params(axis="y", colors=C0, which="both")
        if row[0] == "errors":
            rights["test R²"] = _errors(drawing, axes, tau, main, published)
            return
        if control:
            drawing.curve(axes, tau, control, "nrc1", series="control", color=CONTROL, lw=1.0)
        drawing.curve(axes, tau, main, "nrc1", series="headline", color=C0)
        drawing.curve(axes, tau, main, "nrc2", series="headline", color=C0, ls="--")
        if kind != "linear":
            drawing.curve(axes, tau, main, "nrc1_centred", series="headline", **CENTRED)
        if published:
            _published(drawing, axes, tau, main[0], "nrc1_raw", "-")
            _published(drawing, axes, tau, main[0], "nrc2_raw", "--")
        curves.log_axis(axes, top=1.0)
        if selection.targets(main[0]) > 1:
            rights["NRC3 at its best γ"] = right = curves.twin(axes, C1)
            right.set_yscale("log")
            drawing.curve(right, tau, main, "nrc3", series="headline", **RIGHT)
            if published:
                _published(drawing, right, tau, main[0], "nrc3", "-.")
            curves.log_axis(right)

    columns = {data: {"main": main, "control": controls[data]} for data, main in mains.items()}
    drawing.curves(columns, ROWS, panel, lambda data, used: _title(data, mains[data], kind))
    for axes, label in zip(drawing.grid[:, 0], ("NRC1, NRC2", "MSE"), strict=True):
        axes.set_ylabel(label, color=C0)
    for label, axes in rights.items():  # the last column's
        axes.set_ylabel(label, color=C1)
    drawing.legend(_key(drawing, kind), 3 if len(columns) > 1 else 2)
    return drawing


def _errors(drawing: Drawing, axes: Axes, tau: TauAxis, main: Sequence[Run], published: bool) -> Axes:
    for split, line in (("train", "-"), ("test", "--")):
        if published and reference.same_units(main[0], "prevalence"):
            _published(drawing, axes, tau, main[0], f"mse_{split}", line)
        drawing.curve(axes, tau, main, "mse", split, color=C0, ls=line)
    curves.log_axis(axes)
    right = curves.twin(axes, C1)
    drawing.curve(right, tau, main, "r2", "test", **RIGHT)
    right.set_ylim(max(min(0.0, right.get_ylim()[0]), -1.0), 1)  # a bad start must not hide the rest
    return right


def _published(drawing: Drawing, axes: Axes, tau: TauAxis, run: Run, metric: str, line: str) -> None:
    """The published curve as far as ours goes; where it goes on, its end at the right edge."""
    theirs = reference.curve("prevalence_published", run.data, metric)
    if not len(theirs):
        return
    labels = {"data": run.data, "metric": metric, "weight_decay": float(theirs["weight_decay"].iloc[0])}
    here, end = theirs[theirs["tau"].between(tau.zero, tau.end)], theirs.iloc[-1:]
    drawing.line(axes, here["tau"], here["value"], labels | {"series": "published"}, ls=line, **THIN)
    if float(end["tau"].iloc[0]) > tau.end:
        faces = {"-": style.PUBLISHED, "--": "white", "-.": C1}
        arrow = {
            "marker": "<",
            "ms": 3,
            "clip_on": False,
            "color": style.PUBLISHED,
            "mfc": faces[line],
            "ls": "",
        }
        drawing.line(
            axes, end["tau"], end["value"], labels | {"series": "published end"}, [1.2 * tau.end], **arrow
        )


def _title(data: str, main: Sequence[Run], kind: str) -> str:
    """The runs; where the targets lie, if the record says so; what was published."""
    lines, facts = [style.column_title(data, main)], main[0].info["data"]
    if "one_sided" in facts:
        side = "one-sided" if facts["one_sided"] else "two-sided"
        mean = facts["mean_in_deviations"]
        lines.append(f"{side} targets, mean {mean if mean > 1e-6 else 0:.2g} dev.")
    theirs = reference.curve("prevalence_published", data, "nrc1_raw")
    if len(theirs) and kind in selection.LAYERS:
        decay = float(theirs["weight_decay"].iloc[0])
        lines.append(f"published λ = {style.scientific(decay)},  λτ = {decay * theirs['tau'].max():.3g}")
    return "\n".join(lines)


def _key(drawing: Drawing, kind: str) -> list[Line2D]:
    entries = [
        key("NRC1; train MSE", color=C0),
        key("NRC2; test MSE", color=C0, ls="--"),
        key("NRC3; test R² (right)", **RIGHT),
        key("NRC1 of the control (λ = 0)", color=CONTROL, lw=1.0),
    ]
    if kind != "linear":
        entries.append(key("NRC1, features centred first", **CENTRED))
    if "published" in set(drawing.table["series"]):
        entries.append(key("published, same lines", **THIN))
    if "published end" in set(drawing.table["series"]):
        entries.append(key("published end value", color=style.PUBLISHED, marker="<", ms=3, ls=""))
    return entries
