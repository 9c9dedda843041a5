// A clip in the browser: fetched once, played, stopped, drawn.

import { bytes } from "./local.js";

const BAR = { width: 2, gap: 1.5 };
const MOST_KEPT = 50; // decoded clips

let context = null;
let playing = null; // {source, onEnd}
const decoded = new Map();

/** The clip at a path of the server as an AudioBuffer. */
export function load(path) {
  if (!decoded.has(path)) {
    context ??= new AudioContext();
    const clip = bytes(path).then((content) => context.decodeAudioData(content));
    clip.catch(() => decoded.delete(path)); // it may be asked for again
    decoded.set(path, clip);
    if (decoded.size > MOST_KEPT) decoded.delete(decoded.keys().next().value);
  }
  return decoded.get(path);
}

/** Plays from the beginning; `onEnd` when it is over or stopped. */
export function play(clip, onEnd) {
  stop();
  context.resume(); // browsers let no page make a sound before somebody has done something
  const source = context.createBufferSource();
  const mine = { source, onEnd };
  source.buffer = clip;
  source.connect(context.destination);
  source.onended = () => {
    if (playing === mine) playing = null;
    onEnd();
  };
  source.start();
  playing = mine;
}

/** Whether something was playing. */
export function stop() {
  const was = playing !== null;
  playing?.source.stop();
  playing = null;
  return was;
}

/** Draws the clip's peaks, or nothing. */
export function draw(canvas, clip) {
  const { width, height } = canvas.getBoundingClientRect();
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  if (!clip) return;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  pen.fillStyle = getComputedStyle(canvas).getPropertyValue("--wave-speech");
  const samples = clip.getChannelData(0);
  const bars = Math.floor(width / (BAR.width + BAR.gap));
  const step = samples.length / bars;
  for (let bar = 0; bar < bars; bar++) {
    let peak = 0;
    for (let at = Math.floor(bar * step); at < (bar + 1) * step; at++) peak = Math.max(peak, Math.abs(samples[at] ?? 0));
    const tall = Math.max(BAR.width, Math.min(1, peak ** 0.6) * height);
    pen.beginPath();
    pen.roundRect(bar * (BAR.width + BAR.gap), (height - tall) / 2, BAR.width, tall, BAR.width / 2);
    pen.fill();
  }
}
