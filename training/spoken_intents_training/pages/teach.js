// The teaching page's wiring: one person reads sentences, the server cuts and keeps them, and this shows how far it is.

import { openContext, peak } from "./audio.js";
import { element } from "./dom.js";
import { ask, bytes, socket as openSocket } from "./local.js";
import { Microphone, NoMicrophone } from "./microphone.js";
import { Sounds, drawShape } from "./sounds.js";
import { Waveform } from "./waveform.js";

const KEPT_AFTER_MS = 1500; // hands-free, behind what was played
const DOUBTFUL_AFTER_MS = 4000; // where something is wrong with it that does not spoil it
const MOST_REPEATS = 2; // of one sentence by itself; then somebody has to look
const NOTHING_HEARD_MS = 8000;
const SURE_MS = 4000; // in which a second press deletes
const TYPING = "input:not([type=radio]), textarea, select";
const PRESSED = "button, a, summary"; // what Space and Enter do something to

const at = (id) => document.getElementById(id);
const body = document.body;
const waveform = new Waveform(at("wave"));

let about = null; // what the server says of the project
let audio = null; // {context, microphone, sounds}; from the first gesture on, as browsers want it
let lesson = null; // the socket, while somebody teaches
let speaker = "";
let sentMs = 0; // of sound, in this lesson: the server's clock
let phase = "door"; // asking (the browser asks for the microphone), paused, ready, listening, speaking, playing, deciding, waiting (for the server), gone
let running = false; // hands-free: whether it goes on by itself
let prompt = null;
let take = null; // {seconds, faults, samples}
let only = ""; // the intent that was chosen
let repeats = 0;
let progress = [];
let timer = null; // of the countdown, or of nothing being heard
let said = ""; // one more thing to say, under the state

// ---------------------------------------------------------------- who teaches

function stored(key, value) {
  try {
    if (value !== undefined) localStorage.setItem(key, value);
    return localStorage.getItem(key) ?? "";
  } catch {
    return "";
  }
}

async function openDoor() {
  try {
    about = await ask("api/about");
  } catch (error) {
    at("door").hidden = true;
    return lost(error.message);
  }
  document.title = `Teach ${about.project} by voice`;
  at("project").textContent = about.project;
  at("folder").textContent = about.folder;
  at("nlu").textContent = about.nlu;
  at("name").value ||= stored("teacher");
  at("known").replaceChildren(...about.people.slice(0, 8).map((name) => button(name, "reply", () => enter(name))));
  at("door").hidden = false;
  at("lesson").hidden = at("person").hidden = true;
  notice(about.notices.join(" "));
  at("name").focus();
  become("door");
}

async function enter(name) {
  if (lesson) return;
  speaker = name.trim();
  stored("teacher", speaker);
  notice("");
  openAudio();
  sentMs = 0;
  only = "";
  lesson = openSocket("api/lesson");
  const mine = lesson;
  lesson.binaryType = "arraybuffer";
  lesson.onopen = () => lesson.send(JSON.stringify({ speaker, sample_rate: audio.context.sampleRate }));
  lesson.onmessage = ({ data }) => mine === lesson && received(data);
  lesson.onclose = () => mine === lesson && closed();
  at("door").hidden = true;
  at("lesson").hidden = at("person").hidden = false;
  at("person").textContent = `${speaker} · change`;
  running = isHandsFree();
  become("asking");
  const opened = await openMicrophone();
  if (!lesson) audio.microphone.close(); // whoever it was has gone while the browser asked
  if (mine !== lesson) return;
  if (!opened) return pause();
  become("waiting");
  if (prompt) goOn();
}

function leave() {
  const socket = lesson;
  lesson = null;
  socket?.close();
  silence();
  audio?.microphone.close();
  prompt = take = null;
}

function closed() {
  const why = at("notice").textContent;
  leave();
  lost(why || "The program behind this page has ended. What you kept is kept. Start it again and open the address that it shows.");
}

function lost(why) {
  notice(why);
  become("gone");
}

function tell(message) {
  if (lesson?.readyState === WebSocket.OPEN) lesson.send(JSON.stringify(message));
}

// ---------------------------------------------------------------- sound

