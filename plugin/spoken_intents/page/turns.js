// Which message belongs to which turn. The server answers turns one at a time, in the order in which they ended, but it
// may hear the next utterance while it still answers the last: so utterances and typed turns wait in line.

import { Card } from "./card.js";
import { duration, percent } from "./dom.js";

const MOST_CARDS = 100;
const NEAR_PX = 80; // so near its end the log follows what comes

export class Turns {
  #list;
  #log;
  #events;
  #utterances = []; // heard or being heard, without an intent yet; oldest first
  #typed = []; // sent, not yet answered
  #answering = null; // the turn whose answer is coming
  #finished = null; // the last one that was answered
  #own = null; // what the bot says by itself, without a turn of the person
  #isAtEnd = true;

  /** `onReply(button)`, `onReplay(turn, pressed)`, `onRecorded(turn, recording)` of turns that can be corrected, `onChange()` whenever somebody begins or ends to wait. */
  constructor(list, log, events) {
    this.#list = list;
    this.#log = log;
    this.#events = events;
    new ResizeObserver(() => this.#follow()).observe(log);
    log.addEventListener("scroll", () => (this.#isAtEnd = log.scrollHeight - log.clientHeight - log.scrollTop < NEAR_PX));
  }

  /** Somebody is speaking. */
  get isSpeaking() {
    return this.#utterances.some((turn) => turn.card.state === "hearing");
  }

  /** Something was said or typed that has no answer yet. */
  get isWaiting() {
    return this.#utterances.length + this.#typed.length > 0 || (this.#answering !== null && !this.#answering.answered);
  }

  // -------------------------------------------------- what the person does

  /** `sent`: the text as the server gets it; `isSent`: false while it waits for a connection. */
  typed(sent, shown, how, isSent) {
    const turn = Object.assign(this.#add("typed"), { sent, isSent });
    turn.card.typed(shown, how);
    this.#own = null;
    this.#typed.push(turn);
    this.#isAtEnd = true;
    this.#changed();
  }

  /** `baseMs`: where in the page's own recording the call began. */
  speechStarted(baseMs, atMs) {
    const turn = this.#add("spoken");
    Object.assign(turn, { baseMs, startMs: atMs ?? null, endMs: null });
    turn.card.hearing();
    this.#utterances.push(turn);
    this.#changed();
  }

  /** The pause was not the end. */
  resumed() {
    this.#utterances.at(-1)?.card.hearing();
    this.#changed();
  }

  partial(message) {
    this.#utterances.at(-1)?.card.partial(message);
    this.#changed();
  }

  speechEnded({ start_ms, speech_end_ms }) {
    const turn = this.#utterances.find((other) => other.card.state === "hearing");
    if (!turn) return;
    Object.assign(turn, { startMs: start_ms, endMs: speech_end_ms });
    turn.card.ended();
    this.#changed();
  }

  // -------------------------------------------------- what the server makes of it

  heard(message) {
    const turn = this.#utterances.shift() ?? this.#add("spoken");
    turn.card.heard(message);
    if (turn.endMs) turn.card.offerReplay(message.intent);
    this.#answering = turn;
    this.#own = null;
    this.#changed();
  }

  /** The server answers a typed turn: one of the person's, or one that it made itself (a greeting, a silence). */
  taken({ text }) {
    const place = this.#typed.findIndex((turn) => turn.sent === text);
    this.#answering = place < 0 ? this.#add("bot") : this.#typed.splice(place, 1)[0];
    this.#own = null;
    this.#changed();
  }

  notSpeech({ confidence }) {
    this.#noTurn(`A sound that was no speech (${percent(confidence)} sure).`, "noise");
  }

  ignored({ intent, confidence }) {
    this.#noTurn(`A short “${intent}” (${percent(confidence)}) while the bot spoke: it goes on.`, "ignored");
  }

  /** A message of the bot. */
  say(message) {
    const turn = this.#present();
    turn.card.say(message);
    turn.answered = true;
    this.#changed();
  }

  failed({ message }) {
    const turn = this.#present();
    turn.card.note(`The server could not answer this turn: ${message}`, true);
    turn.answered = true;
    this.#changed();
  }

  /** The final marker of a turn. */
  finish({ marker, latency = {}, turn: told = {}, recording }) {
    if (this.#finished?.marker === marker) return; // sent again, with the rest of a broken-off answer
    const turn = this.#present();
    Object.assign(turn, { marker, latency, told });
    if (told.start_ms === undefined && turn.endMs) Object.assign(turn.told, { start_ms: turn.startMs, speech_end_ms: turn.endMs });
    if (told.interrupted && this.#finished) this.#finished.card.note(brokenOff(told.interrupted));
    if (!turn.answered) turn.card.note("The bot said nothing.");
    turn.answered = true;
    turn.card.state = "answered";
    turn.card.time(latency, turn.told, turn.heardMs);
    if (recording) this.#events.onRecorded(turn, recording);
    this.#answering = this.#own = null;
    this.#finished = turn;
    this.#changed();
  }

  /** Whose the sound is that comes now: after a mistaken interruption the rest of a finished turn comes again. */
  get speaker() {
    return this.#answering ?? this.#own ?? this.#finished;
  }

  /** `ms` more of what a turn has to say were heard. */
  heardOf(turn, ms) {
    if (!turn) return;
    turn.heardMs += ms;
    if (turn.latency) turn.card.time(turn.latency, turn.told, turn.heardMs);
    this.#changed();
  }

  /** There is a connection: what was typed before has gone out. */
  connected() {
    for (const turn of this.#typed) turn.isSent = true;
  }

  /** The call is over: nothing that was sent will be answered any more. `why`: a sentence. */
  over(why) {
    for (const turn of this.#utterances) turn.card.becomes(why, "lost");
    for (const turn of [this.#answering, ...this.#typed]) {
      if (!turn || turn.answered || turn.isSent === false) continue;
      turn.card.state = "failed";
      turn.card.note(`${why} There was no answer yet.`, true);
    }
    this.#utterances = [];
    this.#typed = this.#typed.filter((turn) => turn.isSent === false);
    this.#answering = this.#own = this.#finished = null;
  }

  clear() {
    this.#typed = [];
    this.over("");
    this.#list.replaceChildren();
  }

  // --------------------------------------------------

  /** The turn that the bot's messages are for: the one being answered, else one of its own. */
  #present() {
    if (this.#answering) return this.#answering;
    this.#own ??= this.#add("bot"); // not being answered: no final marker need follow
    return this.#own;
  }

  #noTurn(line, state) {
    this.#utterances.shift()?.card.becomes(line, state);
    this.#changed();
  }

  #add(kind) {
    const turn = { answered: false, heardMs: 0 };
    turn.card = new Card(kind, {
      onReply: (reply) => this.#events.onReply(reply),
      onReplay: (_, button) => this.#events.onReplay(turn, button),
    });
    this.#list.append(turn.card.element);
    while (this.#list.children.length > MOST_CARDS) this.#list.firstChild.remove();
    return turn;
  }

  #changed() {
    this.#events.onChange();
    this.#follow();
  }

  /** Keeps the newest in sight, unless somebody has scrolled up to read. */
  #follow() {
    if (this.#isAtEnd && this.#list.children.length) this.#log.scrollTop = this.#log.scrollHeight;
  }
}

function brokenOff({ heard_ms, of_ms }) {
  return of_ms ? `You broke in: ${duration(heard_ms)} of ${duration(of_ms)} were heard.` : "You broke in.";
}
