// Plays what the bot says without gaps, and tells when each marker is reached: a marker counts as reached once
// everything that came before it was played. Interrupted, it drops the rest, markers included.

import { fromBase64, toBuffer } from "./audio.js";

const LEAD_S = 0.05; // begins a little later, so that the next chunk is there in time
const FADE_S = 0.02; // breaking off at once would click
const DUCKED = 0.15; // how loud the bot is while somebody presses and talks

export class Player {
  #context;
  #events;
  #volume; // of everything
  #run; // of the sounds since the last interruption
  #line = []; // what is to be played and the markers between, in order
  #free = 0; // when the last sound in line ends, by the context's clock

  /** `onMarker(id)`, `onPlaying(bool)`, `onHeard(owner, ms)` after each sound: how much of it was heard. */
  constructor(context, events) {
    this.#context = context;
    this.#events = events;
    this.#volume = context.createGain();
    this.#volume.connect(context.destination);
    this.#newRun();
  }

  /** Base64 PCM at the context's rate, to be played after what came before. `owner`: whose sound, for `onHeard`. */
  sound(base64, owner) {
    const samples = fromBase64(base64);
    if (!samples.length) return;
    const source = this.#context.createBufferSource();
    source.buffer = toBuffer(this.#context, samples);
    source.connect(this.#run);
    const at = Math.max(this.#free, this.#context.currentTime + LEAD_S);
    const item = { source, owner, at, ms: source.buffer.duration * 1000 };
    source.onended = () => this.#ended(item, item.ms);
    this.#add(item);
    source.start(at);
    this.#free = at + source.buffer.duration;
  }

  /** Has the browser speak a text, for a server that leaves speaking to the page. */
  words(text, language, owner) {
    const utterance = new SpeechSynthesisUtterance(text);
    if (language) utterance.lang = language;
    const item = { utterance, owner, at: null };
    utterance.onstart = () => (item.at = performance.now());
    utterance.onend = utterance.onerror = () => this.#ended(item, item.at === null ? 0 : performance.now() - item.at);
    this.#add(item);
    speechSynthesis.speak(utterance);
  }

  /** A place in what is played; `onMarker` is told when it is reached, at once when nothing is before it. */
  marker(id) {
    this.#line.push({ marker: id });
    this.#advance();
  }

  /** Drops all that was not yet played, markers included. */
  interrupt() {
    const now = this.#context.currentTime;
    const dropped = this.#line;
    const playing = dropped.find((item) => !("marker" in item));
    this.#line = [];
    this.#run.gain.setTargetAtTime(0, now, FADE_S / 4);
    for (const { source, utterance } of dropped) {
      if (source) source.stop(now + FADE_S);
      if (utterance) speechSynthesis.cancel();
    }
    this.#newRun();
    this.#free = 0;
    if (!playing) return;
    this.#events.onHeard(playing.owner, this.#partOf(playing));
    this.#events.onPlaying(false);
  }

  /** Quiet while somebody presses and talks. */
  duck(on) {
    this.#volume.gain.setTargetAtTime(on ? DUCKED : 1, this.#context.currentTime, FADE_S);
  }

  #newRun() {
    this.#run = this.#context.createGain();
    this.#run.connect(this.#volume);
  }

  #partOf(item) {
    if (item.source) return Math.max(0, Math.min(item.ms, (this.#context.currentTime - item.at) * 1000));
    return item.at === null ? 0 : performance.now() - item.at;
  }

  #add(item) {
    const wasPlaying = this.#line.some((other) => !("marker" in other));
    this.#line.push(item);
    if (!wasPlaying) this.#events.onPlaying(true);
  }

  #ended(item, ms) {
    const place = this.#line.indexOf(item);
    if (place < 0) return; // it was interrupted
    this.#line.splice(place, 1);
    this.#events.onHeard(item.owner, ms);
    if (!this.#line.some((other) => !("marker" in other))) this.#events.onPlaying(false);
    this.#advance();
  }

  #advance() {
    while (this.#line.length && "marker" in this.#line[0]) {
      this.#events.onMarker(this.#line.shift().marker);
    }
  }
}
