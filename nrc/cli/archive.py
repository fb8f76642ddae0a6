"""Draw every figure and write the report from the archived runs that travel with the project; nothing is trained.

python scripts/archive.py
python scripts/archive.py --pack        (maintainers: write the archive from the runs in outputs)
"""

import time
from pathlib import Path

from nrc.cli import console
from nrc.figures import draw_all
from nrc.places import PROTOCOLS
from nrc.report.html import write_report
from nrc.runs.archive import HOME, pack, unpacked


def main() -> None:
    """Parse the options, then pack, or unpack and draw."""
    parser = console.Options(description=__doc__.splitlines()[0])
    parser.add_argument("--protocol", default="quick", choices=PROTOCOLS)
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder of the runs")
    parser.add_argument(
        "--home", type=Path, default=HOME, help="folder of the archive (default: data/archive)"
    )
    parser.add_argument("--pack", action="store_true", help="write the archive and its manifest")
    parser.add_argument(
        "--processor", default="", help="with --pack: on what kind of processor the runs were made"
    )
    args = parser.parse_args()
    if args.pack:
        console.existing_folder(args.outputs)
        made = pack(args.outputs, args.protocol, args.home, processor=args.processor)
        print(f"{args.home / args.protocol}.tar.xz: {made['runs']} runs, {made['bytes'] / 1e6:.1f} MB")
        return
    began = time.monotonic()
    place = unpacked(args.outputs / "archive", args.protocol, args.home)
    for path, unchanged in draw_all(place, args.protocol):
        print(f"{path} (unchanged)" if unchanged else path)
    report = write_report(place, args.protocol)[0]
    print(f"done in {time.monotonic() - began:.0f} s, from archived runs, not your own: {report}")


command = console.command(main)
