"""The web page in headless Chromium with a fake microphone that plays the speech: captions, recordings, voices."""

import sys

from browser import Browser, Page, need
from common import SPEECH, check

need()

# What the page saves is kept instead of being downloaded.
SAVED = """
globalThis.saved = {};
const blobs = {};
const { createObjectURL } = URL;
URL.createObjectURL = (blob) => {
  const href = createObjectURL(blob);
  blobs[href] = blob;
  return href;
};
HTMLAnchorElement.prototype.click = function () {
  const { href, download } = this;
  blobs[href].text().then((text) => (saved[download] = text));
};
"""

# As Firefox does: a microphone connects only to what has its own rate.
OTHER_RATE = """
const { createMediaStreamSource } = AudioContext.prototype;
AudioContext.prototype.createMediaStreamSource = function (stream) {
  if (this.sampleRate === 24000) throw new DOMException("another rate", "NotSupportedError");
  return createMediaStreamSource.call(this, stream);
};
"""


def wrong_keys_and_pages(browser):
    page = Page(browser)
    check("API key" in page.text("status"), page.text("status"))
    page.set("key", "wrong")
    page.says("status", "wrong")
    page.click("talk-start")
    page.says("talk-notice", "API key is wrong")


def captions(page):
    page.set("live-model", "tiny.en")
    page.click("live-start")
    text = page.says("captions", "americans|country")
    page.says("live-facts", r"text \d+ ms after")
    page.click("live-start")
    page.says("live-facts", "stopped")
    return text.strip().splitlines()[-1]


def recordings(page):
    page.set("file-model", "tiny.en")
    page.choose("file", SPEECH, __file__)
    page.until("two files", "document.querySelectorAll('#files > li').length === 2")
    # The newest is above.
    page.says("files", r"page.py[^]*not audio[^]*jfk.wav[^]*11 s of sound in \d+ ms")
    check("country" in page.text("files"), "the transcript")
    for ending in ["txt", "srt", "vtt", "json"]:
        page.run(f"[...document.querySelectorAll('#files button')].filter((b) => !b.hidden && b.textContent === 'Save {ending}')[0].click()")
        text = page.until(f"jfk.{ending}", f"saved['jfk.{ending}']")
        check("country" in text, text)
        marks = {"srt": "1\n00:00:00,000 --> 00:00:", "vtt": "WEBVTT\n\n00:00:00.000 --> 00:00:", "json": '"segments"', "txt": ""}
        check(marks[ending] in text, text)
    # One that is cancelled can be begun again.
    page.run("document.querySelector('#files > li:last-child button:nth-of-type(2)').click()")
    page.run("document.querySelector('#files > li:last-child button:nth-of-type(1)').click()")
    page.says("files", "cancelled")
    page.run("document.querySelector('#files > li:last-child button:nth-of-type(2)').click()")
    page.says("files", "11 s of sound")
    page.click("record")
    page.says("record", "0:03")
    page.click("record")
    page.says("files", r"recording [\d.]+wav[^]*[345] s of sound")


def another_rate(browser):
    page = Page(browser, OTHER_RATE)
    page.enter()
    page.set("file-model", "tiny.en")
    page.click("record")
    page.says("record", "0:04")
    page.click("record")
    page.says("files", r"[3456] s of sound[^]*(american|ask|country)")


def voices(page):
    page.set("voice-model", "voice_design")
    page.set("say", "Hello.")
    page.click("voice-start")
    page.says("voice-facts", "s of speech in")
    page.until("the end", "document.getElementById('voice-stop').disabled")
    page.click("voice-save")
    page.until("the sound", "saved['speech.wav']?.startsWith('RIFF')")
    page.set("say", "")
    page.click("voice-start")
    page.says("voice-notice", "no text")
    # The voice of a recording.
    page.set("voice-model", "base")
    page.set("voice-name", "mine")
    page.choose("voice-file", SPEECH)
    page.run("document.querySelector('#voice-form button').click()")
    page.says("voices", "mine [(]saved[)]")
    page.set("say", "Hello.")
    page.run("document.querySelector('#voices [aria-label=\"Hear mine\"]').click()")
    page.says("voice-facts", "s of speech in")
    page.run("globalThis.confirm = () => true; document.querySelector('#voices [aria-label=\"Remove mine\"]').click()")
    page.until("no voice", "!document.getElementById('voices').innerText.includes('mine')")


with Browser(SPEECH) as browser:
    wrong_keys_and_pages(browser)
    page = Page(browser, SAVED)
    page.enter()
    text = captions(page)
    recordings(page)
    voices(page)
    another_rate(browser)
    if len(sys.argv) > 4:
        page.show(sys.argv[4])
    print("the page: all well:", text)
