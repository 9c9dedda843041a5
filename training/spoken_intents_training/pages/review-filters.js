// Which turns the list shows: labelled or not, heard as what, of whom, of which day, of one call.

import { element } from "./dom.js";

const LABELLED = { no: "without a label", yes: "labelled", all: "all" };

export class Filters {
  #form;
  #button;
  #call = "";

  /** `form` has selects called labelled, heard, sender, day; `button` takes the one call away again. */
  constructor(form, button, onChange) {
    this.#form = form;
    this.#button = button;
    this.onChange = onChange;
    this.#fill("labelled", LABELLED);
    form.addEventListener("change", onChange);
    form.addEventListener("submit", (event) => event.preventDefault());
    button.addEventListener("click", () => this.#set(""));
  }

  /** Offers what there is among these turns. */
  offer(turns) {
    for (const [name, of] of [["heard", (turn) => turn.heard], ["sender", (turn) => turn.sender], ["day", (turn) => turn.time.slice(0, 10)]]) {
      const values = [...new Set(turns.map(of))].sort();
      this.#fill(name, { "": "all", ...Object.fromEntries(values.map((value) => [value, value])) });
    }
  }

  /** The turns that pass; of one call in its order. */
  choose(turns) {
    const { labelled, heard, sender, day } = Object.fromEntries(new FormData(this.#form));
    const passing = turns.filter(
      (turn) =>
        (labelled === "all" || Boolean(turn.label) === (labelled === "yes") || this.#call) &&
        (!heard || turn.heard === heard) &&
        (!sender || turn.sender === sender) &&
        (!day || turn.time.startsWith(day)) &&
        (!this.#call || turn.call === this.#call),
    );
    return this.#call ? passing.sort((one, other) => one.turn - other.turn) : passing;
  }

  /** Shows the turn's call alone, labelled or not; once more, all again. */
  onlyCall(turn) {
    this.#set(this.#call ? "" : turn.call, turn.id);
  }

  /** Lets everything through. */
  clear() {
    this.#form.reset();
    this.#form.elements.labelled.value = "all";
    this.#set("");
  }

  #set(call, id) {
    this.#call = call;
    this.#button.hidden = !call;
    this.#button.textContent = `Only call ${call.slice(0, 12)} ✕`;
    this.onChange(id);
  }

  #fill(name, options) {
    const select = this.#form.elements[name];
    const chosen = select.value;
    select.replaceChildren(...Object.entries(options).map(([value, words]) => element("option", { value }, words)));
    if (chosen in options) select.value = chosen;
  }
}