/** To be called in a gesture: browsers let no page make a sound before. */
function openAudio() {
  if (!audio) {
    const context = openContext();
    const microphone = new Microphone(context, chunk, (why) => {
      pause();
      notice(why);
    });
    audio = { context, microphone, sounds: new Sounds(context) };
  }
  audio.context.resume();
}

async function openMicrophone() {
  try {
    await audio.microphone.open();
    notice("");
    return true;
  } catch (error) {
    if (!(error instanceof NoMicrophone)) throw error;
    notice(error.message);
    return false;
  }
}

/** All of it goes to the server, which knows the background then, and uses what it is told to listen to. */
function chunk(samples) {
  if (lesson?.readyState !== WebSocket.OPEN || !prompt) return;
  lesson.send(samples);
  sentMs += (samples.length / audio.context.sampleRate) * 1000;
  waveform.push(peak(samples), sentMs);
}

// ---------------------------------------------------------------- what the server says

function received(data) {
  if (data instanceof ArrayBuffer) return taken(new Int16Array(data));
  const message = JSON.parse(data);
  if (message.prompt) asked(message.prompt);
  if (message.speech) heard(message.speech, message.at_ms);
  if (message.take) take = message.take;
  if (message.progress) showState(message);
  if (message.kept) said = "Kept.";
  if (message.nothing) nothingSaid();
  if (message.removed === null) note("There is nothing left of this visit to undo.");
  if (message.error) failed(message.error);
}

function asked(next) {
  prompt = next;
  take = null;
  repeats = 0;
  silence();
  showPrompt();
  if (phase !== "asking") goOn();
}

function goOn() {
  if (running && audio.microphone.isOpen) listen();
  else become(audio.microphone.isOpen ? "ready" : "paused");
}

function heard(kind, ms) {
  waveform.mark(kind, ms);
  if (kind !== "speech") return;
  silence(); // no longer is nothing heard
  become("speaking");
}

async function taken(samples) {
  silence();
  take.samples = samples;
  waveform.mark("quiet", sentMs);
  showTake();
  become("playing");
  if (await audio.sounds.play(samples)) decide();
}

/** It was heard: what now? */
function decide() {
  become("deciding");
  if (!running) return;
  const spoilt = take.faults.some((fault) => fault.spoils);
  if (spoilt && repeats >= MOST_REPEATS) return;
  countDown(take.faults.length ? DOUBTFUL_AFTER_MS : KEPT_AFTER_MS, spoilt ? "Once more" : "Keeping it", spoilt ? repeat : keep);
}

function nothingSaid() {
  note("Nothing was heard yet. Say it now.");
}

function failed(why) {
  notice(why);
  if (phase === "waiting") become(take ? "deciding" : "ready");
}

// ---------------------------------------------------------------- what the person does

function isHandsFree() {
  return document.querySelector("input[name=mode]:checked").value === "hands-free";
}

function listen() {
  silence();
  take = null;
  showTake();
  tell({ do: "listen" });
  waveform.mark("quiet", sentMs);
  become("listening");
  timer = setTimeout(() => note("Nothing is heard. Is the microphone on, and the right one chosen in the browser?"), NOTHING_HEARD_MS);
}

async function start() {
  if (!lesson) return;
  audio.context.resume();
  running = isHandsFree();
  if (audio.microphone.isOpen || (await openMicrophone())) listen();
}

/** The microphone is let go. */
function pause() {
  running = false;
  silence();
  tell({ do: "stop" });
  audio?.microphone.close();
  become(take ? "deciding" : "paused");
}

function keep() {
  if (!take || phase === "waiting") return;
  silence();
  notice("");
  become("waiting");
  tell({ do: "keep" });
}

function repeat() {
  if (take && running) repeats++;
  start();
}

function isBusy() {
  return !prompt || phase === "waiting" || phase === "asking";
}

function act(what, more = {}) {
  if (!isBusy()) tell({ do: what, ...more });
}

async function playAgain() {
  if (!take?.samples) return;
  silence();
  become("playing");
  if (await audio.sounds.play(take.samples)) become("deciding");
}

