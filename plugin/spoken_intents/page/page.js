// The page's wiring: what the person does, what the server says, and the words for what goes on.

import { openContext, peak } from "./audio.js";
import { Call } from "./call.js";
import { Corrections } from "./correct.js";
import { Door } from "./door.js";
import { Microphone, NoMicrophone, whyNever } from "./microphone.js";
import { Player } from "./player.js";
import { Recording } from "./recording.js";
import { TalkButton } from "./talk-button.js";
import { Turns } from "./turns.js";
import { Waveform } from "./waveform.js";

const NOTHING_HEARD_MS = 1500; // after a press without speech
const SOUND_STARTS_MS = 3000;

const at = (id) => document.getElementById(id);
const body = document.body;

let audio = null; // {context, player, recording, microphone}; from the first gesture on, as browsers want it
let baseMs = 0; // where in the recording the present call began
let muted = false;
let isPlaying = false;
let replaying = null; // the button that was pressed
let heardSincePress = false;
let serverWords = "Connecting"; // while there is no call
let noticeAbout = "";

const waveform = new Waveform(at("wave"));
const turns = new Turns(at("turns"), at("log"), { onReply: reply, onReplay: replay, onRecorded: recorded, onChange: show });
const door = new Door(at("door"), { stored, onToken: () => call.check() });
const corrections = new Corrections(() => door.token);
const talk = new TalkButton(at("talk"), { onPress: pressHandsFree, onTalk: pressToTalk });
const call = new Call({
  onState: serverChanged,
  onMessage: received,
  onConnecting: () => (baseMs = audio ? audio.recording.totalMs : 0),
  handshake,
});

// ---------------------------------------------------------------- the conversation's name, which outlives a reload

/** Storage that a browser may refuse to a page: then nothing outlives a reload. */
function stored(storage, key, value) {
  try {
    if (value !== undefined) window[storage].setItem(key, value);
    return window[storage].getItem(key) ?? "";
  } catch {
    return "";
  }
}

let ownName = ""; // where nothing can be stored

function sender() {
  let name = stored("sessionStorage", "sender") || ownName;
  if (!name) {
    // crypto.randomUUID is for secure contexts alone, and typing works on others, too.
    name = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
    ownName = name;
    stored("sessionStorage", "sender", name);
  }
  return name;
}

function handshake() {
  return {
    sample_rate: audio?.context.sampleRate ?? 16000,
    language: navigator.language || "en",
    ...(!door.namesSender && { sender: sender() }),
    ...(door.token && { token: door.token }),
  };
}

function newConversation() {
  endCall();
  ownName = stored("sessionStorage", "sender", "");
  turns.clear();
  show();
}

// ---------------------------------------------------------------- sound

/** To be called in a gesture: browsers let no page make a sound before. */
function openAudio() {
  if (!audio) {
    const context = openContext();
    audio = {
      context,
      player: new Player(context, { onMarker: played, onPlaying: playing, onHeard: heardOf }),
      recording: new Recording(context),
      microphone: new Microphone(context, microphoneChunk, (words) => {
        endTalking();
        notice("microphone", orType(words));
      }),
    };
    body.dataset.sampleRate = context.sampleRate;
  }
  audio.context.resume();
  return audio;
}

async function openMicrophone() {
  noticeIsOver("microphone");
  const { microphone } = openAudio();
  try {
    await microphone.open();
    setTimeout(checkSound, SOUND_STARTS_MS);
    return true;
  } catch (error) {
    if (!(error instanceof NoMicrophone)) throw error;
    notice("microphone", orType(error.message));
    talk.stop();
    return false;
  } finally {
    show();
  }
}

/** Without any loudspeaker some browsers run no audio at all, the microphone's included. */
function checkSound() {
  if (audio.microphone.isOpen && audio.context.state !== "running") {
    notice("microphone", orType("The browser's sound does not start. Is there a loudspeaker or a headset?"));
  }
}

function orType(why) {
  return `${why} You can type meanwhile.`;
}

/**
 * What must not be heard goes as silence: an utterance ends by it, and the server's clock is the audio that it gets. With
 * press and talk it goes only while the bot speaks, so that the server knows how much of that was heard.
 */
function microphoneChunk(samples) {
  if (!isHeard()) {
    if (talk.mode === "press" && !isPlaying) return;
    samples = new Int16Array(samples.length);
  }
  if (!call.sendAudio(samples)) return;
  audio.recording.push(samples);
  waveform.push(peak(samples), audio.recording.totalMs);
}

/** Whether what the microphone hears now is for the server. */
function isHeard() {
  if (talk.mode === "press") return talk.isTalking;
  return !muted && !replaying && !(isPlaying && speaksItself()); // no browser keeps its own voice out of the microphone
}

function speaksItself() {
  return call.speech === "browser" && "speechSynthesis" in window;
}

function playing(on) {
  isPlaying = on;
  show();
}

function played(marker) {
  call.tell({ marker });
}

