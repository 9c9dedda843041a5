// The turn that is looked at: what was heard, what it may have been, what was said around it. Drawing only.

import { element, percent } from "./dom.js";

const SURE = 0.5;
const MOST_CHOICES = 9; // as many as there are digits

const at = (id) => document.getElementById(id);

export class TurnView {
  #turn = null;
  #nearest = [];

  choices = []; // intents, in the order of their digits
  hears = false; // whether clips that sound alike can be found
  listening = [0, 0]; // so many of so many clips can be found by now

  /** `onChoose(intent)`, `onPlay(path, button)`. */
  constructor(events) {
    this.events = events;
  }

  /** What is known at once. */
  show(turn, spoken) {
    if (this.#turn !== turn) {
      this.#nearest = [];
      at("lines").replaceChildren();
      at("nearest").replaceChildren();
      at("alike").hidden = true;
    }
    this.#turn = turn;
    const when = new Date(turn.time).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
    at("whose").textContent = `Caller ${turn.sender}, turn ${turn.turn}, ${when}, ${turn.seconds} s`;
    at("heard").textContent = turn.heard;
    at("sure").textContent = percent(turn.confidence);
    at("sure").dataset.sure = String(turn.confidence >= SURE);
    at("why").replaceChildren(...turn.why.map((words) => element("li", {}, words)));
    const label = turn.label;
    at("why").append(...(label ? [element("li", { class: "label" }, `labelled ${spoken(label.intent)} by ${label.by}`)] : []));
    this.#choose(spoken);
  }

  /** What was said around it, and what sounds like it. */
  more({ lines, nearest }, spoken) {
    at("lines").replaceChildren(...lines.map(line));
    this.#nearest = nearest;
    at("alike").hidden = !this.hears;
    const [heard, of] = this.listening;
    at("listening").textContent = heard < of ? `(${heard} of ${of} clips listened to so far)` : "";
    at("nearest").replaceChildren(...nearest.map((one) => this.#neighbour(one, spoken)));
    if (!nearest.length) at("nearest").append(element("li", { class: "who" }, heard < of ? "Listening …" : "No labelled clip yet."));
    this.#choose(spoken);
  }

  outcome(words) {
    at("outcome").textContent = words;
  }

  /** The ranking, then what else the nearest clips are. */
  #choose(spoken) {
    const turn = this.#turn;
    const counts = new Map();
    for (const { intent } of this.#nearest) counts.set(intent, (counts.get(intent) ?? 0) + 1);
    const others = [...counts.keys()].filter((intent) => !turn.ranking.some(([name]) => name === intent));
    const rows = [...turn.ranking, ...others.map((intent) => [intent, null])].slice(0, MOST_CHOICES);
    this.choices = rows.map(([intent]) => intent);
    at("choices").replaceChildren(
      ...rows.map(([intent, confidence], place) => this.#choice(place + 1, intent, confidence, counts.get(intent) ?? 0, spoken)),
    );
  }

  #choice(digit, intent, confidence, count, spoken) {
    const bar = element("span", { class: "bar", "aria-hidden": "true" }, element("i"));
    bar.style.setProperty("--share", confidence ?? 0);
    const button = element(
      "button",
      { type: "button", "data-chosen": this.#turn.label?.intent === intent },
      element("kbd", {}, String(digit)),
      element("span", { class: "name" }, spoken(intent)),
      bar,
      element("span", { class: "share" }, confidence === null ? "" : percent(confidence)),
      element("span", { class: "near" }, count ? `${count} alike` : ""),
    );
    button.addEventListener("click", () => this.events.onChoose(intent));
    return element("li", {}, button);
  }

  #neighbour({ clip, intent, likeness }, spoken) {
    const named = { "aria-label": `Play ${clip}`, "aria-pressed": "false", title: clip };
    const button = element("button", { class: "replay quiet", type: "button", ...named }, spoken(intent));
    button.addEventListener("click", () => this.events.onPlay(`api/clip?reference=${encodeURIComponent(clip)}`, button));
    return element("li", {}, button, element("span", { class: "who" }, percent(Math.max(0, likeness))));
  }
}

function line({ by, text, is_this }) {
  const who = { caller: "Caller", bot: "Bot", action: "Action" }[by] ?? by;
  return element("li", { "data-by": by, "aria-current": is_this ? "true" : null }, element("span", { class: "who" }, who), element("span", {}, text));
}