/** Space, or the big button. */
function press() {
  if (phase === "paused" || phase === "ready") return start();
  if (phase === "playing" || phase === "deciding") return timer ? hold() : playAgain();
  if (phase !== "listening" && phase !== "speaking") return;
  if (running) return pause();
  tell({ do: "finish" });
}

/** Nothing happens by itself until somebody says what. */
function hold() {
  silence();
  become("deciding");
}

function choose(intent) {
  if (isBusy()) return;
  only = only === intent ? "" : intent;
  act("choose", { intent: only });
  showGoals();
}

const KEYS = {
  " ": press,
  enter: () => (take ? keep() : phase === "speaking" ? tell({ do: "finish" }) : press()),
  r: () => take && repeat(),
  p: playAgain,
  s: () => act("skip"),
  o: () => act("own_words"),
  u: () => act("undo"),
};

function key(event) {
  const does = KEYS[event.key.toLowerCase()];
  if (!does || !lesson || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.target.closest?.(TYPING)) return;
  if ((event.key === " " || event.key === "Enter") && event.target.closest?.(PRESSED)) return;
  event.preventDefault();
  does();
}

// ---------------------------------------------------------------- time

/** No sound, no countdown. */
function silence() {
  clearTimeout(timer);
  timer = null;
  said = "";
  audio?.sounds.stop();
  for (const animation of at("countdown").getAnimations()) animation.cancel();
}

function countDown(ms, words, then) {
  at("countdown").animate([{ transform: "scaleX(1)" }, { transform: "scaleX(0)" }], ms);
  timer = setTimeout(() => {
    timer = null;
    then();
  }, ms);
  note(`${words} …`);
}

function note(words) {
  said = words;
  show();
}

// ---------------------------------------------------------------- drawing

const WORDS = {
  door: ["Who are you?", "Start", ""],
  gone: ["Not connected", "Start", ""],
  waiting: ["One moment", "Start", ""],
  asking: ["Allow the microphone", "Start", "The browser asks whether this page may use it."],
  paused: ["Paused", "Start", "Press start, and read the sentence aloud."],
  ready: ["Ready", "Record", "Press record, and read the sentence aloud."],
  listening: ["Read it aloud", "Pause", "It notices when you are done."],
  speaking: ["You speak", "Pause", "It notices when you are done."],
  playing: ["This was recorded", "Hold", "Enter keeps it at once, R records it again."],
  deciding: ["Keep it?", "Play again", "Enter keeps it, R records it again."],
};

function become(next) {
  phase = next;
  show();
}

/** The lamp has the colours of the talking page's states. */
const LAMPS = { playing: "bot", deciding: "thinking", waiting: "thinking", asking: "thinking" };

function show() {
  const [state, label, hint] = WORDS[phase];
  const byKey = { listening: "That was all", speaking: "That was all", playing: "Play again" };
  body.dataset.state = LAMPS[phase] ?? phase;
  body.dataset.phase = phase;
  at("state").textContent = said && phase === "deciding" ? said : isFree() ? state.replace("Read it aloud", "Say it") : state;
  at("talk-label").textContent = timer && phase === "deciding" ? "Hold" : (!running && byKey[phase]) || label;
  at("hint").textContent = said && phase !== "deciding" ? said : isFree() ? hint.replace("read the sentence aloud", "say it") : hint;
  at("talk").disabled = !lesson || phase === "waiting" || phase === "asking";
  at("talk").dataset.on = String(phase === "listening" || phase === "speaking");
  at("card").toggleAttribute("data-busy", phase === "waiting");
}

function isFree() {
  return prompt !== null && !prompt.sentence;
}

function showPrompt() {
  const free = isFree();
  at("how").textContent = free ? "Say it in your own words" : "Read aloud";
  at("intent").textContent = prompt.intent;
  at("sentence").textContent = prompt.sentence || `What you would say for “${prompt.intent}”`;
  at("examples").replaceChildren(...prompt.examples.map((sentence) => element("li", {}, sentence)));
  at("own-words").hidden = free;
  showTake();
}

function showTake() {
  at("take").hidden = !take?.samples;
  if (!take?.samples) return;
  at("length").textContent = `${take.seconds.toFixed(1)} s`;
  at("faults").replaceChildren(...take.faults.map(({ words, spoils }) => element("li", { "data-spoils": String(spoils) }, words)));
  drawShape(at("shape"), take.samples);
}

