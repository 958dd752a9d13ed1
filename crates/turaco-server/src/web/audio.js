// Sound in and out: the microphone as 16-bit samples, a queue that plays without gaps, WAV.

/** Samples per second of what is sent and played. */
export const RATE = 24_000;

function why(error) {
  switch (error.name) {
    case "NotAllowedError":
    case "SecurityError":
      return "The browser does not let this page hear the microphone. Allow it, mostly at the left of the address, and press again.";
    case "NotFoundError":
    case "OverconstrainedError":
      return "There is no microphone.";
    case "NotReadableError":
      return "The microphone cannot be read; another program may be using it.";
    default:
      return `The microphone: ${error.message}`;
  }
}

/** The microphone, from `open` to `close`; `heard` is called with 20 ms of 16-bit samples and their peak. */
export class Microphone {
  static async open(heard, ended = () => {}) {
    if (!window.isSecureContext || !navigator.mediaDevices) {
      throw new Error(
        "Browsers give the microphone only to pages from this machine (http://localhost) or over https, and this one came over plain " +
          "http. Files, written questions and voices work here; for the microphone put a proxy with TLS in front, or use an SSH tunnel.",
      );
    }
    const microphone = new Microphone();
    try {
      microphone.stream = await navigator.mediaDevices.getUserMedia({
        audio: { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true },
      });
      await microphone.#listen(heard);
    } catch (error) {
      microphone.close();
      throw new Error(why(error));
    }
    microphone.stream.getAudioTracks()[0].onended = ended;
    return microphone;
  }

  async #listen(heard) {
    let source;
    try {
      this.context = new AudioContext({ sampleRate: RATE });
      source = this.context.createMediaStreamSource(this.stream);
    } catch {
      // Firefox connects a microphone only to a context of its own rate; the worklet changes it then.
      await this.context?.close();
      this.context = new AudioContext();
      source = this.context.createMediaStreamSource(this.stream);
    }
    await this.context.audioWorklet.addModule("/ui/capture.js");
    const node = new AudioWorkletNode(this.context, "capture", { processorOptions: { rate: RATE } });
    node.port.onmessage = ({ data }) => heard(data.samples, data.peak);
    // It gives silence; some browsers run only what leads somewhere.
    source.connect(node).connect(this.context.destination);
    await this.context.resume();
  }

  /** Muted, it hears silence, so that a turn that was begun ends. */
  set muted(muted) {
    this.stream.getAudioTracks().forEach((track) => (track.enabled = !muted));
  }

  close() {
    this.stream?.getTracks().forEach((track) => track.stop());
    if (this.context && this.context.state !== "closed") this.context.close();
  }
}

/** How far ahead the first sound of a queue is planned, in seconds: enough for the browser to begin on time. */
const LEAD = 0.03;
/** How long sound takes to fade when it is stopped, in seconds: no click, and nobody hears a word of it. */
const FADE = 0.008;

/**
 * Plays pieces one behind the other, sample by sample. It needs no worklet, which pages over plain http may not have. Create it while
 * the user presses something, or the browser plays nothing.
 */
export class Player {
  #context = new AudioContext({ sampleRate: RATE });
  #gain = null;
  /** What is playing or will: frames of the context's clock. */
  #parts = [];
  /** Frames that were heard to their end, by whose they are. */
  #heard = new Map();
  #next = 0;
  #newest = null;
  #gaps = new Map();
  /** Called when all that was queued was heard. */
  onidle = () => {};

  constructor() {
    this.#context.resume();
  }

  get playing() {
    return this.#parts.length > 0;
  }

  get #latency() {
    return this.#context.outputLatency || this.#context.baseLatency || 0;
  }

  /** Queue samples of `whose`; returns when they will be heard, as a `performance.now()`. */
  push(samples, whose) {
    // Whole frames, or the browser would put samples between samples.
    const now = Math.ceil(this.#context.currentTime * RATE);
    const isLate = !this.#parts.length || this.#next < now;
    if (isLate && this.#newest === whose) this.#gaps.set(whose, this.gaps(whose) + 1);
    this.#newest = whose;
    const start = isLate ? now + LEAD * RATE : this.#next;
    const buffer = this.#context.createBuffer(1, samples.length, RATE);
    buffer.getChannelData(0).set(Float32Array.from(samples, (sample) => sample / 32_768));
    const source = this.#context.createBufferSource();
    source.buffer = buffer;
    if (!this.#gain) {
      this.#gain = this.#context.createGain();
      this.#gain.connect(this.#context.destination);
    }
    source.connect(this.#gain);
    const part = { source, start, length: samples.length, whose };
    source.onended = () => this.#ended(part);
    source.start(start / RATE);
    this.#parts.push(part);
    this.#next = start + samples.length;
    return performance.now() + (start / RATE - this.#context.currentTime + this.#latency) * 1000;
  }

  #ended(part) {
    if (!this.#parts.includes(part)) return;
    this.#parts = this.#parts.filter((other) => other !== part);
    this.#heard.set(part.whose, (this.#heard.get(part.whose) ?? 0) + part.length);
    if (!this.#parts.length) this.onidle();
  }

  /** Milliseconds that came out of the loudspeaker. */
  heard(whose) {
    const now = (this.#context.currentTime - this.#latency) * RATE;
    const playing = this.#parts.filter((part) => part.whose === whose);
    const frames = playing.reduce((sum, part) => sum + Math.min(Math.max(now - part.start, 0), part.length), this.#heard.get(whose) ?? 0);
    return Math.round((frames * 1000) / RATE);
  }

  /** How often sound came too late. */
  gaps(whose) {
    return this.#gaps.get(whose) ?? 0;
  }

  /** Silence, at once; what was queued is gone. */
  stop() {
    const now = this.#context.currentTime;
    this.#gain?.gain.setValueAtTime(1, now);
    this.#gain?.gain.linearRampToValueAtTime(0, now + FADE);
    for (const { source } of this.#parts) source.stop(now + FADE);
    this.#parts = [];
    this.#gain = null;
  }

  close() {
    this.stop();
    if (this.#context.state !== "closed") this.#context.close();
  }
}

/** A WAV file of pieces of 16-bit samples. */
export function wav(pieces, rate = RATE) {
  const bytes = 2 * pieces.reduce((sum, piece) => sum + piece.length, 0);
  const head = new DataView(new ArrayBuffer(44));
  const text = (at, letters) => [...letters].forEach((letter, index) => head.setUint8(at + index, letter.charCodeAt(0)));
  text(0, "RIFF");
  head.setUint32(4, 36 + bytes, true);
  text(8, "WAVEfmt ");
  head.setUint32(16, 16, true);
  head.setUint16(20, 1, true);
  head.setUint16(22, 1, true);
  head.setUint32(24, rate, true);
  head.setUint32(28, 2 * rate, true);
  head.setUint16(32, 2, true);
  head.setUint16(34, 16, true);
  text(36, "data");
  head.setUint32(40, bytes, true);
  return new Blob([head, ...pieces], { type: "audio/wav" });
}
