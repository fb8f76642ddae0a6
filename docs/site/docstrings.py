"""How the site reads docstrings: what stands under "Example:" is code, and "a, b: text" describes a and b."""

import re
from typing import Any

import griffe

TOGETHER = re.compile(r"^    \w+(?:, \w+)+:", re.M)
EXAMPLE = re.compile(r"^Example:\n((?:    .*\n?|\n)+)", re.M)


class Examples(griffe.Extension):
    """Turns each "Example:" into a block of code, and keeps names together that are described together."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            text = EXAMPLE.sub(_block, obj.docstring.value)
            # else what follows the first space would be read as the type
            obj.docstring.value = TOGETHER.sub(
                lambda names: names[0].replace(", ", ",\N{NO-BREAK SPACE}"), text
            )


def _block(match: re.Match[str]) -> str:
    code = re.sub(r"^    ", "", match[1], flags=re.M).strip("\n")
    return f"**Example**\n\n```pycon\n{code}\n```\n"
