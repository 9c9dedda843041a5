// Runs on the audio thread: gathers the microphone's samples into chunks of 20 ms of 16-bit PCM and posts them.

const CHUNKS_PER_SECOND = 50;

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.chunk = new Int16Array(Math.round(sampleRate / CHUNKS_PER_SECOND));
    this.filled = 0;
  }

  process([[samples]]) {
    if (!samples) return true; // nothing is connected yet
    for (const sample of samples) {
      this.chunk[this.filled++] = Math.round(Math.max(-1, Math.min(1, sample)) * 32767);
      if (this.filled === this.chunk.length) this.post();
    }
    return true;
  }

  post() {
    this.port.postMessage(this.chunk, [this.chunk.buffer]);
    this.chunk = new Int16Array(Math.round(sampleRate / CHUNKS_PER_SECOND));
    this.filled = 0;
  }
}

registerProcessor("capture", Capture);
