"""Roll the committed expert policies out again, or choose them anew among trained candidates.

python scripts/make_expert_data.py                        # all three sets, from the committed policies
python scripts/make_expert_data.py swimmer --force        # one of them, replacing what is there
python scripts/make_expert_data.py swimmer --candidates FOLDER    # choose (nrc/experts/choose.py), then roll out
"""

import argparse
from pathlib import Path

from nrc.cli import console
from nrc.errors import UserError
from nrc.experts.choose import choose
from nrc.experts.record import make, write_choice
from nrc.experts.settings import DATA, EXPERTS, expert
from nrc.experts.tables import write_tables


def main() -> None:
    parser = console.Options(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(EXPERTS)}; default: all")
    parser.add_argument("--candidates", type=Path, help="folder of policy files NAME_*.npz to choose from")
    parser.add_argument("--out", type=Path, default=DATA / "minari", help="Minari root folder to write to")
    parser.add_argument("--force", action="store_true", help="replace a set that exists")
    args = parser.parse_args()
    for name in args.names or list(EXPERTS):
        chosen = expert(name)
        if args.candidates is not None:
            files = sorted(args.candidates.glob(f"{name}_*.npz"))
            if not files:
                raise UserError(f"{args.candidates} holds no {name}_*.npz; 'make experts' makes some")
            found = choose(chosen, files, print)
            write_choice(chosen, found, args.candidates)
            write_tables()
            print(
                f"{name}: {found[0].policy}, episodes from {found[0].first_seed}, noise x {found[0].noise:g}"
            )
        print(make(chosen, args.out, args.force or args.candidates is not None))


command = console.command(main)
