"""A headless Chromium, driven by its DevTools protocol over a pipe: no driver, no port."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

Json = dict[str, Any]
NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
DEADLINE_S = 90.0
"""For one answer, on a machine that is busy with other tests."""


def program() -> str:
    """The browser; without one tests are left out, but in CI they fail."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        assert not os.environ.get("CI"), f"none of {', '.join(NAMES)} is installed"
        pytest.skip(f"none of {', '.join(NAMES)} is installed")
    return found


class Browser:
    """A browser process, until the end of the context."""

    def __init__(self, path: str) -> None:
        self._home = tempfile.mkdtemp(prefix="sai3ssh-chromium-")
        ours, its = os.pipe(), os.pipe()
        # Chromium wants commands on descriptor 3 and answers on 4: those to be moved there must not be among them.
        read, write = (fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (ours[0], its[1]))
        options = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions")
        options += ("--hide-scrollbars", "--force-color-profile=srgb", "--disable-background-networking", f"--user-data-dir={self._home}")
        with Path(os.devnull).open("rb") as nothing, Path(self._home, "log").open("wb") as log:
            moves = [(os.POSIX_SPAWN_DUP2, fd, to) for fd, to in ((nothing.fileno(), 0), (log.fileno(), 1), (log.fileno(), 2))]
            moves += [(os.POSIX_SPAWN_DUP2, read, 3), (os.POSIX_SPAWN_DUP2, write, 4)]
            argv = [path, *options, "--remote-debugging-pipe", "about:blank"]
            self._pid = os.posix_spawn(path, argv, os.environ, file_actions=moves, setsid=True)
        for fd in (ours[0], its[1], read, write):
            os.close(fd)
        self._to, self._from = ours[1], its[0]
        self._rest = b""
        self._number = 0
        self.events: list[Json] = []

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._to)
        os.close(self._from)
        shutil.rmtree(self._home, ignore_errors=True)

    def call(self, method: str, session: str | None = None, **params: Any) -> Json:
        """The answer to a command; what the browser tells meanwhile goes to `events`."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        deadline = time.monotonic() + DEADLINE_S
        while True:
            told = self._next(deadline, method)
            if told.get("id") == self._number:
                assert "error" not in told, f"{method}: {told['error']}"
                found: Json = told["result"]
                return found
            self.events.append(told)

    def _next(self, deadline: float, method: str) -> Json:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._from], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no answer to {method} within {DEADLINE_S:.0f} s: {Path(self._home, 'log').read_text(errors='replace')[-500:]}"
            data = os.read(self._from, 1 << 20)
            assert data, f"the browser has ended: {Path(self._home, 'log').read_text(errors='replace')[-500:]}"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\0")
        told: Json = json.loads(line)
        return told

    def cpu_s(self) -> float:
        """CPU time of all its processes that are there."""
        spent = 0
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = path.read_text().rpartition(")")[2].split()
                if int(fields[3]) == self._pid:  # its session
                    spent += int(fields[11]) + int(fields[12])
        return spent / os.sysconf("SC_CLK_TCK")

    def tab(self, width: int = 1280, height: int = 900, *, dark: bool = False) -> Tab:
        """A new page."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Tab(self, session, width, height, dark=dark)


class Tab:
    """One page."""

    def __init__(self, browser: Browser, session: str, width: int, height: int, *, dark: bool) -> None:
        self._browser = browser
        self._session = session
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.resize(width, height)
        self.prefer(dark=dark)

    def call(self, method: str, **params: Any) -> Json:
        """A command of the DevTools protocol."""
        return self._browser.call(method, self._session, **params)

    def resize(self, width: int, height: int) -> None:
        """The size of the window, which comes to the front: others are not drawn."""
        self.call("Page.bringToFront")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def prefer(self, *, dark: bool) -> None:
        """What prefers-color-scheme says."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def open(self, url: str, ready: str = "document.documentElement?.dataset.ready === 'true'") -> None:
        """Loads a page and waits until `ready`, an expression, is true."""
        self.call("Page.navigate", url=url)
        self.wait(ready)

    def wait(self, expression: str) -> None:
        """Returns when an expression is true."""
        deadline = time.monotonic() + DEADLINE_S
        while not self.evaluate(expression):
            assert time.monotonic() < deadline, f"never true: {expression}; {self.complaints()}"
            time.sleep(0.02)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression, a promise's when it has come."""
        told = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def press(self, key: str, *, shift: bool = False) -> None:
        """A key, as of a keyboard."""
        codes = {"Tab": 9, "Enter": 13, " ": 32, "ArrowRight": 39, "ArrowLeft": 37, "ArrowDown": 40, "ArrowUp": 38}
        text = {"Enter": "\r", " ": " "}.get(key)
        common = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": codes[key], "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **common, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def complaints(self) -> list[str]:
        """What the browser said of this page: exceptions, errors and warnings on the console, what the policy refused."""
        found = []
        for event in self._mine():
            params = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                found.append(str(details.get("exception", {}).get("description", details["text"])))
            elif event["method"] == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
                found.append(" ".join(str(one.get("value", one.get("description"))) for one in params["args"]))
            elif event["method"] == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                found.append(" ".join(str(params["entry"][part]) for part in ("text", "url") if part in params["entry"]))
        return found

    def requests(self) -> list[str]:
        """What the page has asked for, itself included."""
        return [str(event["params"]["request"]["url"]) for event in self._mine() if event["method"] == "Network.requestWillBeSent"]

    def _mine(self) -> list[Json]:
        return [event for event in self._browser.events if event.get("sessionId") == self._session]

    def screenshot(self, file: Path, *, whole: bool = False) -> None:
        """A picture of the window, or of the whole page."""
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]))
