"""Stand-ins: drawn once, in the layout of the real set, and then read like any other files."""

import shutil
from collections.abc import Callable
from pathlib import Path

from nrc.data._cache import alone
from nrc.errors import UserError


def rendered(
    place: str | Path, name: str, version: int, settings: dict[str, int], write: Callable[..., None]
) -> Path:
    """The folder of the stand-in `name`, drawn by write(folder, **settings) if it is not there yet.

    version: of the drawing, so that a changed one is drawn anew.
    """
    label = "-".join(f"{key}={value}" for key, value in settings.items())
    folder = Path(place).expanduser() / f"{name}-drawn-v{version}-{label}"
    if not folder.exists():
        with alone(folder):
            if not folder.exists():
                part = folder.with_name(f"{folder.name}.part")
                shutil.rmtree(part, ignore_errors=True)
                try:
                    part.mkdir()
                    write(part, **settings)
                    part.rename(folder)
                except OSError as error:
                    shutil.rmtree(part, ignore_errors=True)
                    raise UserError(
                        f"the drawn {name} cannot be written to {folder} ({error}); set data.cache to another folder"
                    ) from error
    return folder
