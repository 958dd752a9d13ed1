// Hands the microphone's samples to the page, 20 ms at a time, as 16-bit numbers at the rate that is wanted.

/** Samples at one side of a new one that count, at the lower of the two rates, and points of the table between two of them. */
const REACH = 16;
const POINTS = 512;

/** A sinc under a raised cosine, from its middle to its end. */
function kernel() {
  const value = (_, index) => {
    const x = (Math.PI * index) / POINTS;
    return (x === 0 ? 1 : Math.sin(x) / x) * 0.5 * (1 + Math.cos(x / REACH));
  };
  return Float32Array.from({ length: REACH * POINTS + 1 }, value);
}

class Capture extends AudioWorkletProcessor {
  constructor({ processorOptions: { rate } }) {
    super();
    this.block = new Int16Array(Math.round(rate * 0.02));
    this.filled = 0;
    this.peak = 0;
    this.step = sampleRate / rate;
    this.kernel = kernel();
    // The newest samples, and where the next new one is among them.
    this.held = new Float32Array(1024);
    this.count = 0;
    this.at = 0;
  }

  process([input]) {
    const channel = input[0];
    if (!channel) return true;
    if (this.step === 1) channel.forEach((sample) => this.put(sample));
    else this.resample(channel);
    return true;
  }

  put(sample) {
    this.peak = Math.max(this.peak, Math.abs(sample));
    this.block[this.filled++] = Math.max(-32768, Math.min(32767, Math.round(sample * 32768)));
    if (this.filled === this.block.length) {
      const samples = this.block.slice();
      this.port.postMessage({ samples, peak: this.peak }, [samples.buffer]);
      this.filled = 0;
      this.peak = 0;
    }
  }

  /** New samples between those that came; the kernel is as wide as the lower rate asks for. */
  resample(channel) {
    this.held.set(channel, this.count);
    this.count += channel.length;
    const cut = Math.min(1, 1 / this.step);
    const reach = REACH / cut;
    const scale = cut * POINTS;
    for (; this.at + reach < this.count; this.at += this.step) {
      let sum = 0;
      for (let index = Math.max(0, Math.ceil(this.at - reach)); index <= this.at + reach; index++) {
        sum += this.held[index] * this.kernel[Math.round(Math.abs(index - this.at) * scale)];
      }
      this.put(sum * cut);
    }
    const past = Math.max(0, Math.floor(this.at - reach));
    this.held.copyWithin(0, past, this.count);
    this.count -= past;
    this.at -= past;
  }
}

registerProcessor("capture", Capture);
