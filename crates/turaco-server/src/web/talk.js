// A conversation: the microphone and written questions go to somebody who answers, answers are played as they arrive, and speech
// interrupts them.

import { Microphone, Player, RATE } from "./audio.js";
import { $, ANSWERS, HEARS, SPEAKS, connect, download, fill, known, notice, voiceOptions, whenKnown } from "./server.js";
import { Line, Turn, forget, separate, summary } from "./transcript.js";

const TRANSCRIPTION = "conversation.item.input_audio_transcription.";
/** Ids of the events at the beginning, whose failure ends the conversation. */
const OPENING = ["settings", "ready"];
/** They are fixed by the first sound or question. */
const FIXED = ["talk-mind", "talk-ear", "talk-voice"];

/** Seconds that a button is held at least: less is a slip. */
const SHORTEST = 0.2;
/** Milliseconds after which the last block of sound of a turn (20 ms) is not waited for any more. */
const LAST_BLOCK = 100;
/** Where the space bar has a use of its own. */
const TAKES_SPACE = "input, textarea, select, button, summary, a";

let talk = null;
/** Whether the button, or the space bar, is held. */
let held = false;
/** Whether the microphone is being asked for. */
let opening = false;

whenKnown(() => {
  show();
  if (known.failure) return notice($("talk-notice"), known.failure);
  const { defaults } = known;
  const minds = defaults.endpoint ? [["", defaults.endpoint]] : known.ids(ANSWERS).map((id) => [id]);
  fill($("talk-mind"), minds);
  const nobody = defaults.endpoint ? [] : [["", "nobody"]];
  fill($("talk-ear"), [...nobody, ...known.ids(HEARS).map((id) => [id])], defaults[HEARS]);
  const voices = defaults[SPEAKS] ? voiceOptions(defaults[SPEAKS]) : [];
  fill($("talk-voice"), [...voices, ["none", "none: answers are only written"]]);
  notice($("talk-notice"), hindrance() || writtenOnly());
});

/** What this server would need for a conversation. */
function hindrance() {
  if (known.failure) return known.failure;
  if (!$("talk-mind").options.length) {
    return "Nobody here can answer. Start the server with --llm-url (a chat endpoint), or fetch a model that hears: turaco models pull voxtral-mini.";
  }
  if (!$("talk-ear").options.length) {
    return "A chat endpoint reads, and there is no model here that writes down what is said: turaco models pull base.";
  }
  return "";
}

function writtenOnly() {
  if (known.defaults[SPEAKS]) return "";
  return "Answers are only written, as the model that would say them (--tts-model) is not here: turaco models pull qwen3-tts-0.6b-customvoice.";
}

$("talk-start").addEventListener("click", () => (talk?.microphone ? end("off") : speak()));
$("talk-mute").addEventListener("click", () => mute(!talk.muted));
$("talk-hush").addEventListener("click", () => hush(true));
$("talk-new").addEventListener("click", () => {
  end("off");
  forget();
});
$("talk-save").addEventListener("click", () => download($("talk-text").innerText, "conversation.txt"));
$("talk-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("talk-question").value.trim();
  if (text) write(text);
});
$("talk-form").closest("section").addEventListener("keydown", (event) => {
  if (event.key === "Escape" && talk) hush(true);
});
$("talk-hold").addEventListener("pointerdown", (event) => {
  // Where the finger goes to, it is held.
  if (event.isTrusted) event.target.setPointerCapture(event.pointerId);
  press();
});
for (const over of ["pointerup", "pointercancel", "lostpointercapture", "blur"]) $("talk-hold").addEventListener(over, release);
document.addEventListener("keydown", (event) => {
  const isTaken = event.target !== $("talk-hold") && event.target.closest?.(TAKES_SPACE);
  if (event.code !== "Space" || isTaken || !isHold()) return;
  event.preventDefault();
  if (!event.repeat) press();
});
document.addEventListener("keyup", (event) => {
  if (event.code !== "Space" || !held) return;
  event.preventDefault();
  release();
});
window.addEventListener("blur", release);
$("talk-mode").addEventListener("change", () => {
  release();
  // The settings that follow end a turn otherwise.
  finishTurn();
  show();
});
for (const id of ["talk-mode", "talk-pause", "talk-interrupt", "talk-instructions", "talk-language"]) {
  $(id).addEventListener("change", () => talk?.ready && send({ type: "session.update", session: settings() }));
}