function heardOf(turn, ms) {
  count("played");
  turns.heardOf(turn, ms);
}

/** For tests: how often something happened. */
function count(what) {
  body.dataset[what] = Number(body.dataset[what] ?? 0) + 1;
}

// ---------------------------------------------------------------- what the person does

async function pressHandsFree() {
  if (isLocked()) return;
  if (audio?.microphone.isOpen) {
    muted = !muted;
    return show();
  }
  muted = false;
  if (await openMicrophone()) call.open();
  show();
}

async function pressToTalk(on) {
  if (!on) return endPress();
  if (isLocked()) return talk.stop();
  const fresh = !audio?.microphone.isOpen;
  heardSincePress = turns.isSpeaking;
  if (fresh && !(await openMicrophone())) return;
  call.open();
  if (talk.isTalking) call.tell({ speech: "started" }); // until the button is released no silence ends it
  if (speaksItself()) audio.player.interrupt();
  audio.player.duck(talk.isTalking);
  show();
}

function endPress() {
  audio?.player.duck(false);
  call.tell({ commit: true });
  hint("");
  setTimeout(() => {
    if (talk.mode === "press" && !talk.isTalking && !heardSincePress && call.state === "open") {
      hint("Nothing was heard. Keep it pressed while you speak.");
      show();
    }
  }, NOTHING_HEARD_MS);
  show();
}

/** The microphone is let go; the call goes on. */
function endTalking() {
  talk.stop();
  muted = false;
  audio?.microphone.close();
  show();
}

function endCall() {
  endTalking();
  stopSounds();
  turns.over("You ended the call.");
  call.close();
  if (document.activeElement === document.body || document.activeElement.hidden) at("talk").focus();
}

/** Nothing can be said before the server has its token: the person is led to where it is asked for. */
function isLocked() {
  if (call.state !== "locked") return false;
  door.focus();
  return true;
}

function stopSounds() {
  audio?.recording.stop();
  audio?.player.interrupt();
}

function changeMode() {
  endTalking();
  talk.mode = document.querySelector("input[name=mode]:checked").value;
  stored("localStorage", "mode", talk.mode);
  hint("");
  show();
}

function type(event) {
  event.preventDefault();
  const text = at("text").value.trim();
  if (!text || isLocked()) return;
  at("text").value = "";
  send(text, "You typed", text);
}

function reply({ title, payload }) {
  if (isLocked()) return;
  const said = String(payload || title || "");
  send(said, "You chose", String(title ?? said));
}

function send(text, how, shown) {
  openAudio();
  if (speaksItself()) audio.player.interrupt(); // whoever types has read it
  turns.typed(text, shown, how, call.state === "open");
  call.send(text.startsWith("/") ? { payload: text } : { text });
  show();
}

function replay(turn, button) {
  const { recording } = openAudio();
  if (replaying === button) return recording.stop();
  const begun = recording.play(turn.baseMs + turn.startMs, turn.baseMs + turn.endMs, () => {
    button.setAttribute("aria-pressed", "false");
    if (replaying === button) replaying = null;
    count("replayed");
  });
  if (begun) {
    replaying = button;
    button.setAttribute("aria-pressed", "true");
  } else {
    button.disabled = true;
    button.textContent = "No longer kept";
    button.removeAttribute("aria-label");
  }
}

async function recorded(turn, recording) {
  const correction = await corrections.offer(recording, turn.told.intent);
  if (correction) turn.card.correctBy(correction);
}

// ---------------------------------------------------------------- what the server says

function received(message) {
  if (message.trace_event) (EVENTS[message.trace_event] ?? (() => {}))(message);
  else if (message.audio !== undefined) audio?.player.sound(message.audio, turns.speaker);
  else if (message.interruptPlayback) audio?.player.interrupt();
  else if (message.marker !== undefined) reached(message);
  else if (message.error?.code === "turn_failed") turns.failed(message.error);
  else if ("response" in message || "image" in message || "custom" in message) said(message);
  show();
}

const EVENTS = {
  user_speaking_start({ at_ms }) {
    heardSincePress = true;
    hint("");
    turns.speechStarted(baseMs, at_ms);
    if (at_ms !== undefined) waveform.mark("speech", baseMs + at_ms);
  },
  user_pause: ({ at_ms }) => waveform.mark("pause", baseMs + at_ms),
  user_resumed({ at_ms }) {
    waveform.mark("speech", baseMs + at_ms);
    turns.resumed();
  },
  partial(message) {
    count("partials");
    turns.partial(message);
  },
  user_speaking_end(message) {
    waveform.mark("quiet", baseMs + message.end_ms);
    turns.speechEnded(message);
  },
  typed: (message) => turns.taken(message),
  transcript(message) {
    turns.heard(message);
    if (call.speech === "none") aloud(`Heard ${message.intent}`);
  },
  non_speech(message) {
    waveform.noise();
    turns.notSpeech(message);
  },
  ignored: (message) => turns.ignored(message),
};

