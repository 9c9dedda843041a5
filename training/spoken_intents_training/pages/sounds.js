// A recording, heard and seen.

import { peak } from "./audio.js";

const SAMPLE_RATE = 16000; // of what is recorded, whatever the browser's is
const BAR = { width: 2, pitch: 3.5 };

export class Sounds {
  #context;
  #source = null;

  constructor(context) {
    this.#context = context;
  }

  /** Plays samples (Int16Array, 16 kHz). Resolves to whether they were heard to their end. */
  play(samples) {
    const buffer = this.#context.createBuffer(1, samples.length, SAMPLE_RATE);
    buffer.getChannelData(0).set(Float32Array.from(samples, (sample) => sample / 32768));
    return this.#play(buffer);
  }

  /** The same for a file's bytes. */
  async playFile(file) {
    return this.#play(await this.#context.decodeAudioData(file));
  }

  stop() {
    const source = this.#source;
    this.#source = null;
    source?.stop();
  }

  #play(buffer) {
    this.stop();
    const source = this.#context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.#context.destination);
    this.#source = source;
    return new Promise((resolve) => {
      source.onended = () => {
        resolve(this.#source === source);
        if (this.#source === source) this.#source = null;
      };
      source.start();
    });
  }
}

/** Draws samples as bars over the canvas's whole width. */
export function drawShape(canvas, samples) {
  const { width, height } = canvas.getBoundingClientRect();
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  pen.fillStyle = getComputedStyle(canvas).getPropertyValue("--speech");
  const bars = Math.max(1, Math.floor(width / BAR.pitch));
  for (let bar = 0; bar < bars; bar++) {
    const part = samples.subarray(Math.floor((bar * samples.length) / bars), Math.floor(((bar + 1) * samples.length) / bars));
    const tall = Math.max(BAR.width, Math.min(1, peak(part) ** 0.6) * height);
    pen.fillRect(bar * BAR.pitch, (height - tall) / 2, BAR.width, tall);
  }
}