/** Begin to listen, in the conversation that there is or in a new one. */
async function speak() {
  notice($("talk-notice"), hindrance());
  if (opening || hindrance()) return;
  opening = true;
  const here = conversation();
  show();
  try {
    const microphone = await Microphone.open(
      (samples, peak) => hear(here, samples, peak),
      () => here === talk && end("off", "The microphone is gone."),
    );
    if (here !== talk) return microphone.close();
    here.microphone = microphone;
    await here.opened;
  } catch (error) {
    // Without a microphone one can still write.
    if (here === talk) here.ready ? notice($("talk-notice"), error.message) : end("off", error.message);
  } finally {
    opening = false;
    show();
  }
}

/** Whether what is said is a turn while a button is held, or what comes before a pause. */
function isHold() {
  return $("talk-mode").value === "hold";
}

/** The button is held: what is said from now on is a turn. The answer that is going on ends. */
async function press() {
  if (!isHold() || held) return;
  finishTurn();
  held = true;
  show();
  if (!talk?.microphone) await speak();
  // The microphone, or the models, may have taken longer than the button was held.
  if (!held || !talk?.ready || !talk.microphone || talk.pressed !== undefined) return;
  hush(true);
  talk.pressed = talk.sent;
  talk.state = "you speak";
  show();
}

/** The button is let go: the turn is over with the block of sound that the microphone has begun, which the last syllable may be in. */
function release() {
  if (!held) return;
  held = false;
  // No block comes from a microphone that is gone, or that the browser has stopped.
  if (talk?.pressed !== undefined) talk.releasing = setTimeout(finishTurn, LAST_BLOCK);
  show();
}

/** All sound of a turn that was let go was sent. */
function finishTurn() {
  if (!talk?.releasing) return;
  clearTimeout(talk.releasing);
  talk.releasing = undefined;
  if (talk.pressed !== undefined) {
    const said = (talk.sent - talk.pressed) / RATE;
    talk.pressed = undefined;
    if (said < SHORTEST) {
      send({ type: "input_audio_buffer.clear" });
      talk.state = "ready";
    } else {
      talk.turn = new Turn(performance.now());
      send({ type: "input_audio_buffer.commit" });
      send({ type: "response.create" });
      talk.state = "thinking";
    }
  }
  show();
}

/** A written question; an answer that is going on ends first. */
async function write(text) {
  notice($("talk-notice"), hindrance());
  if (hindrance()) return;
  const here = conversation();
  show();
  $("talk-question").value = "";
  try {
    await here.opened;
  } catch (error) {
    if (here === talk) end("off", error.message);
    $("talk-question").value ||= text;
    return;
  }
  if (here !== talk) return;
  hush(true);
  here.written.push(text);
  next();
}

/** Ask what was written, when nothing is being answered. */
function next() {
  if (!talk.written.length || talk.answer) return;
  const text = talk.written.shift();
  const content = [{ type: "input_text", text }];
  new Line("user").write(text).finish();
  talk.turn = new Turn(performance.now());
  send({ type: "conversation.item.create", item: { type: "message", role: "user", content } });
  send({ type: "response.create" });
  talk.state = "thinking";
  show();
}

/** The conversation that there is, or a new one that is being opened. */
function conversation() {
  if (talk) return talk;
  const sound = $("talk-voice").value !== "none";
  const here = {
    lines: new Map(),
    written: [],
    state: "loading the models",
    // While the user presses something, or nothing may be played.
    player: sound ? new Player() : null,
    sent: 0,
  };
  talk = here;
  if (here.player) here.player.onidle = () => here === talk && silent();
  here.opened = open(here);
  // Whoever waits for it is told; nobody may.
  here.opened.catch(() => {});
  return here;
}

