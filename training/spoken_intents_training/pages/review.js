// The reviewing page's wiring: the list, the keys, and what becomes of a label. Every label is kept by the server at once.

import { draw, load, play, stop } from "./clip.js";
import { element, percent } from "./dom.js";
import { Filters } from "./review-filters.js";
import { IntentSearch } from "./review-search.js";
import { ask } from "./local.js";
import { TurnView } from "./review-turn.js";

const MOST_ROWS = 500; // drawn at once

const at = (id) => document.getElementById(id);
const list = at("turns");

let about = null;
let turns = []; // all, the most doubtful first
let shown = []; // those that the filters let through, as they were when they were chosen
let current = null; // the turn that is looked at
let labels = []; // what can be undone: {id, intent before}
let busy = false; // while the server keeps a label

const view = new TurnView({ onChoose: label, onPlay: playClip });
const filters = new Filters(at("filters"), at("call"), () => refilter());
const search = new IntentSearch(at("search"), { onChoose: label, onClose: () => list.focus() });

const path = (turn, more = "") => `api/turns/${turn.id}${more}`;

// ---------------------------------------------------------------- the list

async function read() {
  const told = await attempt(() => ask("api/turns"));
  if (!told) return;
  turns = told.turns;
  filters.offer(turns);
  view.listening = told.heard;
  refilter(current?.id);
  if (told.not_shown) notice(`${told.not_shown} more turns come when these are labelled, and the page is loaded again.`);
  if (told.damaged) notice(`${told.damaged} files are damaged, and are not shown.`);
}

/** Shows what the filters let through; goes on with turn `id` where it is still among it. */
function refilter(id) {
  shown = filters.choose(turns).slice(0, MOST_ROWS);
  list.replaceChildren(...shown.map(row));
  select(shown.find((turn) => turn.id === id) ?? shown[0] ?? null);
  at("none").hidden = shown.length > 0;
  at("none").textContent = turns.length
    ? "Nothing that the filters let through is left."
    : "Nothing is recorded yet. Callers are recorded where the channel's settings name a directory for recordings.";
  count();
}

function row(turn) {
  const made = element("li", { role: "option", id: turn.id, "aria-selected": "false" });
  made.addEventListener("click", () => {
    notice("");
    select(turn);
    list.focus();
  });
  fill(made, turn);
  return made;
}

function fill(made, turn) {
  const name = turn.label ? spoken(turn.label.intent) : turn.heard;
  made.dataset.labelled = turn.label ? (turn.label.intent === turn.acted_on ? "right" : "wrong") : "no";
  made.replaceChildren(
    element("span", { class: "name" }, name),
    element("span", { class: "share" }, turn.label ? "" : percent(turn.confidence)),
    element("span", { class: "about" }, turn.label ? `heard as ${turn.heard}` : turn.why[0] ?? `${turn.seconds} s`),
    element("span", { class: "when" }, new Date(turn.time).toLocaleString([], { dateStyle: "short", timeStyle: "short" })),
  );
}

function spoken(intent) {
  if (intent === about.noise) return "no speech";
  return intent === about.out_of_scope ? "out of scope" : intent;
}

function count() {
  const done = turns.filter((turn) => turn.label).length;
  at("count").textContent = turns.length ? `${done} of ${turns.length} labelled` : "";
  at("undo").disabled = labels.length === 0;
}

// ---------------------------------------------------------------- one turn

function select(turn) {
  stop();
  current = turn;
  for (const made of list.children) made.setAttribute("aria-selected", String(made.id === turn?.id));
  at("one").hidden = !turn;
  if (!turn) return list.removeAttribute("aria-activedescendant");
  list.setAttribute("aria-activedescendant", turn.id);
  document.getElementById(turn.id)?.scrollIntoView({ block: "nearest" });
  view.show(turn, spoken);
  draw(at("shape"), null);
  look(turn);
}

/** What takes longer to know than what the list knows. */
async function look(turn) {
  const [more, clip] = await Promise.all([attempt(() => ask(path(turn))), attempt(() => load(path(turn, "/audio")))]);
  if (current !== turn) return;
  if (more) view.more(more, spoken);
  if (clip) draw(at("shape"), clip);
}

function move(by) {
  const place = shown.indexOf(current) + by;
  if (!shown[place]) return;
  select(shown[place]);
  playTurn();
}

