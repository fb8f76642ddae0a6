"""Our raw-feature collapse beside the published numbers of the paper's earlier runs, which used raw features."""

from matplotlib.lines import Line2D

from nrc.figures._curves import Sheet, TauAxis, draw_runs, log_axis
from nrc.figures._reference import curve, on_which_data
from nrc.figures._style import (
    C0,
    C1,
    PUBLISHED,
    Drawing,
    footer,
    legend_below,
    new_figure,
    number,
    panels_width,
    pretty,
    scientific,
)
from nrc.figures.prevalence import LAYERS, ends
from nrc.runs.read import Run, Runs

ROWS = [("nrc1_raw", "NRC1, raw features"), ("nrc2_raw", "NRC2, raw features"), ("nrc3", "NRC3")]
COLOURS = {"relu": C0, "linear": C1}


def draw(runs: Runs) -> list[Drawing]:
    """`published`: where numbers were published, ours beside them on the same tau axis."""
    columns: dict[str, dict[str, list[Run]]] = {}
    for kind, (experiment, _) in LAYERS.items():
        for data in runs.of(experiment):
            main = runs.headline(experiment, data)
            if main and len(curve("prevalence_published", data, "nrc1_raw")):
                columns.setdefault(data, {})[kind] = main
    if not columns:
        return []
    figure = new_figure(panels_width(len(columns)), 4.6)
    grid = figure.subplots(len(ROWS), len(columns), squeeze=False, sharex="col")
    sheet, used, said = Sheet(), [], []
    for column, (data, kinds) in enumerate(columns.items()):
        everything = [run for main in kinds.values() for run in main]
        used += everything
        tau = TauAxis(everything)
        for row, (metric, label) in enumerate(ROWS):
            panel = grid[row, column]
            panel.set_yscale("log")
            reference = curve("prevalence_published", data, metric)
            labels = {"data": data, "metric": metric, "series": "published"}
            labels["weight_decay"] = reference["weight_decay"].iloc[0]
            sheet.line(panel, reference["tau"], reference["value"], labels, color=PUBLISHED, lw=0.8)
            for kind, main in kinds.items():
                draw_runs(sheet, panel, tau, main, metric, colour=COLOURS[kind], series=kind)
            log_axis(panel)
            if column == 0:
                panel.set_ylabel(label)
        reference = curve("prevalence_published", data, "nrc1_raw")
        tau.end = max(tau.end, float(reference["tau"].max()))
        tau.dress(grid[-1, column])
        lam = float(reference["weight_decay"].iloc[0])
        budget = lam * reference["tau"].max()
        grid[0, column].set_title(
            f"{pretty(data)}\npublished λ = {scientific(lam)},  λτ = {budget:.3g}", fontsize=7
        )
        ours = ", ".join(
            f"{kind} (lambda {main[0].weight_decay:g}, budget {main[0].budget:.3g}) {number(ends(main, 'nrc1_raw'))}"
            for kind, main in kinds.items()
        )
        said.append(
            f"{pretty(data)}: raw NRC1 ends at {ours}; published (lambda {lam:g}, budget {budget:.3g}) "
            f"{number(reference['value'].iloc[-1])}"
        )
    handles = [
        Line2D([], [], color=COLOURS[k], label=f"ours, {LAYERS[k][1]}")
        for k in LAYERS
        if any(k in c for c in columns.values())
    ]
    handles.append(Line2D([], [], color=PUBLISHED, lw=0.8, label="published, one seed"))
    legend_below(figure, handles, 1 if len(columns) == 1 else 3)
    footer(figure, used, features=False)
    caption = (
        "Grey: an earlier generation of the paper's runs, the only ones known as numbers. Same quantities and tau axis, "
        f"on {on_which_data(used)}; its network is the 3x256 one, for Hopper probably with a linear feature layer. "
        + "; ".join(said)
        + "."
    )
    return [Drawing("published", "Beside the published numbers", caption, figure, sheet.table(), used)]