async function open(here) {
  separate();
  const query = { intent: "conversation" };
  if ($("talk-mind").value) query.model = $("talk-mind").value;
  const socket = await connect(query);
  if (here !== talk) {
    socket.close();
    throw new Error("The conversation ended.");
  }
  here.socket = socket;
  await new Promise((resolve, reject) => {
    here.begun = resolve;
    here.broken = reject;
    socket.onmessage = (message) => here === talk && told(JSON.parse(message.data));
    socket.onclose = ({ reason }) => {
      const message = `The conversation ended${reason ? `: ${reason}` : ", as the connection did"}.`;
      reject(new Error(message));
      if (here === talk && here.ready) end("off", message);
    };
    send({ type: "session.update", event_id: "settings", session: settings() });
    // Nothing was said yet; the answer comes when the models are loaded.
    send({ type: "input_audio_buffer.clear", event_id: "ready" });
  });
  here.ready = true;
  here.state = "ready";
  show();
}

function settings() {
  const number = (id, usual) => Number($(id).value) || usual;
  const model = $("talk-ear").value;
  const language = $("talk-language").value.trim();
  const voice = $("talk-voice").value;
  const format = { type: "audio/pcm", rate: RATE };
  const input = {
    format,
    turn_detection: {
      type: "server_vad",
      silence_duration_ms: number("talk-pause", 500),
      interrupt_response: $("talk-interrupt").checked,
    },
  };
  if (isHold()) input.turn_detection = null;
  if (model) input.transcription = language ? { model, language } : { model };
  const output = voice && voice !== "none" ? { format, voice } : { format };
  return {
    type: "realtime",
    instructions: $("talk-instructions").value.trim(),
    output_modalities: [voice === "none" ? "text" : "audio"],
    audio: { input, output },
  };
}

function send(event) {
  if (talk.socket?.readyState === WebSocket.OPEN) talk.socket.send(JSON.stringify(event));
}

function hear(here, samples, peak) {
  if (here !== talk) return;
  $("talk-level").value = here.muted ? 0 : peak;
  if (isHold() && here.pressed === undefined) return;
  if (!here.ready || here.socket.readyState !== WebSocket.OPEN) return;
  // Binary frames are the same bytes without base64.
  here.socket.send(samples.buffer);
  here.sent += samples.length;
  // When the first sample that was sent was heard; the clocks of the sound and of the page drift apart, so the newest tells.
  here.origin = performance.now() - (here.sent * 1000) / RATE;
  finishTurn();
}

function mute(muted) {
  talk.muted = muted;
  talk.microphone.muted = muted;
  show();
}

/** The line of an item. */
function line(id, who) {
  if (!talk.lines.has(id)) talk.lines.set(id, new Line(who));
  return talk.lines.get(id);
}

/** What the server says. */
function told(event) {
  switch (event.type) {
    case "input_audio_buffer.cleared":
      talk.begun();
      break;
    case "input_audio_buffer.speech_started":
      line(event.item_id, "user");
      talk.state = "you speak";
      if ($("talk-interrupt").checked) hush(false);
      break;
    case "input_audio_buffer.speech_stopped":
      talk.turn = new Turn(talk.origin + event.audio_end_ms);
      talk.state = "thinking";
      break;
    case "input_audio_buffer.committed":
      // Nobody will write it down.
      if (!$("talk-ear").value) line(event.item_id, "user").finish();
      break;
    case TRANSCRIPTION + "delta":
      line(event.item_id, "user").write(event.delta);
      break;
    case TRANSCRIPTION + "completed":
      line(event.item_id, "user").finish(event.transcript || "(no words)");
      if (!event.transcript && !talk.answer && talk.state === "thinking") talk.state = "ready";
      break;
    case TRANSCRIPTION + "failed":
      line(event.item_id, "user").fail(event.error.message);
      break;
    case "response.output_item.added":
      talk.answer = line(event.item.id, "answer");
      talk.answer.id = event.item.id;
      talk.answer.turn = talk.turn;
      talk.heardOf = talk.answer;
      break;
    case "response.output_text.delta":
    case "response.output_audio_transcript.delta":
      line(event.item_id, "answer").turn?.text();
      line(event.item_id, "answer").write(event.delta);
      break;
    case "response.output_audio.delta":
      play(line(event.item_id, "answer"), event.delta);
      break;
    case "response.done":
      done(event.response);
      break;
    case "error":
      if (event.error.code !== "response_cancel_not_active") failed(event.error);
      break;
  }
  show();
}

