// What was said in a conversation, line by line, and how long one waited for it.

import { $ } from "./server.js";

const WHO = { user: "You", answer: "Answer" };

/** Turns whose waiting counts for the medians. */
const REMEMBERED = 100;

const turns = [];

/** Waiting for one answer, on the page's clock; `ended` is when the question did. */
export class Turn {
  constructor(ended) {
    this.ended = ended;
  }

  /** More text came. */
  text() {
    this.firstText ??= performance.now() - this.ended;
  }

  /** More sound came that will be heard at this time. */
  sound(at) {
    this.firstSound ??= at - this.ended;
  }

  /** The answer is complete; what the server measured. */
  server(timings, spoken) {
    this.timings = timings;
    this.spoken = spoken;
    if (this.firstText === undefined) return;
    turns.push(this);
    if (turns.length > REMEMBERED) turns.shift();
  }

  /** Both sides' numbers in words. */
  toString() {
    const { turn_end, transcript, first_text, first_audio } = this.timings ?? {};
    const whole = (milliseconds) => `${Math.round(milliseconds)} ms`;
    const parts = (named) => named.filter(([, value]) => value !== undefined).map(([name, value]) => `${name} ${whole(value)}`);
    const page = parts([["text", this.firstText], ["heard", this.firstSound]]);
    const seconds = (value) => (value === undefined ? undefined : value * 1000);
    const server = parts([
      ["question written", seconds(transcript)],
      ["text", seconds(first_text)],
      ["sound", seconds(first_audio)],
    ]);
    const sides = [];
    if (page.length) sides.push(`after the end of the question: ${page.join(", ")}`);
    // Only silence is waited for.
    const over = turn_end === undefined ? "" : `turn over ${whole(turn_end * 1000)}, then `;
    if (server.length) sides.push(`server: ${over}${server.join(", ")}`);
    return sides.join(" · ");
  }
}

function median(values) {
  const sorted = values.filter((value) => value !== undefined).sort((a, b) => a - b);
  return sorted.length ? `${Math.round(sorted[sorted.length >> 1])} ms` : "–";
}

/** The waiting in all turns. */
export function summary() {
  if (!turns.length) return "";
  const count = turns.length === 1 ? "1 answer" : `${turns.length} answers`;
  const text = median(turns.map((turn) => turn.firstText));
  const sound = median(turns.map((turn) => turn.firstSound));
  const spoken = turns.some((turn) => turn.spoken) ? `, heard after ${sound}` : "";
  return `${count}; median: first text ${text} after the end of the question${spoken}`;
}

function append(element) {
  const list = $("talk-text");
  // Whoever has scrolled back to read is left there.
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  list.append(element);
  if (atEnd) list.scrollTop = list.scrollHeight;
}

/** Something that one of the two says. */
export class Line {
  constructor(who) {
    this.item = document.createElement("li");
    this.item.className = `${who} open`;
    const name = document.createElement("span");
    name.className = "who";
    name.textContent = WHO[who];
    this.said = document.createElement("span");
    this.said.textContent = "…";
    this.facts = document.createElement("small");
    this.item.append(name, this.said, this.facts);
    this.remarks = [];
    this.isEmpty = true;
    append(this.item);
  }

  write(text) {
    if (this.isEmpty) this.said.textContent = "";
    this.isEmpty = false;
    this.said.append(text);
    this.#follow();
    return this;
  }

  /** Nothing more comes; `text` is all of it, if it is known. */
  finish(text) {
    if (text !== undefined) this.said.textContent = text;
    else if (this.isEmpty) this.said.textContent = this.item.classList.contains("user") ? "(spoken)" : "(nothing)";
    this.item.classList.remove("open");
    this.#tell();
  }

  fail(message) {
    this.finish(message);
    this.said.className = "failed";
  }

  /** What became of it. */
  remark(text) {
    this.remarks.push(text);
    this.#tell();
  }

  #tell() {
    this.facts.textContent = [...this.remarks, this.turn?.toString()].filter(Boolean).join(" · ");
    this.#follow();
  }

  #follow() {
    const list = $("talk-text");
    if (list.scrollHeight - list.scrollTop - list.clientHeight < 80) list.scrollTop = list.scrollHeight;
  }
}

/** A new conversation, which knows nothing of what is above. */
export function separate() {
  const list = $("talk-text");
  if (!list.children.length || list.lastChild.className === "break") return;
  const item = document.createElement("li");
  item.className = "break";
  item.textContent = "a new conversation, which does not know the one above";
  append(item);
}

/** Nothing was said. */
export function forget() {
  $("talk-text").replaceChildren();
  $("talk-facts").textContent = "";
  turns.length = 0;
}