function said(message) {
  turns.say(message);
  if (typeof message.response !== "string") return;
  if (speaksItself()) audio?.player.words(message.response, navigator.language, turns.speaker);
  if (call.speech === "none") aloud(`The bot: ${message.response}`);
}

function reached(message) {
  if (message.final) turns.finish(message);
  if (audio) audio.player.marker(message.marker);
  else played(message.marker);
}

function serverChanged(state, { seconds, message }) {
  const lasting = { ready: "Ready", locked: "Locked", connecting: "Connecting", ended: "The bot has hung up", refused: "The server refused" };
  if (state === "gone") serverWords = `Server gone, trying again in ${seconds} s`;
  else if (state === "unable") serverWords = `No recognizer, trying again in ${seconds} s`;
  else serverWords = lasting[state] ?? serverWords; // "checking" leaves what was said before
  if (state in OVER) {
    stopSounds();
    turns.over(OVER[state]);
  }
  if (["refused", "locked", "ended", "ready"].includes(state)) endTalking();
  if (state === "locked") door.ask(message);
  if (state === "unable") notice("server", NO_RECOGNIZER);
  if (state === "refused") notice("server", `The server refused: ${message}`);
  if (["ready", "locked", "open"].includes(state)) noticeIsOver("server");
  if (state === "open") turns.connected();
  show();
}

const OVER = {
  gone: "The connection broke.",
  unable: "The connection broke.",
  refused: "The server refused.",
  locked: "The server asks for a token.",
  ended: "The bot has hung up.",
  ready: "The call has ended.",
};

const NO_RECOGNIZER =
  "The server's model hears nothing yet: it has no trained SpokenIntentClassifier. Train the assistant with spoken examples " +
  "(rasa train) and start the server again; this page goes on by itself.";

// ---------------------------------------------------------------- the words for it

function notice(about, text) {
  noticeAbout = about;
  if (at("notice").textContent !== text) at("notice").textContent = text;
}

function noticeIsOver(about) {
  if (noticeAbout === about) notice("", "");
}

function hint(text) {
  at("hint").dataset.told = text;
}

/** For screen readers, where no voice says it. */
function aloud(text) {
  at("aloud").textContent = text;
}

/** What goes on, as [name for style and tests, words]. */
function situation() {
  const open = call.state === "open";
  if (!open) return [call.state === "checking" && serverWords !== "Connecting" ? "gone" : call.state, serverWords];
  const isTalking = audio?.microphone.isOpen && (talk.mode === "press" ? talk.isTalking : !muted);
  if (turns.isSpeaking) return ["speaking", "You speak"];
  if (isPlaying) return ["bot", "The bot speaks"];
  if (turns.isWaiting) return ["thinking", "Thinking"];
  if (isTalking) return ["listening", "Listening"];
  if (audio?.microphone.isOpen && muted) return ["muted", "Muted"];
  return ["ready", "Ready"];
}

/** The button's label and the hint below it. */
function instructions() {
  if (["gone", "unable"].includes(situation()[0]) && audio?.microphone.isOpen) {
    return [talk.mode === "press" ? "Hold to talk" : muted ? "Unmute" : "Mute", "Nobody hears you until the server is back."];
  }
  if (talk.mode === "hands-free") {
    if (!audio?.microphone.isOpen) return ["Start talking", "Speak freely, in your own time."];
    if (muted) return ["Unmute", "You are not heard."];
    return ["Mute", speaksItself() ? "Just speak, when the bot is done." : "Just speak. You may break in, too."];
  }
  if (talk.isLatched) return ["Tap to send", "You are heard."];
  if (talk.isTalking) return ["Release to send", "You are heard."];
  return ["Hold to talk", "Or hold Space. A short tap stays on until the next one."];
}

function show() {
  const [name, words] = situation();
  const [label, advice] = instructions();
  body.dataset.state = name;
  if (at("state").textContent !== words) at("state").textContent = words;
  at("talk-label").textContent = label;
  at("hint").textContent = at("hint").dataset.told || advice;
  at("talk").dataset.on = String(Boolean(talk.mode === "press" ? talk.isTalking : audio?.microphone.isOpen && !muted));
  at("end").hidden = !["open", "connecting"].includes(call.state);
  at("empty").hidden = at("turns").children.length > 0;
}

at("again").addEventListener("click", newConversation);
at("end").addEventListener("click", endCall);
at("typing").addEventListener("submit", type);
for (const radio of document.querySelectorAll("input[name=mode]")) {
  radio.checked = radio.value === (stored("localStorage", "mode") || "hands-free");
  radio.addEventListener("change", changeMode);
}
talk.mode = document.querySelector("input[name=mode]:checked").value;
document.addEventListener("visibilitychange", () => !document.hidden && audio?.context.resume());
if (whyNever()) notice("page", orType(whyNever()));
show();
call.check();
