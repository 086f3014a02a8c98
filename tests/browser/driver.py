"""A browser without a window, by the W3C's protocol over HTTP and the standard library."""

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.request

import pytest

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]


class Browser:
    """One window of Chromium."""

    def __init__(self, port, width=1240, dark=False):
        self.address = f"http://127.0.0.1:{port}"
        flags = [*FLAGS, f"--window-size={width},1200"]
        flags += ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"] if dark else []
        wanted = {
            "goog:chromeOptions": {"binary": CHROMIUM, "args": flags},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        made = self.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.session = f"/session/{made['sessionId']}"

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(self.address + path, data, method=method)
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, path):
        self.call("POST", f"{self.session}/url", {"url": path.resolve().as_uri()})

    def run(self, script, *arguments):
        body = {"script": script, "args": list(arguments)}
        return self.call("POST", f"{self.session}/execute/sync", body)

    def complaints(self):
        logged = self.call("POST", f"{self.session}/se/log", {"type": "browser"})
        return [entry["message"] for entry in logged if entry["level"] in ("SEVERE", "WARNING")]

    def screenshot(self):
        return base64.b64decode(self.call("GET", f"{self.session}/screenshot"))

    def close(self):
        self.call("DELETE", self.session)


@contextlib.contextmanager
def browsers():
    """Start a driver; gives what opens windows of it, which are closed at the end."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("chromium and chromedriver are not here")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    process = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL)
    opened = []

    def start(**options):
        for _ in range(100):
            with contextlib.suppress(OSError):
                opened.append(Browser(port, **options))
                return opened[-1]
            time.sleep(0.1)
        raise AssertionError("chromedriver does not answer")

    try:
        yield start
    finally:
        for browser in opened:
            with contextlib.suppress(OSError):
                browser.close()
        process.terminate()
        process.wait(10)
