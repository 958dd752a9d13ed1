// Live captions: what the microphone hears, written down while it is said.

import { Microphone, RATE } from "./audio.js";
import { $, HEARS, connect, download, fill, known, notice, since, whenKnown } from "./server.js";

const TRANSCRIPTION = "conversation.item.input_audio_transcription.";

let live = null;

whenKnown(() => fill($("live-model"), known.ids(HEARS).map((id) => [id]), known.defaults[HEARS]));
$("live-clear").addEventListener("click", () => $("captions").replaceChildren());
$("live-save").addEventListener("click", () => download($("captions").innerText, "captions.txt"));
$("live-start").addEventListener("click", () => (live ? finish() : start()));

async function start() {
  const here = { items: new Map() };
  live = here;
  notice($("live-notice"));
  $("live-start").textContent = "Stop";
  $("live-facts").textContent = "connecting";
  try {
    here.microphone = await Microphone.open(
      (samples, peak) => hear(here, samples, peak),
      () => end(here, "the microphone is gone"),
    );
    if (here !== live) return here.microphone.close();
    const query = { model: $("live-model").value, intent: "transcription" };
    const language = $("live-language").value.trim();
    if (language) query.language = language;
    const socket = await connect(query);
    if (here !== live) return socket.close();
    listen(here, socket);
  } catch (error) {
    end(here, "", error.message);
  }
}

function listen(here, socket) {
  socket.onmessage = (message) => told(here, JSON.parse(message.data));
  socket.onclose = (event) => end(here, "", event.reason ? `The connection ended: ${event.reason}` : "The connection ended.");
  const turn_detection = { type: "server_vad", silence_duration_ms: Number($("live-pause").value) || 500 };
  const input = { format: { type: "audio/pcm", rate: RATE }, turn_detection };
  socket.send(JSON.stringify({ type: "session.update", session: { type: "transcription", audio: { input } } }));
  here.socket = socket;
  $("live-facts").textContent = "listening";
}

function hear(here, samples, peak) {
  if (here !== live) return;
  $("level").value = peak;
  // Binary frames are the same bytes without base64.
  if (here.socket?.readyState === WebSocket.OPEN) here.socket.send(samples.buffer);
}

function caption(here, id) {
  if (!here.items.has(id)) {
    const line = document.createElement("div");
    line.className = "open";
    $("captions").append(line);
    here.items.set(id, { line, started: performance.now() });
  }
  return here.items.get(id);
}

function lamp(speaks) {
  $("speech").textContent = speaks ? "speech" : "silence";
  $("speech").classList.toggle("on", speaks);
}

function told(here, event) {
  const item = event.item_id && /transcription|speech/.test(event.type) ? caption(here, event.item_id) : null;
  switch (event.type) {
    case "input_audio_buffer.speech_started":
      lamp(true);
      break;
    case "input_audio_buffer.speech_stopped":
      lamp(false);
      item.stopped = performance.now();
      break;
    case TRANSCRIPTION + "delta":
      item.first ??= since(item.started);
      item.line.append(event.delta);
      break;
    case TRANSCRIPTION + "completed":
      item.line.textContent = event.transcript;
      item.line.className = "";
      if (!event.transcript) item.line.remove();
      $("live-facts").textContent =
        `text ${item.stopped ? since(item.stopped) : "–"} ms after the end of speech was heard` +
        (item.first === undefined ? "" : `, first words ${item.first} ms after its start`);
      item.done = true;
      if (here.finishing && !isOpen(here)) here.socket.close();
      break;
    case TRANSCRIPTION + "failed":
      item.line.textContent = event.error.message;
      item.line.className = "failed";
      item.done = true;
      break;
    case "error":
      // Without a model that can be used every piece of sound would be complained about.
      if (here === live && !here.items.size) end(here, "", event.error.message);
      else if (here === live) notice($("live-notice"), event.error.message);
      break;
  }
  $("captions").scrollTop = $("captions").scrollHeight;
}

const isOpen = (here) => [...here.items.values()].some((item) => !item.done);

/** What was said is written down before the connection ends. */
function finish() {
  const here = live;
  here.finishing = here.socket?.readyState === WebSocket.OPEN && isOpen(here);
  if (here.finishing) {
    here.socket.send(JSON.stringify({ type: "input_audio_buffer.commit" }));
    setTimeout(() => here.socket.close(), 10_000);
  }
  end(here, "stopped");
}

function end(here, fact, failure = "") {
  here.microphone?.close();
  if (!here.finishing) here.socket?.close();
  if (here !== live) return;
  live = null;
  $("live-start").textContent = "Start";
  $("level").value = 0;
  lamp(false);
  $("live-facts").textContent = fact;
  notice($("live-notice"), failure);
}
