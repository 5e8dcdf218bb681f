"""A headless Chromium, driven through chromedriver, which speaks JSON over HTTP."""

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars"


class Browser:
    """One page in one window."""

    def __init__(self, address: str, profile: Path) -> None:
        self.address = address
        options = {"args": [*FLAGS.split(), f"--user-data-dir={profile}", "--window-size=1360,860"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self._send("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.session = f"/session/{session['sessionId']}"

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None

    def open(self, path: Path) -> None:
        self._send("POST", f"{self.session}/url", {"url": path.as_uri()})
        self.wait("globalThis.app !== undefined")

    def run(self, code: str, *values: Any) -> Any:
        """The value of an expression, or what a body of a function returns; ``arguments`` are the values."""
        body = code if "return" in code else f"return {code}"
        return self._send("POST", f"{self.session}/execute/sync", {"script": body, "args": list(values)})

    def wait(self, condition: str, seconds: float = 20) -> None:
        """Until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"return Boolean({condition})"):
            assert time.monotonic() < end, f"never came true: {condition}; {self.log()}"
            time.sleep(0.02)

    def frame(self) -> None:
        """Until what was changed is drawn."""
        script = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done(0)))"
        self._send("POST", f"{self.session}/execute/async", {"script": script, "args": []})

    def click(self, selector: str) -> None:
        self.run("return document.querySelector(arguments[0]).click()", selector)
        self.frame()

    def press(self, *keys: str) -> None:
        """Keys one after another; a name such as Enter is one key."""
        named = {"ArrowRight": "\ue014", "ArrowDown": "\ue015", "Enter": "\ue007", "Escape": "\ue00c", "End": "\ue010"}
        steps = [{"type": kind, "value": named.get(k, k)} for k in keys for kind in ("keyDown", "keyUp")]
        body = {"actions": [{"type": "key", "id": "keyboard", "actions": steps}]}
        self._send("POST", f"{self.session}/actions", body)
        self.frame()

    def text(self, selector: str) -> str:
        return self.run("return document.querySelector(arguments[0]).textContent", selector)

    def size(self, width: int, height: int) -> None:
        self._send("POST", f"{self.session}/window/rect", {"width": width, "height": height})

    def log(self) -> list[str]:
        """What the page complained of since it was last asked."""
        entries = self._send("POST", f"{self.session}/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries]

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._send("GET", f"{self.session}/screenshot")))

    def close(self) -> None:
        self._send("DELETE", self.session)


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser whose profile lies in ``folder``; skips where there is none."""
    driver = shutil.which("chromedriver")
    if not driver or not (shutil.which("chromium") or shutil.which("google-chrome")):
        pytest.skip("no chromium and chromedriver (apt-get install chromium chromium-driver)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        browser = None
        for _ in range(200):
            try:
                with socket.create_connection(("127.0.0.1", port), 1):
                    break
            except OSError:
                time.sleep(0.05)
        browser = Browser(f"http://127.0.0.1:{port}", folder / "profile")
        yield browser
        browser.close()
    finally:
        process.terminate()
        process.wait(10)
