"""Make an embedded expert data set: `python scripts/make_expert_data.py reacher|swimmer|hopper [--train]`."""

from pathlib import Path

from nrc.cli import console
from nrc.experts.record import make
from nrc.experts.settings import DATA, EXPERTS, expert


def main() -> None:
    parser = console.Options(description=__doc__)
    parser.add_argument("name", choices=sorted(EXPERTS))
    parser.add_argument(
        "--train", action="store_true", help="train the policy anew and replace data/experts/NAME.npz"
    )
    parser.add_argument(
        "--training-seeds",
        type=int,
        nargs="+",
        help="seeds to try with --train (default: the committed policy's)",
    )
    parser.add_argument(
        "--noise", type=float, nargs="+", help="standard deviation of the noise: one, or one per action"
    )
    parser.add_argument("--seed", type=int, default=None, help="seed of the first recorded episode")
    parser.add_argument("--out", type=Path, default=DATA / "minari", help="Minari root folder to write to")
    parser.add_argument(
        "--force", action="store_true", help="replace a set (and with --train a policy) that exists"
    )
    args = parser.parse_args()
    chosen = expert(args.name)
    if args.train:
        from nrc.experts.train import train_expert

        train_expert(chosen, args.force, tuple(args.training_seeds) if args.training_seeds else None)
    noise = None if args.noise is None else tuple(args.noise)
    make(chosen, noise, chosen.seed if args.seed is None else args.seed, args.out, args.force)


def command() -> None:
    """The command line: mistakes end in one line."""
    with console.one_line_errors():
        main()


if __name__ == "__main__":
    command()