/** On to the next that has no label. */
function advance() {
  const place = shown.indexOf(current);
  const next = shown.slice(place + 1).find((turn) => !turn.label) ?? shown.find((turn) => !turn.label);
  if (!next) return refilter(); // more than are drawn may wait
  select(next);
  playTurn();
}

function playTurn() {
  if (current) playClip(path(current, "/audio"), at("play"));
}

async function playClip(from, button) {
  if (button.getAttribute("aria-pressed") === "true") return stop();
  const turn = current;
  const clip = await attempt(() => load(from));
  if (!clip || turn !== current) return; // somebody has gone on meanwhile
  button.setAttribute("aria-pressed", "true");
  play(clip, () => {
    button.setAttribute("aria-pressed", "false");
    document.body.dataset.played = Number(document.body.dataset.played ?? 0) + 1; // for tests
  });
}

// ---------------------------------------------------------------- labels

async function label(intent) {
  const turn = current;
  if (!turn || busy) return;
  if (await keep(turn, intent)) {
    if (current === turn) advance();
  }
}

/** Has the server keep a label, or take it away (null); false where it does not, and the page says why. */
async function keep(turn, intent, undoing = false) {
  notice("");
  busy = true;
  const before = turn.label;
  const told = await attempt(() => ask("api/label", { id: turn.id, intent, before }));
  busy = false;
  if (!told) {
    await read(); // somebody else may have labelled it, or removed the recording
    return false;
  }
  if (!undoing) labels.push({ id: turn.id, intent: before?.intent ?? null });
  Object.assign(turn, told.turn);
  const made = document.getElementById(turn.id);
  if (made) fill(made, turn);
  view.outcome(`Heard as ${turn.heard}, ${turn.label ? `labelled ${spoken(turn.label.intent)}` : "without a label again"}. ${told.said}`);
  if (current === turn) view.show(turn, spoken);
  count();
  return true;
}

async function undo() {
  const last = labels.at(-1);
  if (!last || busy) return;
  const turn = turns.find((one) => one.id === last.id);
  labels.pop();
  if (!turn) return count();
  if (!shown.includes(turn)) filters.clear();
  if (await keep(turn, last.intent, true)) {
    select(turn);
    look(turn);
  }
}

// ---------------------------------------------------------------- the keys

const KEYS = {
  j: () => move(1),
  ArrowDown: () => move(1),
  k: () => move(-1),
  ArrowUp: () => move(-1),
  " ": playTurn,
  Enter: () => current && label(current.heard),
  n: () => label(about.noise),
  o: () => label(about.out_of_scope),
  "/": () => current && search.open(about.intents),
  u: undo,
  c: () => current && filters.onlyCall(current),
  r: read,
  "?": () => at("keys").showModal(),
};

function pressed(event) {
  if (!about || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const onControl = event.target.closest("button, select, input");
  if (onControl && [" ", "Enter", "ArrowDown", "ArrowUp"].includes(event.key)) return; // it is the control's own
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const choice = /^[1-9]$/.test(key) ? view.choices[Number(key) - 1] : undefined;
  if (!KEYS[key] && choice === undefined) return;
  event.preventDefault();
  notice("");
  if (choice !== undefined) label(choice);
  else KEYS[key]();
}

// ---------------------------------------------------------------- words

function notice(text) {
  at("notice").textContent = text;
}

/** What `work` gives; undefined where it fails, and the page says why, until somebody does something. */
async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    notice(error instanceof DOMException ? "The recording cannot be played by this browser." : error.message);
    return undefined;
  }
}

async function begin() {
  about = await attempt(() => ask("api/about"));
  if (!about) return;
  at("project").textContent = about.project;
  view.hears = about.hears;
  await read();
  list.focus();
}

document.addEventListener("keydown", pressed);
at("play").addEventListener("click", playTurn);
at("confirm").addEventListener("click", KEYS.Enter);
at("other").addEventListener("click", KEYS["/"]);
at("noise").addEventListener("click", KEYS.n);
at("scope").addEventListener("click", KEYS.o);
at("undo").addEventListener("click", undo);
at("only").addEventListener("click", KEYS.c);
at("help").addEventListener("click", KEYS["?"]);
window.addEventListener("resize", () => current && look(current));
begin();
