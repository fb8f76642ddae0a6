"""Run what is missing of the papers' experiments, then draw every figure and write the report.

python scripts/reproduce_figures.py --protocol quick --dataset all
python scripts/reproduce_figures.py --dataset utkface --path UTKFace.tar.gz --set data.size=64
"""

import time
from pathlib import Path

import torch

from nrc.cli import config, console
from nrc.data.reading import existing, expanded
from nrc.errors import UserError
from nrc.training.members import Member, stackable
from nrc.training.pool import run_all
from nrc.training.stopping import Interrupted, stop_signals

MUJOCO = ("reacher", "swimmer", "hopper")
# experiment file, data set it is run on
EXPERIMENTS = [
    *[("prevalence", data) for data in MUJOCO],
    *[("sweep", data) for data in MUJOCO],
    *[("prevalence_linear", data) for data in MUJOCO],
    *[("phase", data) for data in MUJOCO],
    *[("phase_linear", data) for data in MUJOCO],
    *[("target_mean", data) for data in MUJOCO],
    *[("tau_clock", data) for data in MUJOCO],
    *[(f"deep_{data}", data) for data in MUJOCO],
    ("low_rank", "low_rank"),
    *[("ufm", data) for data in MUJOCO],
    ("animation", "swimmer"),
]
# the image sets, on drawn stand-ins unless --path gives a real one; all layers are measured
IMAGES = [("images", data) for data in ("carla_2d", "carla_1d", "utkface")]
EXPERIMENTS += IMAGES
# the CPAL 2026 paper's own image recipes take a GPU: a quick run would stop at a small part of their decay budget
LONG_IMAGES = [("deep_carla_2d", "carla_2d"), ("deep_utkface", "utkface")]
# one weight decay each, longer than the quick grid goes; the other protocols' grids reach the first, and half of the other
QUICK_ONLY = [("phase_small", "swimmer"), ("phase_long", "reacher")]
# run only when the user has the file, which may not be shipped
NEEDS_FILE = [("sgemm", "sgemm"), ("sgemm_decay", "sgemm")]
IMAGE_SETS = tuple(data for _, data in IMAGES)
GROUPS = {"tables": (*MUJOCO, "low_rank"), "images": IMAGE_SETS}
DATASETS = (*MUJOCO, "low_rank", "sgemm", *IMAGE_SETS, *GROUPS)


def wanted(dataset: str, data: str) -> bool:
    """Whether --dataset covers this data set (or a variant of it, named after a dash): all, a group, or itself."""
    return dataset == "all" or data.partition("-")[0] in GROUPS.get(dataset, (dataset,))


def without_phase(protocol: str, experiments: list[tuple[str, str]]) -> tuple[list[tuple[str, str]], str]:
    """The experiments of a protocol, and why some are left out."""
    if protocol != "paper":
        return experiments, ""
    words = (
        "phase diagram: left out of protocol=paper, whose rate makes its grid some 400 runs of millions of steps; "
        "protocol=accelerated has it, at the same tau"
    )
    return [(name, data) for name, data in experiments if not name.startswith("phase")], words


def parts(members: list[Member], device: str) -> dict[str, list[Member]]:
    """Device -> the runs for it.

    One by one an MLP is no faster on a GPU than on a core, and stacked it takes a path that has not been run on
    a GPU yet: on `auto` the figures' MLPs train where that is proven. device=cuda is for who wants the other.
    """
    if device != "auto" or not torch.cuda.is_available():
        return {device: members}
    small = [member for member in members if stackable(member.settings)]
    return {"cpu": small, "cuda": [member for member in members if member not in small]}