function play(answer, base64) {
  // What was on its way when the answer was stopped.
  if (answer.hushed) return;
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const samples = new Int16Array(bytes.buffer, 0, bytes.length >> 1);
  if (!samples.length) return;
  const at = talk.player.push(samples, answer.id);
  answer.turn?.sound(at);
  talk.state = "answering";
}

function done(response) {
  const answer = talk.answer;
  talk.answer = null;
  if (answer) {
    const { status, status_details: details, timings } = response;
    answer.turn?.server(timings, talk.player !== null);
    if (status === "incomplete") answer.remark("cut at the limit of its length");
    if (status === "failed") answer.remark("failed");
    if (status === "cancelled" && !answer.hushed) {
      answer.remark(details?.reason === "turn_detected" ? "interrupted before it was heard" : "stopped");
    }
    answer.finish();
    $("talk-facts").textContent = summary();
  }
  if (!talk.player?.playing && talk.state !== "you speak") talk.state = "ready";
  next();
}

/** All that was queued was heard. */
function silent() {
  const gaps = talk.heardOf ? talk.player.gaps(talk.heardOf.id) : 0;
  if (!talk.answer && gaps) talk.heardOf.remark(`${gaps} ${gaps === 1 ? "gap" : "gaps"}, as the sound came slower than it is played`);
  if (!talk.answer && talk.state === "answering") talk.state = "ready";
  show();
}

/** Stop the answer, at once: because the user speaks, which the server knows, or for another reason, which it is told. */
function hush(tell) {
  const answer = talk.answer ?? talk.heardOf;
  if (!answer || answer.hushed || !(talk.answer || talk.player?.playing)) return;
  const playing = talk.player?.playing;
  const heard = playing ? talk.player.heard(answer.id) : 0;
  talk.player?.stop();
  answer.hushed = true;
  if (tell && talk.answer) send({ type: "response.cancel" });
  if (playing) {
    // The other side remembers only what was heard.
    send({ type: "conversation.item.truncate", item_id: answer.id, content_index: 0, audio_end_ms: heard });
    answer.remark(`${tell ? "stopped" : "interrupted"} after ${(heard / 1000).toFixed(1)} s`);
  } else {
    answer.remark(tell ? "stopped" : "interrupted");
  }
  if (tell) talk.state = "ready";
  show();
}

function failed(error) {
  if (!talk.ready && (OPENING.includes(error.event_id) || !error.event_id)) talk.broken(new Error(error.message));
  else notice($("talk-notice"), error.message);
}

function end(state, message = "") {
  const here = talk;
  clearTimeout(here?.releasing);
  talk = null;
  here?.microphone?.close();
  here?.socket?.close();
  here?.player?.close();
  here?.lines.forEach((open) => open.finish());
  $("talk-level").value = 0;
  notice($("talk-notice"), message);
  show(state);
}

/** What the buttons and the lamp say. */
function show(state = talk?.state ?? "off") {
  const hears = Boolean(talk?.microphone);
  const answers = Boolean(talk?.answer || talk?.player?.playing);
  const hold = isHold() ? "write a question, or hold the button or the space bar" : "write a question, or press Talk";
  const idle = opening ? "waits for the microphone" : hold;
  const ready = state === "ready" ? (hears && !isHold() ? "listening" : idle) : state;
  $("talk-state").textContent = hears && talk.muted ? `${ready}, muted` : ready;
  $("talk-state").classList.toggle("on", state === "you speak" || state === "answering");
  $("talk-start").textContent = hears ? "End" : "Talk";
  $("talk-start").disabled = opening && !hears;
  $("talk-start").hidden = isHold() && !hears;
  $("talk-hold").hidden = !isHold();
  $("talk-hold").textContent = held ? "Let go to send" : "Hold to talk";
  $("talk-hold").setAttribute("aria-pressed", String(held));
  $("talk-mute").disabled = !hears;
  $("talk-mute").setAttribute("aria-pressed", String(hears && Boolean(talk.muted)));
  $("talk-mute").textContent = hears && talk.muted ? "Unmute" : "Mute";
  $("talk-hush").disabled = !answers;
  FIXED.forEach((id) => ($(id).disabled = Boolean(talk)));
}
