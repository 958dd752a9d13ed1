// The page of `turaco serve`: live captions, recordings, voices. Everything goes through the public interface.

const $ = (id) => document.getElementById(id);
const ms = (since) => Math.round(performance.now() - since);

$("key").value = sessionStorage.getItem("key") ?? "";
$("key").addEventListener("change", () => {
  sessionStorage.setItem("key", $("key").value);
  loadLists();
});

function headers(more = {}) {
  const key = $("key").value;
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

async function failure(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `${response.status} ${response.statusText}`;
  }
}

function fill(select, names) {
  const chosen = select.value;
  select.replaceChildren(...names.map((name) => new Option(name, name)));
  if (names.includes(chosen)) select.value = chosen;
}

async function loadLists() {
  const response = await fetch("/v1/models", { headers: headers() });
  if (!response.ok) {
    $("status").textContent = await failure(response);
    return;
  }
  const models = (await response.json()).data;
  const names = (task) => models.filter((model) => model.task === task).map((model) => model.id);
  const hearing = [...names("automatic-speech-recognition"), ...names("audio-text-to-text")];
  fill($("live-model"), hearing);
  fill($("file-model"), hearing);
  fill($("voice-model"), names("text-to-speech"));
  $("status").textContent = `${models.length} models here`;
  await loadVoices();
}

async function loadVoices() {
  const response = await fetch("/v1/audio/voices", { headers: headers() });
  if (!response.ok) return;
  const model = $("voice-model").value;
  const voices = (await response.json()).voices.filter((voice) => !voice.model || voice.model === model);
  $("voice").replaceChildren(new Option("the model's own", ""), ...voices.map((voice) => new Option(voice.name, voice.id)));
}
$("voice-model").addEventListener("change", loadVoices);

function saveText(element, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([element.innerText], { type: "text/plain" }));
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}
$("live-save").addEventListener("click", () => saveText($("captions"), "captions.txt"));
$("file-save").addEventListener("click", () => saveText($("file-text"), "transcript.txt"));
$("live-clear").addEventListener("click", () => $("captions").replaceChildren());

// Live captions.

let live = null;

$("live-start").addEventListener("click", () => (live ? stopLive() : startLive().catch((error) => endLive(error.message))));

async function startLive() {
  $("live-start").textContent = "Stop";
  live = { items: new Map() };
  const here = live;
  here.stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1, echoCancellation: true } });
  here.context = new AudioContext({ sampleRate: 24000 });
  await here.context.audioWorklet.addModule("/ui/capture.js");
  const query = new URLSearchParams({ model: $("live-model").value, intent: "transcription" });
  const language = $("live-language").value.trim();
  if (language) query.set("language", language);
  const key = $("key").value;
  const protocols = key ? ["realtime", `openai-insecure-api-key.${key}`] : ["realtime"];
  here.socket = new WebSocket(`${location.origin.replace("http", "ws")}/v1/realtime?${query}`, protocols);
  here.socket.onmessage = (message) => liveEvent(here, JSON.parse(message.data));
  here.socket.onerror = () => endLive("the connection failed");
  here.socket.onclose = (event) => here === live && endLive(event.reason || "the connection ended");
  await new Promise((resolve) => (here.socket.onopen = resolve));
  here.socket.send(JSON.stringify({
    type: "session.update",
    session: {
      type: "transcription",
      audio: {
        input: {
          format: { type: "audio/pcm", rate: here.context.sampleRate },
          turn_detection: { type: "server_vad", silence_duration_ms: Number($("live-pause").value) },
        },
      },
    },
  }));
  const node = new AudioWorkletNode(here.context, "capture");
  node.port.onmessage = ({ data }) => {
    $("level").value = data.peak;
    // Binary frames are the same bytes without base64.
    if (here.socket.readyState === WebSocket.OPEN) here.socket.send(data.samples.buffer);
  };
  here.context.createMediaStreamSource(here.stream).connect(node);
  $("live-facts").textContent = "listening";
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

function liveEvent(here, event) {
  const item = event.item_id && /transcription|speech/.test(event.type) ? caption(here, event.item_id) : null;
  switch (event.type.replace("conversation.item.input_audio_transcription.", "")) {
    case "input_audio_buffer.speech_started":
      $("speech").textContent = "speech";
      $("speech").classList.add("on");
      break;
    case "input_audio_buffer.speech_stopped":
      $("speech").textContent = "silence";
      $("speech").classList.remove("on");
      item.stopped = performance.now();
      break;
    case "delta":
      item.first ??= ms(item.started);
      item.line.append(event.delta);
      break;
    case "completed":
      item.line.textContent = event.transcript;
      item.line.className = "";
      if (!event.transcript) item.line.remove();
      $("live-facts").textContent =
        `text ${item.stopped ? ms(item.stopped) : "–"} ms after the end of speech was heard` +
        (item.first === undefined ? "" : `, first words ${item.first} ms after its start`);
      break;
    case "failed":
      item.line.textContent = event.error.message;
      item.line.className = "failed";
      break;
    case "error":
      $("live-facts").textContent = event.error.message;
      break;
  }
  $("captions").scrollTop = $("captions").scrollHeight;
}

