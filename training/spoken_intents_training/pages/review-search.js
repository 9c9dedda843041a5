// An intent by part of its name, in a dialog.

import { element } from "./dom.js";

export class IntentSearch {
  #dialog;
  #input;
  #list;
  #intents = [];
  #place = 0;

  constructor(dialog, { onChoose, onClose }) {
    this.#dialog = dialog;
    this.#input = dialog.querySelector("input");
    this.#list = dialog.querySelector("ol");
    this.onChoose = onChoose;
    this.#input.addEventListener("input", () => this.#find());
    this.#input.addEventListener("keydown", (event) => this.#key(event));
    dialog.addEventListener("close", onClose);
  }

  open(intents) {
    this.#intents = intents;
    this.#input.value = "";
    this.#find();
    this.#dialog.showModal();
    this.#input.focus();
  }

  #find() {
    const wanted = this.#input.value.trim().toLowerCase();
    const begins = (name) => (name.toLowerCase().startsWith(wanted) ? 0 : 1);
    const found = this.#intents.filter((name) => name.toLowerCase().includes(wanted)).sort((one, other) => begins(one) - begins(other));
    this.#list.replaceChildren(...found.map((name) => this.#option(name)));
    if (!found.length) this.#list.append(element("li", { class: "who" }, "No intent of the domain is called so."));
    this.#go(0);
  }

  #option(name) {
    const made = element("li", { role: "option", "data-name": name }, name);
    made.addEventListener("click", () => this.#choose(name));
    return made;
  }

  #go(place) {
    const options = [...this.#list.querySelectorAll("[role=option]")];
    this.#place = Math.max(0, Math.min(options.length - 1, place));
    options.forEach((option, number) => option.setAttribute("aria-selected", String(number === this.#place)));
    options[this.#place]?.scrollIntoView({ block: "nearest" });
  }

  #key(event) {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") this.#go(this.#place + (event.key === "ArrowDown" ? 1 : -1));
    else if (event.key === "Enter") this.#choose(this.#list.querySelector("[aria-selected=true]")?.dataset.name);
    else return;
    event.preventDefault();
  }

  #choose(name) {
    if (name === undefined) return;
    this.#dialog.close();
    this.onChoose(name);
  }
}
