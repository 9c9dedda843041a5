// The audio this page has sent, the last five minutes of it, so that a turn can be heard again.

import { toBuffer } from "./audio.js";

const KEPT_S = 300;
const MARGIN_MS = 120; // before and after a turn: first and last sounds are soft

export class Recording {
  #context;
  #ring;
  #total = 0; // samples since the page was opened; a call begins somewhere in them
  #source = null;

  constructor(context) {
    this.#context = context;
    this.#ring = new Int16Array(KEPT_S * context.sampleRate);
  }

  /** How much was sent, in milliseconds since the page was opened. */
  get totalMs() {
    return (this.#total / this.#context.sampleRate) * 1000;
  }

  push(samples) {
    const start = this.#total % this.#ring.length;
    const fits = Math.min(samples.length, this.#ring.length - start);
    this.#ring.set(samples.subarray(0, fits), start);
    this.#ring.set(samples.subarray(fits), 0);
    this.#total += samples.length;
  }

  /** Whether what was sent at `ms` is still kept. */
  keeps(ms) {
    return this.#sample(ms) >= this.#total - this.#ring.length;
  }

  /** Plays from `startMs` to `endMs`; calls `onEnd` when it is over or stopped. False when it is no longer kept. */
  play(startMs, endMs, onEnd) {
    this.stop();
    if (!this.keeps(startMs)) return false;
    const first = Math.max(0, this.#total - this.#ring.length, this.#sample(startMs - MARGIN_MS));
    const last = Math.min(this.#total, this.#sample(endMs + MARGIN_MS));
    if (last <= first) return false;
    const samples = Int16Array.from({ length: last - first }, (_, i) => this.#ring[(first + i) % this.#ring.length]);
    const source = this.#context.createBufferSource();
    source.buffer = toBuffer(this.#context, samples);
    source.connect(this.#context.destination);
    source.onended = () => {
      if (this.#source === source) this.#source = null;
      onEnd();
    };
    source.start();
    this.#source = source;
    return true;
  }

  stop() {
    this.#source?.stop();
    this.#source = null;
  }

  #sample(ms) {
    return Math.round((ms / 1000) * this.#context.sampleRate);
  }
}