function stopLive() {
  // What was said is written down before the connection ends.
  const here = live;
  here.stream?.getTracks().forEach((track) => track.stop());
  if (here.socket?.readyState === WebSocket.OPEN) {
    here.socket.send(JSON.stringify({ type: "input_audio_buffer.commit" }));
    setTimeout(() => here.socket.close(), 3000);
  }
  endLive("stopped", true);
}

function endLive(message, keepSocket = false) {
  if (live) {
    live.stream?.getTracks().forEach((track) => track.stop());
    live.context?.close();
    if (!keepSocket) live.socket?.close();
  }
  live = null;
  $("live-start").textContent = "Start";
  $("level").value = 0;
  $("speech").textContent = "silence";
  $("speech").classList.remove("on");
  $("live-facts").textContent = message;
}

// A recording.

const drop = $("drop");
drop.addEventListener("click", () => $("file").click());
drop.addEventListener("keydown", (event) => ["Enter", " "].includes(event.key) && $("file").click());
drop.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.classList.add("over");
});
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  if (event.dataTransfer.files[0]) transcribe(event.dataTransfer.files[0]);
});
$("file").addEventListener("change", () => $("file").files[0] && transcribe($("file").files[0]));

async function transcribe(file) {
  const started = performance.now();
  $("file-text").textContent = "";
  $("file-facts").textContent = `${file.name} …`;
  const form = new FormData();
  form.append("model", $("file-model").value);
  const language = $("file-language").value.trim();
  if (language) form.append("language", language);
  form.append("stream", "true");
  form.append("file", file);
  const response = await fetch("/v1/audio/transcriptions", { method: "POST", headers: headers(), body: form });
  if (!response.ok) {
    $("file-facts").textContent = await failure(response);
    return;
  }
  let first = null;
  for await (const event of events(response.body)) {
    if (event.type === "transcript.text.delta") {
      first ??= ms(started);
      $("file-text").append(event.delta);
    } else if (event.type === "transcript.text.done") {
      const seconds = event.usage.seconds;
      $("file-facts").textContent = `${file.name}: ${seconds} s of sound in ${ms(started)} ms, first text after ${first ?? "–"} ms`;
    } else if (event.type === "error") {
      $("file-facts").textContent = event.error.message;
    }
  }
}

// The events of `text/event-stream`.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) yield JSON.parse(part.replace(/^data: /, ""));
  }
}

// Voices.

let voice = null;

$("voice-stop").addEventListener("click", stopVoice);
$("voice-start").addEventListener("click", () => say().catch((error) => ($("voice-facts").textContent = error.message)));

function stopVoice() {
  voice?.abort.abort();
  voice?.context.close();
  voice = null;
}

async function say() {
  stopVoice();
  const here = { abort: new AbortController(), context: new AudioContext({ sampleRate: 24000 }) };
  voice = here;
  const started = performance.now();
  $("voice-facts").textContent = "…";
  const body = {
    model: $("voice-model").value || undefined,
    input: $("say").value,
    voice: $("voice").value || undefined,
    instructions: $("instructions").value.trim() || undefined,
    speed: Number($("speed").value) || 1,
    response_format: "pcm",
    sample_rate: 24000,
  };
  const response = await fetch("/v1/audio/speech", {
    method: "POST",
    headers: headers({ "Content-Type": "application/json" }),
    body: JSON.stringify(body),
    signal: here.abort.signal,
  });
  if (!response.ok) {
    $("voice-facts").textContent = await failure(response);
    return;
  }
  const reader = response.body.getReader();
  let [rest, at, first, total] = [new Uint8Array(), 0, null, 0];
  for (;;) {
    const { value, done } = await reader.read();
    if (done || voice !== here) break;
    const bytes = new Uint8Array(rest.length + value.length);
    bytes.set(rest);
    bytes.set(value, rest.length);
    const count = bytes.length >> 1;
    rest = bytes.slice(2 * count);
    if (!count) continue;
    first ??= ms(started);
    const samples = new Int16Array(bytes.buffer, 0, count);
    const buffer = here.context.createBuffer(1, count, 24000);
    buffer.getChannelData(0).set(Float32Array.from(samples, (sample) => sample / 32768));
    const source = here.context.createBufferSource();
    source.buffer = buffer;
    source.connect(here.context.destination);
    at = Math.max(at, here.context.currentTime + 0.02);
    source.start(at);
    at += buffer.duration;
    total += buffer.duration;
    $("voice-facts").textContent = `first sound after ${first} ms, ${total.toFixed(2)} s of speech so far`;
  }
  $("voice-facts").textContent = `first sound after ${first} ms, ${total.toFixed(2)} s of speech in ${ms(started)} ms`;
}

loadLists().catch((error) => ($("status").textContent = error.message));
