"""A real Chromium over its debugging pipe: pages at any width, dark or without scripts, real keys, its console."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None
)
REQUIRED = (
    os.environ.get("NRC_BROWSER") == "required"
)  # set where one was installed: its absence is then an error
PATIENCE = 120.0  # seconds for one answer; only a browser that hangs takes so long
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
KEYS = {"Tab": 9, "ArrowDown": 40, "Enter": 13, "Space": 32}


class Browser:
    """Speaks the DevTools protocol: JSON messages that end in a zero byte, on file descriptors 3 and 4."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        # out of the way, so that putting one in place does not close the other
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (theirs_in, theirs_out)]

        def place() -> None:
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        self.process = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(3, 4), preexec_fn=place, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        for end in (theirs_in, theirs_out, *ends):
            os.close(end)
        self.to, self.source = ours_out, ours_in
        self.rest, self.count = b"", 0
        self.events: list[dict[str, Any]] = []

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.to)
        os.close(self.source)

    def call(self, method: str, session: str | None = None, **values: Any) -> dict[str, Any]:
        """Send one command and wait for its result."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": values}
        text = json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0"
        while text:
            text = text[os.write(self.to, text) :]
        while True:
            answer = self._read()
            if answer.get("id") == self.count:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.events.append(answer)

    def wait_for(self, event: str) -> None:
        """Wait until this event has come."""
        while not any(found.get("method") == event for found in self.events):
            self.events.append(self._read())

    def _read(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.source], [], [], max(0.0, end - time.monotonic()))
            chunk = os.read(self.source, 1 << 20) if ready else b""
            assert chunk, "the browser does not answer"
            self.rest += chunk
        line, self.rest = self.rest.split(b"\0", 1)
        return json.loads(line)


class Page:
    """One page, open in its own tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser, self.session = browser, session

    def call(self, method: str, **values: Any) -> dict[str, Any]:
        return self.browser.call(method, self.session, **values)

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression; promises are waited for."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str) -> None:
        text = {"Enter": "\r", "Space": " "}.get(key)
        common = {"key": " " if key == "Space" else key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        kind = "keyDown" if text else "rawKeyDown"
        self.call("Input.dispatchKeyEvent", type=kind, **common, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def complaints(self) -> list[str]:
        """Errors and warnings of the console, exceptions, refusals of the security policy."""
        found = []
        for event in self.browser.events:
            method, values = event.get("method"), event.get("params", {})
            if event.get("sessionId") != self.session:
                continue
            if method == "Runtime.exceptionThrown":
                found.append(json.dumps(values["exceptionDetails"]))
            elif method == "Log.entryAdded" or (
                method == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning", "assert")
            ):
                found.append(json.dumps(values))
        return found

    def screenshot(self, file: Path, whole: bool = False) -> None:
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def opened(
    browser: Browser,
    file: Path,
    *,
    width: int = 1280,
    height: int = 900,
    dark: bool = False,
    scripts: bool = True,
    place: str = "",
) -> Iterator[Page]:
    """A page in a tab of this size.

    Args:
        dark: whether the reader prefers a dark page.
        scripts: whether JavaScript runs.
        place: fragment to open at, "#id".
    """
    target = browser.call("Target.createTarget", url="about:blank")["targetId"]
    session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
    page = Page(browser, session)
    for domain in ("Page", "Runtime", "Log"):
        page.call(f"{domain}.enable")
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    page.call("Emulation.setDeviceMetricsOverride", **size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    page.call("Emulation.setEmulatedMedia", features=[scheme])
    page.call("Emulation.setScriptExecutionDisabled", value=not scripts)
    browser.events.clear()
    page.call("Page.navigate", url=file.as_uri() + place)
    browser.wait_for("Page.loadEventFired")
    yield page
    browser.call("Target.closeTarget", targetId=target)
