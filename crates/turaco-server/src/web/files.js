// Recordings: files that are dropped or recorded here, written down one after the other.

import { Microphone, wav } from "./audio.js";
import { $, ANSWERS, HEARS, complaint, download, fill, headers, known, notice, since, whenKnown } from "./server.js";

const queue = [];
let working = null;
let recording = null;

whenKnown(() => fill($("file-model"), known.ids(HEARS, ANSWERS).map((id) => [id]), known.defaults[HEARS]));

const drop = $("drop");
drop.addEventListener("click", () => $("file").click());
drop.addEventListener("keydown", (event) => {
  if (!["Enter", " "].includes(event.key)) return;
  event.preventDefault();
  $("file").click();
});
// A press of the hidden field is no press of the place around it.
$("file").addEventListener("click", (event) => event.stopPropagation());
drop.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  add(event.dataTransfer.files);
});
$("file").addEventListener("change", () => {
  add($("file").files);
  // The same file may be chosen again.
  $("file").value = "";
});
// A file that is dropped beside the place would replace the page.
for (const kind of ["dragover", "drop"]) window.addEventListener(kind, (event) => event.preventDefault());
$("record").addEventListener("click", () => (recording ? stopRecording() : record()));

function add(files) {
  for (const file of files) queue.push(new Job(file));
  next();
}

function next() {
  if (working || !queue.length) return;
  working = queue.shift();
  working.run();
}

async function record() {
  const here = { pieces: [], started: performance.now() };
  recording = here;
  notice($("file-notice"));
  try {
    const heard = (samples) => {
      here.pieces.push(samples);
      const seconds = Math.floor(since(here.started) / 1000);
      $("record").textContent = `Stop recording (${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")})`;
    };
    here.microphone = await Microphone.open(heard, stopRecording);
    if (here !== recording) here.microphone.close();
  } catch (error) {
    recording = null;
    notice($("file-notice"), error.message);
  }
}

function stopRecording() {
  const { microphone, pieces } = recording;
  recording = null;
  microphone?.close();
  $("record").textContent = "Record";
  if (!pieces.length) return;
  const time = new Date().toTimeString().slice(0, 8).replaceAll(":", ".");
  add([new File([wav(pieces)], `recording ${time}.wav`, { type: "audio/wav" })]);
}

/** `1:02:03.450`, with the hours and the mark of the decimals that a format wants. */
function time(seconds, mark = ".", hours = true) {
  const whole = Math.round(seconds * 1000);
  const two = (value) => String(Math.floor(value)).padStart(2, "0");
  const text = `${two((whole / 60_000) % 60)}:${two((whole / 1000) % 60)}${mark}${String(whole % 1000).padStart(3, "0")}`;
  return hours ? `${two(whole / 3_600_000)}:${text}` : text;
}

const FORMATS = {
  txt: (job) => `${job.text.trim()}\n`,
  srt: (job) =>
    job.segments
      .map(({ start, end, text }, index) => `${index + 1}\n${time(start, ",")} --> ${time(end, ",")}\n${text.trim()}\n\n`)
      .join(""),
  vtt: (job) => `WEBVTT\n\n${job.segments.map(({ start, end, text }) => `${time(start)} --> ${time(end)}\n${text.trim()}\n\n`).join("")}`,
  json: (job) => `${JSON.stringify({ text: job.text.trim(), segments: job.segments }, null, 1)}\n`,
};

/** One file on its way to a text. */
class Job {
  constructor(file) {
    this.file = file;
    const make = (name, parent, className = "", text = "") => {
      const element = document.createElement(name);
      element.className = className;
      element.textContent = text;
      parent.append(element);
      return element;
    };
    this.item = document.createElement("li");
    make("div", this.item, "name", file.name);
    this.sound = make("audio", this.item);
    this.sound.controls = true;
    this.sound.preload = "metadata";
    this.sound.src = URL.createObjectURL(file);
    // Formats that this browser cannot play may still be written down.
    this.sound.onerror = () => (this.sound.hidden = true);
    this.bar = make("progress", this.item);
    this.bar.max = 1;
    this.bar.value = 0;
    this.bar.setAttribute("aria-label", `Progress of ${file.name}`);
    this.facts = make("p", this.item, "facts", "waits");
    this.facts.setAttribute("role", "status");
    this.shown = make("div", this.item, "text");
    this.shown.tabIndex = 0;
    this.shown.setAttribute("aria-label", `Text of ${file.name}`);
    const row = make("p", this.item, "row");
    const button = (text, pressed) => {
      const made = make("button", row, "", text);
      made.addEventListener("click", pressed);
      return made;
    };
    this.cancelling = button("Cancel", () => this.cancel());
    this.again = button("Again", () => this.restart());
    this.saving = Object.entries(FORMATS).map(([ending, write]) =>
      button(`Save ${ending}`, () => download(write(this), `${file.name.replace(/\.[^.]*$/, "")}.${ending}`)),
    );
    this.copying = button("Copy", () => navigator.clipboard?.writeText(this.text.trim()));
    this.copying.hidden = !navigator.clipboard;
    button("Remove", () => this.remove());
    this.reset();
    $("files").prepend(this.item);
  }

