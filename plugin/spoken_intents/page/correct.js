// What a turn was, said by whoever develops the assistant, where the server lets them: see the channel's setting `correct`.
// A label is kept by the server at once; this page keeps none.

import { element } from "./dom.js";

export class Corrections {
  #token;
  #labels = null; // {intents, noise, out_of_scope}, once it was asked

  /** `token()` gives what the server asks callers for, if it does. */
  constructor(token) {
    this.#token = token;
  }

  /** An element with which the turn can be labelled; nothing where this person may not. `recording`: {call, turn}. */
  async offer(recording, heard) {
    this.#labels ??= this.#ask();
    try {
      const labels = await this.#labels;
      return labels && new Correction(recording, heard, labels, (body) => this.#ask(body)).element;
    } catch (error) {
      this.#labels = null; // the next turn asks again
      return element("p", { class: "note error" }, `This turn cannot be corrected: ${error.message}`);
    }
  }

  async #ask(body) {
    const headers = this.#token() ? { Authorization: `Bearer ${this.#token()}` } : {};
    const posted = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
    const answer = await fetch("correct", { ...posted, headers, cache: "no-store" });
    const told = await answer.json().catch(() => ({}));
    if (answer.ok) return told;
    if (body === undefined && [401, 403].includes(answer.status)) return null;
    throw new Error(told.error?.message ?? `The server answered ${answer.status}.`);
  }
}

class Correction {
  #recording;
  #heard;
  #labels;
  #ask;
  #label = null; // as the server has it
  #select;
  #said = element("span", { class: "note", role: "status" });

  constructor(recording, heard, labels, ask) {
    this.#recording = recording;
    this.#heard = heard;
    this.#labels = labels;
    this.#ask = ask;
    this.#select = this.#selection();
    const named = { class: "correct", role: "group", "aria-label": `What was it, heard as ${heard}?` };
    this.element = element(
      "div",
      named,
      this.#button("Right", heard),
      this.#select,
      this.#button("No speech", labels.noise),
      this.#button("Out of scope", labels.out_of_scope),
      this.#undo(),
      this.#said,
    );
    this.#show();
  }

  #button(words, intent) {
    const button = element("button", { type: "button", "data-intent": intent }, words);
    button.addEventListener("click", () => this.#keep(intent));
    return button;
  }

  #undo() {
    const button = element("button", { type: "button", class: "quiet undo" }, "Undo");
    button.addEventListener("click", () => this.#keep(null));
    return button;
  }

  #selection() {
    const others = this.#labels.intents.filter((name) => name !== this.#heard);
    const options = others.map((name) => element("option", { value: name }, name));
    const select = element("select", { "aria-label": "It was another intent" }, element("option", { value: "" }, "It was …"), ...options);
    select.addEventListener("change", () => select.value && this.#keep(select.value));
    return select;
  }

  async #keep(intent) {
    this.#said.textContent = "";
    this.element.inert = true;
    try {
      const told = await this.#ask({ ...this.#recording, intent, before: this.#label });
      this.#label = told.label;
      this.#said.textContent = told.said;
      this.#said.className = "note";
    } catch (error) {
      this.#said.textContent = error.message;
      this.#said.className = "note error";
    }
    this.element.inert = false;
    this.#show();
  }

  #show() {
    const intent = this.#label?.intent ?? "";
    for (const button of this.element.querySelectorAll("[data-intent]")) {
      button.setAttribute("aria-pressed", String(button.dataset.intent === intent));
    }
    this.#select.value = [...this.#select.options].some((option) => option.value === intent) ? intent : "";
    this.#select.dataset.chosen = String(this.#select.value !== "");
    this.element.querySelector(".undo").hidden = !this.#label;
  }
}
