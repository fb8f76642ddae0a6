"""BAD_INPUT.md: every refused command line of test_bad_input.py and the line it prints.

python tests/bad_input_table.py
"""

import shlex
import tempfile
from pathlib import Path

from bad_files import REPO, write_all
from command_line import in_process

FILE = Path(__file__).with_name("BAD_INPUT.md")
HEAD = """# What is refused, and what it says

Each command ends with a non-zero status, prints this one line and leaves nothing behind (`tests/test_bad_input.py`;
the files are made by `tests/bad_files.py`). Written by `python tests/bad_input_table.py`.
"""


def cases() -> list[tuple[str, list[str], str]]:
    """Script, arguments, and words of the line."""
    import test_bad_input as tests

    return [("train.py", *case) for case in tests.REFUSED] + tests.OTHER_SCRIPTS


def command(script: str, arguments: list[str]) -> str:
    """As one would type it."""
    return shlex.join([script, *arguments])


def read() -> list[tuple[str, str]]:
    """The commands of BAD_INPUT.md and what each prints."""
    block = FILE.read_text().split("```text\n")[1].split("```")[0]
    lines = [pair.strip().split("\n") for pair in block.split("\n\n")]
    return [(given.removeprefix("$ "), printed) for given, printed in lines]


def main() -> None:
    found = []
    with tempfile.TemporaryDirectory() as place:
        write_all(Path(place))
        for script, arguments, _ in cases():
            printed = in_process(script, arguments, Path(place)).err
            for folder in (place, str(REPO)):
                printed = printed.replace(f"{folder}/", "")
            found.append(f"$ {command(script, arguments)}\n{printed}")
    FILE.write_text(f"{HEAD}\n```text\n" + "\n".join(found) + "```\n")


if __name__ == "__main__":
    main()