  reset() {
    this.text = "";
    this.segments = [];
    this.read = 0;
    this.rest = "";
    this.failure = "";
    this.shown.replaceChildren();
    this.bar.hidden = false;
    this.bar.value = 0;
    this.say("waits");
    this.buttons(true);
  }

  say(text, failed = false) {
    this.facts.textContent = text;
    this.facts.classList.toggle("failed", failed);
  }

  buttons(busy) {
    this.cancelling.hidden = !busy;
    this.again.hidden = busy;
    this.saving.forEach((button) => (button.hidden = !this.text));
    this.copying.hidden = !this.text || !navigator.clipboard;
  }

  run() {
    const form = new FormData();
    const model = $("file-model").value;
    if (model) form.append("model", model);
    const language = $("file-language").value.trim();
    if (language) form.append("language", language);
    if ($("file-translate").checked) form.append("task", "translate");
    form.append("stream", "true");
    form.append("response_format", "verbose_json");
    form.append("file", this.file);
    this.started = performance.now();
    this.first = null;
    // `fetch` does not tell how much of a file has left.
    const request = new XMLHttpRequest();
    this.request = request;
    request.open("POST", "/v1/audio/transcriptions");
    Object.entries(headers()).forEach(([name, value]) => request.setRequestHeader(name, value));
    request.upload.onprogress = ({ loaded, total }) => {
      this.bar.value = loaded / total;
      this.say(`${Math.round((100 * loaded) / total)} % sent`);
    };
    request.upload.onload = () => {
      this.bar.removeAttribute("value");
      this.say("the server reads it");
    };
    request.onprogress = () => request.status === 200 && this.receive();
    request.onload = () => {
      if (request.status === 200) this.receive();
      this.end(request.status === 200 ? this.failure : complaint(request.status, request.responseText));
    };
    request.onerror = () => this.end(complaint(0, ""));
    request.onabort = () => this.end("cancelled");
    request.send(form);
  }

  /** The new events of `text/event-stream`. */
  receive() {
    const { responseText } = this.request;
    const parts = (this.rest + responseText.slice(this.read)).split("\n\n");
    this.read = responseText.length;
    this.rest = parts.pop();
    parts.forEach((part) => this.told(JSON.parse(part.replace(/^data: /, ""))));
  }

  told(event) {
    if (event.type === "transcript.text.delta") {
      this.first ??= since(this.started);
      this.text += event.delta;
    } else if (event.type === "transcript.text.segment") {
      const { start, end, text } = event;
      this.segments.push({ start, end, text });
      this.show(start, text);
      const { duration } = this.sound;
      if (Number.isFinite(duration) && duration > 0) {
        this.bar.value = Math.min(1, end / duration);
        this.say(`${Math.round(100 * this.bar.value)} % written down`);
      } else {
        this.say(`${time(end, ".", false)} written down`);
      }
    } else if (event.type === "transcript.text.done") {
      this.seconds = event.usage.seconds;
    } else if (event.type === "error") {
      this.failure = event.error.message;
    }
  }

  show(start, text) {
    const line = document.createElement("div");
    const moment = document.createElement("button");
    moment.className = "moment";
    moment.textContent = time(start, ".", start >= 3600).replace(/\.\d+$/, "");
    moment.title = "Hear it from here";
    moment.addEventListener("click", () => {
      this.sound.currentTime = start;
      this.sound.play();
    });
    line.append(moment, text.trim());
    this.shown.append(line);
    this.shown.scrollTop = this.shown.scrollHeight;
  }

  /** The end of the request; the next file may come. */
  end(failure) {
    this.bar.hidden = true;
    const took = since(this.started);
    if (failure) this.say(failure, true);
    else this.say(`${this.seconds} s of sound in ${took} ms, first text after ${this.first ?? "–"} ms`);
    if (!failure && !this.text) this.shown.textContent = "(no words)";
    this.request = null;
    this.buttons(false);
    if (working === this) working = null;
    next();
  }

  cancel() {
    if (this.request) return this.request.abort();
    this.leave();
    this.say("cancelled", true);
    this.bar.hidden = true;
    this.buttons(false);
  }

  restart() {
    this.reset();
    queue.push(this);
    next();
  }

  /** It waits no longer. */
  leave() {
    const place = queue.indexOf(this);
    if (place >= 0) queue.splice(place, 1);
  }

  remove() {
    this.leave();
    this.request?.abort();
    this.sound.pause();
    URL.revokeObjectURL(this.sound.src);
    this.item.remove();
  }
}