def _real(path: str | None, settings: list[str], dataset: str) -> list[str]:
    """The settings of runs on a user's own images, checked now and not after other runs."""
    if path is None:
        if settings:
            raise UserError(f"--set {settings[0]} is for runs on real images; give --path as well")
        return []
    if dataset not in IMAGE_SETS:
        raise UserError(f"--path needs --dataset {', '.join(IMAGE_SETS)}, one of them")
    console.check_arguments(settings)
    for setting in settings:
        if "=" not in setting or setting.startswith("data.path="):
            raise UserError(f"--set {setting}: expected KEY=VALUE, e.g. data.size=64, beside --path")
    for part in [path] if expanded(path).exists() else path.split(","):
        if not expanded(part.strip()).exists():
            raise UserError(f"{part} does not exist; give --path an existing file or folder")
    return [f"data.path={config.quoted(path)}", *settings]


def main() -> None:
    parser = console.Options(description=__doc__.splitlines()[0])
    parser.add_argument("--protocol", default="quick", choices=("quick", "accelerated", "paper"))
    parser.add_argument("--dataset", default="all", choices=("all", *DATASETS))
    parser.add_argument(
        "--sgemm", metavar="FILE", help="sgemm_product.csv or .csv.gz of UCI: adds its figures"
    )
    parser.add_argument(
        "--path",
        metavar="FILE",
        help="real frames or faces for --dataset carla_2d, carla_1d or utkface, as data.path",
    )
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="settings",
        help="a setting of the runs on --path, e.g. data.size=64; may be given again for others",
    )  # fmt: skip
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    parser.add_argument(
        "--workers", type=console.at_least_one, default=None, help="processes (default: one per core or GPU)"
    )
    parser.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda"),
        help="auto: images on a GPU if there is one, MLPs on the cores; cuda: all there, MLPs as scripts/sweep.py trains them",
    )
    args = parser.parse_args()
    if args.dataset == "sgemm" and not args.sgemm:
        raise UserError(
            "sgemm needs its file: --sgemm FILE, or make ... SGEMM=FILE (README, 'Figures', says which)"
        )

    real = _real(args.path, args.settings, args.dataset)
    began = time.monotonic()
    experiments, left_out = without_phase(args.protocol, EXPERIMENTS)
    experiments = experiments + (LONG_IMAGES if args.protocol != "quick" else QUICK_ONLY)
    if left_out:
        print(left_out)
    chosen = [(experiment, data, real) for experiment, data in experiments]
    if args.sgemm:
        path = existing(args.sgemm, "--sgemm")  # now, and not after everything else has run
        chosen += [
            (experiment, data, [f"data.path={config.quoted(str(path))}"]) for experiment, data in NEEDS_FILE
        ]
    members = {
        member.directory: member  # experiments may share runs
        for experiment, data, extra in chosen
        if wanted(args.dataset, data)
        for member in config.sweep_members(experiment, data, args.protocol, args.outputs, extra)
    }
    outcomes: dict[Path, str] = {}
    with stop_signals(workers=True):  # asked once, neither part goes on
        for device, part in parts(list(members.values()), args.device).items():
            outcomes |= run_all(part, workers=args.workers, device=device)
    stopped = sum(o == "interrupted" for o in outcomes.values())
    if stopped:
        raise Interrupted(f"{stopped} of {len(outcomes)} runs are not done; the same command continues them")
    failed = [f"{d}: {o}" for d, o in outcomes.items() if o not in ("finished", "skipped")]
    new = sum(o == "finished" for o in outcomes.values())
    print(
        f"{new} runs finished, {len(outcomes) - new - len(failed)} were there already, {len(failed)} failed"
    )

    from nrc.figures import draw_all
    from nrc.report.html import write_report

    headline = config.headlines(experiments + NEEDS_FILE, args.protocol)
    for path in draw_all(args.outputs, args.protocol, headline=headline):
        print(path)
    write_report(args.outputs, args.protocol, headline=headline)
    print(f"done in {(time.monotonic() - began) / 60:.1f} min")
    if failed:
        raise UserError(f"{len(failed)} of {len(outcomes)} runs did not finish: {'; '.join(failed[:5])}")


def command() -> None:
    """The command line: mistakes end in one line."""
    with console.one_line_errors():
        main()


if __name__ == "__main__":
    command()