function showState(state) {
  progress = state.progress;
  const asked = progress.filter((one) => one.asked);
  const done = asked.reduce((sum, one) => sum + Math.min(one.total, about.goal), 0);
  at("sum").textContent = `${done} of ${asked.length * about.goal} towards the goal`;
  at("reached").hidden = done < asked.length * about.goal;
  at("reached").textContent = "The goal is reached. Train with it: rasa train. More recordings, of more people, make it better still.";
  showGoals();
  at("count").textContent = state.own > state.clips.length ? `${state.own}, the last ${state.clips.length} of them here` : `${state.own}`;
  at("clips").replaceChildren(...state.clips.map(clip));
}

function showGoals() {
  at("progress").replaceChildren(...progress.map(goal));
}

function goal({ intent, own, total, asked }) {
  const share = (count) => Math.min(1, count / about.goal);
  const meter = element("span", { class: "meter" }, element("i", { class: "all" }), element("i", { class: "mine" }));
  meter.style.setProperty("--all", share(total));
  meter.style.setProperty("--own", share(own));
  const row = button("", "", () => choose(intent));
  row.append(element("span", { class: "name" }, intent), meter, element("span", { class: "share" }, `${total} of ${about.goal}`));
  row.title = asked ? `${own} by you. Press to record this intent only.` : "Nothing is typed of it, so it is only asked for when you choose it.";
  row.setAttribute("aria-pressed", String(only === intent));
  row.dataset.asked = asked;
  row.dataset.reached = total >= about.goal;
  return element("li", {}, row);
}

function clip({ reference, intent, sentence }) {
  const words = element("span", {}, sentence || "in your own words", element("b", { class: "tag" }, intent));
  const played = button("Play", "quiet", () => playClip(reference));
  const removed = button("Delete", "quiet", () => {
    if (removed.dataset.sure) return act("remove", { reference });
    removed.dataset.sure = "true";
    removed.textContent = "Really?";
    setTimeout(() => {
      delete removed.dataset.sure;
      removed.textContent = "Delete";
    }, SURE_MS);
  });
  played.setAttribute("aria-label", `Play “${sentence || intent}”`);
  removed.setAttribute("aria-label", `Delete “${sentence || intent}”`);
  return element("li", {}, words, played, removed);
}

async function playClip(reference) {
  if (phase !== "paused") pause(); // or it would be recorded
  try {
    await audio.sounds.playFile(await bytes(`api/clip/${encodeURIComponent(reference.split("/").at(-1))}`));
  } catch (error) {
    notice(error.message);
  }
}

function button(words, kind, does) {
  const made = element("button", { type: "button", class: kind || null }, words);
  made.addEventListener("click", does);
  return made;
}

function notice(words) {
  at("notice").textContent = words;
}

// ---------------------------------------------------------------- wiring

at("door").addEventListener("submit", (event) => {
  event.preventDefault();
  enter(at("name").value);
});
at("person").addEventListener("click", () => {
  leave();
  openDoor();
});
for (const [id, does] of Object.entries({ talk: press, keep, repeat, play: playAgain })) at(id).addEventListener("click", () => does());
at("skip").addEventListener("click", () => act("skip"));
at("own-words").addEventListener("click", () => act("own_words"));
at("undo").addEventListener("click", () => act("undo"));
for (const mode of document.querySelectorAll("input[name=mode]")) {
  mode.checked = mode.value === (stored("teach-mode") || "hands-free");
  mode.addEventListener("change", () => {
    stored("teach-mode", mode.value);
    mode.blur();
    if (lesson) pause();
  });
}
// A button that was clicked keeps the focus, and Space would press it again.
document.addEventListener("click", (event) => event.detail && event.target.closest?.("button")?.blur());
document.addEventListener("keydown", key);
window.addEventListener("pagehide", leave);
window.addEventListener("pageshow", ({ persisted }) => persisted && location.reload()); // as it was left, its lesson is over
at("goals").open = matchMedia("(min-width: 60rem)").matches;
openDoor();
