"""Headless Chromium with a fake microphone, over its debugging protocol."""

import base64
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from common import BASE, check
from websockets.sync.client import connect

PROGRAM = next(filter(shutil.which, ["chromium", "chromium-browser", "google-chrome"]), None)


def need():
    """Leave where there is no browser."""
    if PROGRAM is None:
        print("SKIPPED: the page, as there is no Chromium")
        sys.exit(0)


class Browser:
    """A browser whose microphone plays a WAV file again and again."""

    def __init__(self, sound, *options):
        self.home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.process = subprocess.Popen(
            [
                PROGRAM,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--remote-debugging-port=0",
                f"--user-data-dir={self.home.name}",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-audio-capture={sound}",
                *(options or ["--use-fake-ui-for-media-stream"]),
                "--autoplay-policy=no-user-gesture-required",
                "about:blank",
            ],
            # Nobody would read what it complains about, and it would wait for that.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.home.cleanup()

    def address(self):
        port = pathlib.Path(self.home.name, "DevToolsActivePort")
        deadline = time.monotonic() + 60
        while not (port.exists() and len(port.read_text().split()) == 2):
            check(time.monotonic() < deadline, "Chromium did not start")
            time.sleep(0.1)
        number, path = port.read_text().split()
        return f"ws://127.0.0.1:{number}{path}"


class Page:
    """The server's page; `script` runs before those of the page."""

    def __init__(self, browser, script="", address=BASE + "/"):
        self.socket = connect(browser.address(), max_size=None)
        self.count = 0
        self.session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")
        self.call("Page.addScriptToEvaluateOnNewDocument", source=script)
        self.call("Page.navigate", url=address)
        self.until("the page is there", "document.readyState === 'complete' && !!document.getElementById('key')")
        self.until("the script runs", "document.getElementById('status').textContent !== '…'")

    def call(self, method, **parameters):
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.socket.send(json.dumps(message))
        while True:
            answer = json.loads(self.socket.recv(timeout=30))
            if answer.get("id") == self.count:
                check("error" not in answer, answer)
                return answer["result"]

    def run(self, script):
        result = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        check("exceptionDetails" not in result, result)
        return result["result"].get("value")

    def until(self, what, script):
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            value = self.run(script)
            if value:
                return value
            time.sleep(0.1)
        check(False, f"{what}: never; the page says {self.run('document.body.innerText')}")

    def text(self, name):
        return self.run(f"document.getElementById('{name}').innerText")

    def says(self, name, pattern):
        """Wait until an element's text matches a pattern of JavaScript."""
        text = f"document.getElementById('{name}').innerText"
        return self.until(f"{name}: {pattern}", f"/{pattern}/i.test({text}) && {text}")

    def click(self, name):
        self.run(f"document.getElementById('{name}').click()")

    def set(self, name, value):
        self.run(
            f"{{ const it = document.getElementById('{name}'); it.value = {json.dumps(value)};"
            " it.dispatchEvent(new Event('change')); }"
        )

    def enter(self, key="secret"):
        """Bring the key."""
        self.set("key", key)
        self.until("models are listed", "[...document.getElementById('live-model').options].some((o) => o.value === 'tiny.en')")

    def choose(self, name, *paths):
        """Files for a field."""
        node = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=node, selector=f"#{name}")["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=list(paths))

    def show(self, path):
        with open(path, "wb") as file:
            file.write(base64.b64decode(self.call("Page.captureScreenshot")["data"]))
