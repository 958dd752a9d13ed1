// What all parts of the page need of the server: the key, requests, what it has, and WebSockets.

export const $ = (id) => document.getElementById(id);

/** Whole milliseconds since a `performance.now()`. */
export const since = (start) => Math.round(performance.now() - start);

/** Show a message in a line of its own; none hides the line. */
export function notice(line, message = "") {
  line.textContent = message;
  line.hidden = !message;
}

export function fill(select, options, chosen) {
  const before = select.value;
  select.replaceChildren(...options.map(([value, text]) => new Option(text ?? value, value)));
  const values = options.map(([value]) => value);
  const wanted = [before, chosen].find((value) => value && values.includes(value));
  if (wanted !== undefined) select.value = wanted;
}

/** Hand a text or a blob to the user as a file. */
export function download(content, name, type = "text/plain;charset=utf-8") {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

const key = () => $("key").value.trim();

export const headers = (more = {}) => (key() ? { ...more, Authorization: `Bearer ${key()}` } : more);

/** What an answer that failed says, from its status and its text. */
export function complaint(status, text) {
  if (status === 401) return key() ? "The API key is wrong." : "This server wants an API key: write it at the top of the page.";
  try {
    return JSON.parse(text).error.message;
  } catch {
    return status ? `The server answered ${status}.` : "The server cannot be reached.";
  }
}

/** `fetch` that throws what the server complains about. */
export async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: headers(options.headers) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(complaint(0, ""));
  }
  if (!response.ok) throw new Error(complaint(response.status, await response.text()));
  return response;
}

/** What the server has, as of the last look. */
export const known = {
  /** Why nothing is known, if that is so. */
  failure: "The server was not asked yet.",
  models: [],
  voices: [],
  defaults: {},
  ids: (...tasks) => known.models.filter((model) => tasks.includes(model.task)).map((model) => model.id),
  voicesOf: (model) => known.voices.filter((voice) => !voice.model || voice.model === model),
};
export const HEARS = "automatic-speech-recognition";
export const ANSWERS = "audio-text-to-text";
export const SPEAKS = "text-to-speech";

const watchers = [];

/** Call `watcher` whenever there is news of what the server has. */
export function whenKnown(watcher) {
  watchers.push(watcher);
}

export async function look() {
  try {
    const models = await (await ask("/v1/models")).json();
    known.models = models.data;
    known.defaults = models.defaults ?? {};
    known.voices = (await (await ask("/v1/audio/voices")).json()).voices;
    $("status").textContent = known.models.length === 1 ? "1 model here" : `${known.models.length} models here`;
    $("status").className = known.failure = "";
  } catch (error) {
    $("status").textContent = known.failure = error.message;
    $("status").className = "failed";
  }
  watchers.forEach((watcher) => watcher());
}

/** Names of voices for a `select`. */
export const voiceOptions = (model) => [["", "the model's own"], ...known.voicesOf(model).map((voice) => [voice.id, voice.name])];

/** An open WebSocket. Those of a browser can set no headers; the key comes as a protocol, or in the address if it has other letters. */
export async function connect(query) {
  const address = new URL("/v1/realtime", location.href.replace(/^http/, "ws"));
  address.search = new URLSearchParams(query);
  const protocols = ["realtime"];
  if (/^[\w!#$%&'*+.^`|~-]+$/.test(key())) protocols.push(`openai-insecure-api-key.${key()}`);
  else if (key()) address.search += `&api_key=${encodeURIComponent(key())}`;
  const socket = new WebSocket(address, protocols);
  const opened = await new Promise((resolve) => {
    socket.onopen = () => resolve(true);
    socket.onclose = () => resolve(false);
  });
  if (opened) return socket;
  // A browser does not tell pages why it was refused; a plain request may.
  await ask("/v1/models");
  throw new Error("The server refused the connection: it has too many of them, or not this model.");
}
