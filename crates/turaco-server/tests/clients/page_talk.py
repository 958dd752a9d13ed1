"""A conversation on the web page: Chromium's fake microphone asks, is answered, and interrupts."""

import json
import tempfile
import time
import wave

from browser import Browser, Page, need
from common import SPEECH, check, samples

need()

# What goes over the WebSocket, and how loud the page is, with the time of each.
WATCH = """
globalThis.sent = [];
globalThis.told = [];
globalThis.levels = [];
const { send } = WebSocket.prototype;
WebSocket.prototype.send = function (data) {
  if (!this.watched) {
    this.watched = true;
    this.addEventListener("message", ({ data }) => {
      const { type, ...rest } = JSON.parse(data);
      delete rest.delta;
      told.push({ at: performance.now(), type, ...rest });
    });
  }
  if (typeof data === "string") sent.push({ at: performance.now(), ...JSON.parse(data) });
  send.call(this, data);
};
const { connect } = AudioNode.prototype;
AudioNode.prototype.connect = function (to, ...rest) {
  if (to instanceof AudioDestinationNode && this instanceof GainNode) {
    const meter = new AnalyserNode(this.context, { fftSize: 256 });
    connect.call(this, meter);
    const values = new Float32Array(256);
    const look = () => {
      if (this.context.state === "closed") return;
      meter.getFloatTimeDomainData(values);
      levels.push({ at: performance.now(), peak: Math.max(...values.map(Math.abs)) });
      setTimeout(look, 5);
    };
    look();
  }
  return connect.call(this, to, ...rest);
};
"""
LOUD = 0.003


