// One turn on the page: what was heard (or typed), what the bot answered, where the time went. Drawing only; which
// message belongs to which turn is known in turns.js.

import { element, link, linked, percent, webAddress } from "./dom.js";
import { Ranking } from "./ranking.js";
import { timeline } from "./timeline.js";

const SURE = 0.5; // below, the intent is shown as a guess

export class Card {
  #said = element("div", { class: "said" });
  #answer = element("div", { class: "answer" });
  #time = null;
  #ranking = null;

  /** `kind`: spoken, typed or bot (it began by itself). `actions`: onReply(button), onReplay(card, pressed). */
  constructor(kind, actions) {
    this.actions = actions;
    this.element = element("li", { class: "turn", "data-kind": kind, "data-state": "waiting" }, this.#said, this.#answer);
  }

  get state() {
    return this.element.dataset.state;
  }

  set state(state) {
    this.element.dataset.state = state;
  }

  // -------------------------------------------------- the person's side

  typed(text, how) {
    this.#said.replaceChildren(element("p", { class: "who" }, how), element("p", { class: "words" }, text));
  }

  /** Somebody speaks: the card is there from the first word. */
  hearing() {
    this.state = "hearing";
    this.#title("You speak", "Listening …");
  }

  /** The ranking of what was said so far. */
  partial({ intent_ranking, complete }) {
    const best = intent_ranking[0];
    const whole = typeof complete === "number" ? `So far, ${percent(complete)} that this is all` : "So far";
    this.#title(whole, best ? best.name : "…");
    this.#rank(intent_ranking);
  }

  /** The utterance is over, its intent not yet known. */
  ended() {
    if (this.state === "hearing") this.state = "waiting";
  }

  heard({ intent, confidence, intent_ranking }) {
    this.state = "thinking";
    const sure = element("span", { class: "confidence", "data-sure": String(confidence >= SURE) }, percent(confidence));
    this.#title("You said", intent, sure);
    this.#rank(intent_ranking ?? []);
  }

  /** The turn's audio can be heard again. */
  offerReplay(intent) {
    const named = { "aria-label": `Replay “${intent}”`, "aria-pressed": "false" };
    const button = element("button", { class: "replay quiet", type: "button", ...named }, "Replay");
    button.addEventListener("click", () => this.actions.onReplay(this, button));
    this.#said.querySelector(".title").append(button);
  }

  /** What a developer can say of the turn. */
  correctBy(correction) {
    this.#said.append(correction);
  }

  /** It was no turn after all: the card becomes one line. */
  becomes(line, state) {
    this.state = state;
    this.element.replaceChildren(element("p", { class: "line" }, line));
  }

  #title(who, name, ...more) {
    const words = element("p", { class: "words" }, element("span", { class: "intent" }, name), ...more);
    const title = element("div", { class: "title" }, element("div", {}, element("p", { class: "who" }, who), words));
    const before = this.#said.querySelector(".title");
    if (before) before.replaceWith(title);
    else this.#said.prepend(title);
  }

  #rank(ranking) {
    if (!this.#ranking) this.#said.append((this.#ranking = new Ranking()).element);
    this.#ranking.show(ranking);
  }

  // -------------------------------------------------- the bot's side

  /** A `response` (with buttons), `image` or `custom` message. */
  say(message) {
    if (typeof message.response === "string") this.#answer.append(element("p", { class: "bubble" }, ...linked(message.response)));
    if (Array.isArray(message.buttons)) this.#answer.append(this.#replies(message.buttons));
    if (message.image !== undefined) this.#answer.append(picture(message.image));
    if (message.custom !== undefined) this.#answer.append(custom(message.custom));
  }

  /** A line under the answer: a turn that failed, or that was broken off. */
  note(text, isError = false) {
    this.#answer.append(element("p", { class: isError ? "note error" : "note" }, text));
  }

  #replies(buttons) {
    const made = buttons.map((reply) => {
      const button = element("button", { class: "reply", type: "button" }, String(reply.title ?? reply.payload ?? ""));
      button.addEventListener("click", () => {
        for (const other of made) other.disabled = true;
        button.dataset.chosen = "true";
        this.actions.onReply(reply);
      });
      return button;
    });
    return element("div", { class: "replies", role: "group", "aria-label": "Answers to choose from" }, ...made);
  }

  // -------------------------------------------------- the time

  /** The server's figures, and later once more with what was played. */
  time(latency, turn, playedMs) {
    const made = timeline(latency, turn, playedMs);
    if (this.#time) this.#time.replaceWith(made);
    else this.element.append(made);
    this.#time = made;
  }
}

function picture(address) {
  const url = webAddress(address);
  if (!url) return element("p", { class: "note" }, `A picture that is not on the web: ${address}`);
  const image = element("img", { src: url, alt: "Picture from the bot", loading: "lazy", referrerpolicy: "no-referrer" });
  image.addEventListener("error", () => image.replaceWith(link(url)));
  return image;
}

function custom(value) {
  const url = typeof value?.attachment === "string" ? webAddress(value.attachment) : null;
  if (url) return element("p", { class: "bubble" }, "Attachment: ", link(url));
  return element("details", { class: "custom" }, element("summary", {}, "Data from the bot"), element("pre", {}, JSON.stringify(value, null, 2)));
}
