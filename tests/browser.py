"""A headless Chromium, spoken to over its DevTools pipe: JSON messages, each ended by a zero
byte.
"""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.moments import LIMIT

FOUND = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)


class Browser:
    """One page. `troubles` collects what its console complains of: exceptions, errors, refused
    requests.
    """

    def __init__(self, send: int, receive: int) -> None:
        self.send, self.receive, self.number, self.rest = send, receive, 0, b""
        self.session, self.troubles, self.events = "", [], []

    def call(self, method: str, **given: Any) -> dict[str, Any]:
        self.number += 1
        message = {"id": self.number, "method": method, "params": given} | (
            {"sessionId": self.session} if self.session else {}
        )
        os.write(self.send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            part = os.read(self.receive, 1 << 20)
            assert part, "the browser has gone"
            self.rest += part
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        given = event.get("params", {})
        self.events.append(event["method"])
        if event["method"] == "Runtime.exceptionThrown":
            self.troubles.append(
                given["exceptionDetails"].get("exception", {}).get("description", str(given))
            )
        if event["method"] == "Runtime.consoleAPICalled" and given["type"] in (
            "error",
            "warning",
            "assert",
        ):
            self.troubles.append(str(given["args"]))
        if event["method"] == "Log.entryAdded" and given["entry"]["level"] in ("error", "warning"):
            self.troubles.append(given["entry"]["text"])

    def open(
        self, url: str, width: int = 1200, height: int = 900, dense: float = 1, dark: bool = False
    ) -> None:
        """Load a page in a window of so many points, and wait until it has loaded."""
        if not self.session:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
                "sessionId"
            ]
            for domain in ("Page", "Runtime", "Log"):
                self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=dense,
            mobile=width < 600,
        )
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )
        # from page to page, since another fragment alone loads nothing
        for place in ("about:blank", url):
            self.events.clear()
            self.call("Page.navigate", url=place)
            while "Page.loadEventFired" not in self.events:
                self._note(self._read())

    def value(self, script: str) -> Any:
        """What a JavaScript expression comes to; a promise is waited for."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, script: str, seconds: float = LIMIT) -> None:
        """Wait until a JavaScript condition holds."""
        late = f"setTimeout(() => late(Error('after {seconds} s')), {1000 * seconds})"
        look = f"const look = () => ({script}) ? done() : setTimeout(look, 20)"
        self.value(f"new Promise((done, late) => {{ {late}; {look}; look(); }})")

    def settle(self) -> None:
        """Wait until what was asked for is drawn."""
        self.value(
            "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )

    def picture(self, whole: bool = False) -> bytes:
        """The window as PNG, or the whole page."""
        return base64.b64decode(
            self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        )


@contextmanager
def browser() -> Iterator[Browser]:
    """A fresh browser without a network, gone at the end."""
    to_read, to_send = os.pipe()
    answers, to_answer = os.pipe()
    # Chromium reads from 3 and writes to 4; numbers far from these can be put there one after the
    # other.
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 100) for end in (to_read, to_answer)]
    wire = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); "
        "os.execv(sys.argv[3], sys.argv[3:])"
    )
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--no-first-run",
        ]
        command = [
            FOUND,
            *options,
            f"--user-data-dir={profile}",
            "--remote-debugging-pipe",
            "about:blank",
        ]
        wired = [sys.executable, "-c", wire, *map(str, ends), *command]
        process = subprocess.Popen(wired, stderr=subprocess.DEVNULL, pass_fds=ends)
        for end in (to_read, to_answer, *ends):
            os.close(end)
        try:
            yield Browser(to_send, answers)
        finally:
            process.kill()
            process.wait()
            os.close(to_send)
            os.close(answers)


def url(path: Path, fragment: str = "") -> str:
    return path.resolve().as_uri() + (f"#{fragment}" if fragment else "")
