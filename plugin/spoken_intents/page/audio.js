// The one AudioContext, its sample rate, and PCM as it travels: signed 16-bit little-endian mono.

const SAMPLE_RATES = [8000, 16000, 24000, 44100, 48000]; // what the server takes

/** A context whose rate the server takes, so that no sound is resampled here. */
export function openContext() {
  const context = new AudioContext({ latencyHint: "interactive" });
  if (SAMPLE_RATES.includes(context.sampleRate)) return context;
  context.close();
  return new AudioContext({ latencyHint: "interactive", sampleRate: 48000 });
}

/** Samples of base64 PCM. */
export function fromBase64(text) {
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = characters.charCodeAt(i);
  return new Int16Array(bytes.buffer, 0, bytes.length >> 1);
}

/** The samples as a sound that can be played. */
export function toBuffer(context, samples) {
  const buffer = context.createBuffer(1, samples.length, context.sampleRate);
  const channel = buffer.getChannelData(0);
  for (let i = 0; i < samples.length; i++) channel[i] = samples[i] / 32768;
  return buffer;
}

/** The largest sample's size, 0 to 1. */
export function peak(samples) {
  let most = 0;
  for (const sample of samples) most = Math.max(most, Math.abs(sample));
  return most / 32768;
}
