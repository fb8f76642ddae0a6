"""How the site reads docstrings: what stands under "Example:" is code."""

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^Example:\n((?:    .*\n?|\n)+)", re.M)


class Examples(griffe.Extension):
    """Turns each "Example:" into a block of code."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(_block, obj.docstring.value)


def _block(match: re.Match[str]) -> str:
    code = re.sub(r"^    ", "", match[1], flags=re.M).strip("\n")
    return f"**Example**\n\n```pycon\n{code}\n```\n"
