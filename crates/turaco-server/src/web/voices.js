// Voices: hear a text in each of them, save the voice of a recording.

import { Player, RATE, wav } from "./audio.js";
import { $, SPEAKS, ask, download, fill, known, look, notice, since, voiceOptions, whenKnown } from "./server.js";

let saying = null;
/** The sound of the last text, for saving. */
let pieces = [];

whenKnown(() => {
  fill($("voice-model"), known.ids(SPEAKS).map((id) => [id]), known.defaults[SPEAKS]);
  const nobody = known.ids(SPEAKS).length === 0;
  notice($("voice-notice"), nobody && !known.failure ? "There is no model here that speaks: turaco models pull qwen3-tts-0.6b-customvoice." : "");
  $("voice-start").disabled = nobody;
  list();
});
$("voice-model").addEventListener("change", list);
$("voice-stop").addEventListener("click", () => stop("stopped"));
$("voice-start").addEventListener("click", () => say($("voice").value));
$("voice-save").addEventListener("click", () => download(wav(pieces), "speech.wav"));
$("voice-form").addEventListener("submit", (event) => {
  event.preventDefault();
  save();
});

/** The voices of the chosen model, each with a button to hear it. */
function list() {
  const model = $("voice-model").value;
  fill($("voice"), model ? voiceOptions(model) : []);
  $("voices").replaceChildren(...(model ? known.voicesOf(model).map(entry) : []));
}

function entry(voice) {
  const item = document.createElement("li");
  const hear = document.createElement("button");
  hear.textContent = "▶";
  hear.setAttribute("aria-label", `Hear ${voice.name}`);
  hear.addEventListener("click", () => {
    $("voice").value = voice.id;
    say(voice.id);
  });
  const about = [voice.language, voice.kind === "saved" && "saved"].filter(Boolean).join(", ");
  item.append(hear, ` ${voice.name}${about ? ` (${about})` : ""} `);
  if (voice.kind === "saved") {
    const remove = document.createElement("button");
    remove.textContent = "✕";
    remove.setAttribute("aria-label", `Remove ${voice.name}`);
    remove.addEventListener("click", () => confirm(`Remove the voice ${voice.name}?`) && act("DELETE", voice.id));
    item.append(remove);
  }
  return item;
}

/** Change the saved voices, and look at them again. */
async function act(method, id, body) {
  try {
    notice($("voice-notice"));
    $("voice-facts").textContent = "…";
    await ask(`/v1/audio/voices${id ? `/${encodeURIComponent(id)}` : ""}`, { method, body });
    $("voice-facts").textContent = method === "DELETE" ? "removed" : "saved";
    await look();
    return true;
  } catch (error) {
    $("voice-facts").textContent = "";
    notice($("voice-notice"), error.message);
    return false;
  }
}

async function save() {
  const form = new FormData();
  form.append("name", $("voice-name").value.trim());
  form.append("model", $("voice-model").value);
  const text = $("voice-text").value.trim();
  if (text) form.append("text", text);
  form.append("file", $("voice-file").files[0]);
  if (await act("POST", "", form)) $("voice-form").reset();
}

function stop(fact) {
  if (!saying) return;
  saying.abort.abort();
  saying.player.close();
  saying = null;
  $("voice-stop").disabled = true;
  if (fact) $("voice-facts").textContent = fact;
}

async function say(voice) {
  stop();
  const here = { abort: new AbortController(), player: new Player() };
  saying = here;
  pieces = [];
  $("voice-stop").disabled = false;
  $("voice-save").disabled = true;
  notice($("voice-notice"));
  $("voice-facts").textContent = "…";
  try {
    await play(here, voice);
    $("voice-save").disabled = pieces.length === 0;
  } catch (error) {
    if (here !== saying) return;
    stop();
    $("voice-facts").textContent = "";
    notice($("voice-notice"), error.message);
  }
}

async function play(here, voice) {
  const started = performance.now();
  const body = {
    model: $("voice-model").value || undefined,
    input: $("say").value,
    voice: voice || undefined,
    instructions: $("instructions").value.trim() || undefined,
    speed: Number($("speed").value) || 1,
    response_format: "pcm",
    sample_rate: RATE,
  };
  const response = await ask("/v1/audio/speech", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal: here.abort.signal,
  });
  const reader = response.body.getReader();
  let [rest, first, total] = [new Uint8Array(), null, 0];
  for (;;) {
    const { value, done } = await reader.read();
    if (here !== saying) return;
    if (done) break;
    const bytes = new Uint8Array(rest.length + value.length);
    bytes.set(rest);
    bytes.set(value, rest.length);
    const count = bytes.length >> 1;
    rest = bytes.slice(2 * count);
    if (!count) continue;
    first ??= since(started);
    const samples = new Int16Array(bytes.buffer, 0, count);
    here.player.push(samples, "speech");
    pieces.push(samples);
    total += count / RATE;
    $("voice-facts").textContent = `first sound after ${first} ms, ${total.toFixed(2)} s of speech so far`;
  }
  $("voice-facts").textContent = `first sound after ${first ?? "–"} ms, ${total.toFixed(2)} s of speech in ${since(started)} ms`;
  const finished = () => here === saying && stop();
  here.player.playing ? (here.player.onidle = finished) : finished();
}
