"""Run what is missing of the papers' experiments, then draw every figure and write the report.

python scripts/reproduce_figures.py --protocol quick --dataset all
python scripts/reproduce_figures.py --dataset utkface --path UTKFace.tar.gz --set data.size=64
"""

import time
from dataclasses import replace
from pathlib import Path

import torch

from nrc.cli import config, console
from nrc.data.reading import existing, expanded
from nrc.errors import UserError
from nrc.experiments import experiments
from nrc.places import PROTOCOLS
from nrc.runs import archive
from nrc.training.members import Member, stackable
from nrc.training.pool import run_all
from nrc.training.stopping import Interrupted, stop_signals

IMAGES = "images"  # the experiment whose data sets are images
FIRST = "prevalence_relu"  # the picture that its runs are made first for: figure 2 of the NeurIPS 2024 paper


def datasets() -> dict[str, list[str]]:
    """What --dataset may be: a data set or a group -> the data sets it covers."""
    declared = experiments()
    everything = list(dict.fromkeys(data for found in declared.values() for data in found["datasets"]))
    images = declared[IMAGES]["datasets"]
    with_file = [data for found in declared.values() if found.get("needs_path") for data in found["datasets"]]
    tables = [data for data in everything if data not in images + with_file]
    return {"all": everything, "tables": tables, "images": images} | {data: [data] for data in everything}


def chosen(dataset: str, protocol: str, *, with_file: bool = False) -> list[tuple[str, str]]:
    """The experiments of a protocol, each with a data set that --dataset covers.

    Args:
        dataset: a data set or a group.
        protocol: quick, accelerated or paper.
        with_file: also those that need a file of the user.
    """
    covered = datasets()[dataset]
    return [
        (name, data)
        for name, declared in experiments().items()
        if protocol in declared["protocols"] and (with_file or not declared.get("needs_path"))
        for data in declared["datasets"]
        if data in covered
    ]


def parts(members: list[Member], device: str) -> dict[str, list[Member]]:
    """Device -> the runs for it.

    One by one an MLP is no faster on a GPU than on a core, and stacked it takes a path that has not been run on
    a GPU yet: on `auto` the figures' MLPs train where that is proven. device=cuda is for who wants the other.
    """
    if device != "auto" or not torch.cuda.is_available():
        return {device: members}
    small = [member for member in members if stackable(member.settings)]
    return {"cpu": small, "cuda": [member for member in members if member not in small]}


def ranked(member: Member, experiment: str) -> Member:
    """When to run it: the runs of the first picture, then headlines and controls, then the sweeps between them."""
    first = FIRST in experiments()[experiment]["figures"]
    return replace(member, rank=0 if first else 1 + (member.settings.role == "sweep"))


def _real(path: str | None, settings: list[str], dataset: str) -> list[str]:
    """The settings of runs on a user's own images, checked now and not after other runs."""
    if path is None:
        if settings:
            raise UserError(f"--set {settings[0]} is for runs on real images; give --path as well")
        return []
    images = datasets()["images"]
    if dataset not in images:
        raise UserError(f"--path needs --dataset {', '.join(images)}, one of them")
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
    parser.add_argument("--protocol", default="quick", choices=PROTOCOLS)
    parser.add_argument("--dataset", default="all", choices=tuple(datasets()))
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
            "sgemm needs its file: --sgemm FILE, or make ... SGEMM=FILE (docs/sgemm.md says which)"
        )

    if archive.mark(args.outputs) is not None:
        raise UserError(
            f"{args.outputs} holds archived runs, which stay as they are; give --outputs another folder"
        )
    real = _real(args.path, args.settings, args.dataset)
    began = time.monotonic()
    path = (
        existing(args.sgemm, "--sgemm") if args.sgemm else None
    )  # now, and not after everything else has run
    left_out = [name for name, found in experiments().items() if args.protocol not in found["protocols"]]
    print(
        f"left out of protocol={args.protocol}, as their files in conf/experiment say: {', '.join(left_out)}"
    )
    members: dict[Path, Member] = {}
    groups: dict[str, list[Path]] = {}
    for experiment, data in chosen(args.dataset, args.protocol, with_file=path is not None):
        file = (
            [f"data.path={config.quoted(str(path))}"] if experiments()[experiment].get("needs_path") else []
        )
        found = config.sweep_members(experiment, data, args.protocol, args.outputs, file or real)
        groups.setdefault(experiment, []).extend(member.directory for member in found)
        members = {
            member.directory: ranked(member, experiment) for member in found
        } | members  # some are shared
    from nrc.cli.background import Background, Group

    drawn_in = {name: tuple(found["figures"]) for name, found in experiments().items()}
    background = Background(
        args.outputs, args.protocol, [Group(drawn_in[e], frozenset(runs)) for e, runs in groups.items()]
    )
    outcomes: dict[Path, str] = {}
    try:
        with stop_signals():  # asked once, neither part goes on
            for device, part in parts(list(members.values()), args.device).items():
                outcomes |= run_all(part, workers=args.workers, device=device, watch=background.watch)
    finally:
        background.close()
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

    for path, unchanged in draw_all(args.outputs, args.protocol):
        print(f"{path} (unchanged)" if unchanged else path)
    write_report(args.outputs, args.protocol)
    print(f"done in {(time.monotonic() - began) / 60:.1f} min")
    if failed:
        raise UserError(f"{len(failed)} of {len(outcomes)} runs did not finish: {'; '.join(failed[:5])}")


command = console.command(main)