def microphone(path):
    """The first words of the speech, and silence in which to answer."""
    with wave.open(path, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(samples(16_000)[: 2 * 16_000 * 32 // 10] + bytes(2 * 16_000 * 5))


def told(page, kind):
    return page.run(f"told.filter((event) => event.type === {json.dumps(kind)})")


def louder(page, start, end):
    """The loudest moment between two times."""
    within = f"levels.filter(({{ at }}) => at >= {start} && at < {end})"
    return page.run(f"Math.max(0, ...{within}.map(({{ peak }}) => peak))")


def spoken_turns(page):
    page.set("talk-instructions", "Be brief.")
    page.click("talk-start")
    # The first words are written down and answered with text and sound.
    page.says("talk-text", "You.*fellow americans[^]*Answer.*word after word")
    page.says("talk-state", "answering")
    page.until("sound", f"levels.some(({{ peak }}) => peak > {LOUD})")
    check(not page.run("document.getElementById('talk-hush').disabled"), "an answer can be stopped")
    # The words come again, and interrupt.
    page.until("an interruption", "told.filter((event) => event.type === 'conversation.item.truncated').length")
    page.until("the end", "told.some((event) => event.type === 'response.done')")
    page.says("talk-text", "interrupted after [1-9]")
    truncate = page.run("sent.find((event) => event.type === 'conversation.item.truncate')")
    speech = [event for event in told(page, "input_audio_buffer.speech_started") if event["at"] <= truncate["at"] + 50][-1]
    done = told(page, "response.done")[0]
    item = done["response"]["output"][0]["id"]
    check(truncate["item_id"] == item, (truncate, item))
    # It was told at once (the page may see an event before the one who watches), and no more than was heard.
    check(abs(truncate["at"] - speech["at"]) < 50, (truncate, speech))
    first = told(page, "response.output_audio.delta")[0]["at"]
    heard = truncate["audio_end_ms"]
    check(heard > 1000 and heard <= truncate["at"] - first, (heard, truncate["at"] - first))
    # Silence within a frame of 80 ms (and the meter's own), until the next answer.
    later = [event["at"] for event in told(page, "response.output_audio.delta") if event["item_id"] != item]
    page.until("some silence", f"performance.now() > {speech['at'] + 400}")
    check(louder(page, first, speech["at"]) > LOUD, "the answer is heard")
    peak = louder(page, speech["at"] + 120, min([speech["at"] + 400, *later]))
    check(peak < 1e-4, f"{peak} after the interruption")
    # Both sides say how long one waited.
    page.says("talk-text", r"after the end of the question: text \d+ ms, heard \d+ ms · server: turn over \d+ ms")
    page.says("talk-facts", r"median: first text \d+ ms")
    waited = page.run("/text (\\d+) ms, heard (\\d+)/.exec(document.getElementById('talk-text').innerText).slice(1)")
    check(400 < int(waited[0]) <= int(waited[1]), waited)
    return heard, waited


def muted(page):
    page.click("talk-mute")
    check(page.run("document.getElementById('talk-mute').getAttribute('aria-pressed')") == "true", "muted")
    # A turn that was begun ends, and the next words are not heard.
    time.sleep(2)
    count = len(told(page, "input_audio_buffer.speech_started"))
    time.sleep(8)
    check(len(told(page, "input_audio_buffer.speech_started")) == count, "what a muted microphone hears")


def written_questions(page):
    page.set("talk-question", "Say it briefly, please.")
    page.click("talk-send")
    page.says("talk-text", r"You.*Say it briefly, please[^]*Answer.*Yes, of course.[^]*heard \d+ ms")
    # A long one is stopped, which ends it.
    page.until("silence", "document.getElementById('talk-hush').disabled")
    page.set("talk-question", "And now at length.")
    page.click("talk-send")
    page.until("an answer", "!document.getElementById('talk-hush').disabled && /answering/.test(document.getElementById('talk-state').innerText)")
    page.click("talk-hush")
    page.says("talk-text", "at length[^]*stopped after")
    page.until("silence", "document.getElementById('talk-hush').disabled")
    page.click("talk-start")
    page.says("talk-state", "off")


def held_turns(page):
    """What is said while the space bar or the button is held is a turn, however long the pauses in it."""
    page.set("talk-mode", "hold")
    check(page.run("document.getElementById('talk-start').hidden"), "one button to talk is enough")
    check("space bar" in page.run("document.getElementById('talk-hold').title"), "how to hold")
    page.run("told.length = 0, sent.length = 0")

    def space(kind, target="document.body"):
        page.run(f"{target}.dispatchEvent(new KeyboardEvent('{kind}', {{ code: 'Space', key: ' ', bubbles: true, cancelable: true }}))")

    def answered(count):
        page.until("an answer", f"told.filter((event) => event.type === 'response.done').length >= {count}")

    # In a field it is a space.
    space("keydown", "document.getElementById('talk-question')")
    page.says("talk-hold", "Hold to talk")
    space("keydown")
    page.says("talk-hold", "Let go to send")
    page.says("talk-state", "you speak")
    # Longer than any pause of the speech.
    time.sleep(10)
    check(not told(page, "input_audio_buffer.committed"), "a pause ends no turn")
    space("keyup")
    page.says("talk-hold", "Hold to talk")
    answered(1)
    events = [event["type"] for event in page.run("sent")]
    check(events[-2:] == ["input_audio_buffer.commit", "response.create"], events)
    check(len(told(page, "input_audio_buffer.committed")) == 1, "one turn")
    transcript = told(page, "conversation.item.input_audio_transcription.completed")[0]["transcript"]
    check("fellow american" in transcript.lower(), transcript)
    # Nothing is heard in between, and a slip is no turn.
    time.sleep(3)
    button = "document.getElementById('talk-hold')"
    page.run(f"{button}.dispatchEvent(new PointerEvent('pointerdown', {{ bubbles: true }}))")
    page.run(f"{button}.dispatchEvent(new PointerEvent('pointerup', {{ bubbles: true }}))")
    time.sleep(1)
    check(len(told(page, "input_audio_buffer.committed")) == 1, "a slip")
    # The button does what the space bar does, and ends the answer that is given.
    page.run(f"{button}.dispatchEvent(new PointerEvent('pointerdown', {{ bubbles: true }}))")
    page.says("talk-state", "you speak")
    time.sleep(4)
    page.run(f"{button}.dispatchEvent(new PointerEvent('pointerup', {{ bubbles: true }}))")
    answered(2)
    page.click("talk-start")
    page.says("talk-state", "off")
    page.set("talk-mode", "free")


def without_microphone(sound):
    """Who does not allow it is told, and can write."""
    with Browser(sound, "--deny-permission-prompts") as browser:
        page = Page(browser)
        page.enter()
        page.click("talk-start")
        page.says("talk-notice", "does not let this page hear")
        page.set("talk-question", "Say it briefly, please.")
        page.click("talk-send")
        page.says("talk-text", "Yes, of course.")


with tempfile.TemporaryDirectory() as folder:
    path = f"{folder}/question.wav"
    microphone(path)
    with Browser(path) as browser:
        page = Page(browser, WATCH)
        page.enter()
        heard, waited = spoken_turns(page)
        muted(page)
        written_questions(page)
        page.click("talk-new")
        held_turns(page)
    without_microphone(path)
    print(f"talking on the page: all well: text after {waited[0]} ms, heard after {waited[1]} ms, interrupted after {heard} ms of sound")
