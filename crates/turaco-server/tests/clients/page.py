"""The web page in headless Chromium with a fake microphone that plays the speech."""

import base64
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from common import BASE, SPEECH, check
from websockets.sync.client import connect

browser = next(filter(shutil.which, ["chromium", "chromium-browser", "google-chrome"]), None)
if browser is None:
    print("SKIPPED: the page, as there is no Chromium")
    sys.exit(0)

home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
process = subprocess.Popen(
    [
        browser,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--remote-debugging-port=0",
        f"--user-data-dir={home.name}",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={SPEECH}",
        "--autoplay-policy=no-user-gesture-required",
        "about:blank",
    ],
    # Nobody would read what it complains about, and it would wait for that.
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
)


class Page:
    def __init__(self, address):
        self.socket = connect(address, max_size=None)
        self.count = 0
        self.session = None
        target = self.call("Target.createTarget", url=BASE + "/")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

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
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        check("exceptionDetails" not in result, result)
        return result["result"].get("value")

    def until(self, what, script):
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            value = self.run(script)
            if value:
                return value
            time.sleep(0.2)
        check(False, f"{what}: never; the page says {self.run('document.body.innerText')}")

    def show(self, path):
        with open(path, "wb") as file:
            file.write(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


try:
    port = pathlib.Path(home.name, "DevToolsActivePort")
    deadline = time.monotonic() + 60
    while not (port.exists() and len(port.read_text().split()) == 2):
        check(time.monotonic() < deadline, "Chromium did not start")
        time.sleep(0.1)
    number, path = port.read_text().split()
    page = Page(f"ws://127.0.0.1:{number}{path}")
    page.until("the page is there", "document.readyState === 'complete' && !!document.getElementById('key')")
    page.until("the script runs", "document.getElementById('status').textContent !== '…'")
    page.run("key.value = 'secret'; key.dispatchEvent(new Event('change'))")
    page.until("models are listed", "[...document.getElementById('live-model').options].some((o) => o.value === 'tiny.en')")
    page.run("for (const id of ['live-model', 'file-model']) document.getElementById(id).value = 'tiny.en'")
    page.run("document.getElementById('live-start').click()")
    text = page.until("captions", "/(americans|country)/i.test(document.getElementById('captions').innerText) && document.getElementById('captions').innerText")
    page.until("latencies", "/text \\d+ ms after/.test(document.getElementById('live-facts').textContent)")
    page.run("document.getElementById('live-start').click()")
    node = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=node, selector="#file")["nodeId"]
    page.call("DOM.setFileInputFiles", nodeId=node, files=[SPEECH])
    page.until("a transcript", "/11 s of sound/.test(document.getElementById('file-facts').textContent)")
    check("country" in page.run("document.getElementById('file-text').innerText"), "the transcript")
    page.run("document.getElementById('voice-model').value = 'voice_design'")
    page.run("document.getElementById('say').value = 'Hello.'; document.getElementById('voice-start').click()")
    page.until("sound", "/s of speech in/.test(document.getElementById('voice-facts').textContent)")
    if len(sys.argv) > 4:
        page.show(sys.argv[4])
    print("the page: all well:", text.strip().splitlines()[-1])
finally:
    process.kill()
    process.wait()
    home.cleanup()
