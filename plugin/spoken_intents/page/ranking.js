// The likeliest intents as bars. While somebody still speaks they move: a row keeps its element from one ranking to the
// next, its place and its length are CSS transitions.

import { element, percent } from "./dom.js";

const ROWS = 4;
const SETTLE_MS = 600; // longer than the transitions in style.css

export class Ranking {
  #rows = new Map(); // by the intent's name

  constructor() {
    this.element = element("ol", { class: "ranking", "aria-label": "Likeliest intents" });
  }

  /** Shows an `intent_ranking`, descending as the server sends it. */
  show(ranking) {
    const best = ranking.slice(0, ROWS);
    for (const [name, row] of this.#rows) {
      if (!best.some((entry) => entry.name === name)) {
        row.element.remove();
        this.#rows.delete(name);
      }
    }
    best.forEach(({ name, confidence }, place) => {
      const row = this.#rows.get(name) ?? this.#add(name, place);
      row.share.textContent = percent(confidence);
      row.element.style.setProperty("--place", place);
      row.element.style.setProperty("--share", confidence);
    });
    this.element.style.setProperty("--rows", best.length);
    this.#settleLater(best);
  }

  #add(name, place) {
    const share = element("span", { class: "share" });
    const bar = element("span", { class: "bar", "aria-hidden": "true" }, element("i"));
    const row = { element: element("li", {}, element("span", { class: "name" }, name), bar, share), share };
    row.element.style.setProperty("--place", place);
    this.#rows.set(name, row);
    this.element.append(row.element);
    return row;
  }

  /** Once nothing moves any more the elements are put in order, for whoever has them read out. */
  #settleLater(best) {
    clearTimeout(this.settling);
    this.settling = setTimeout(() => this.element.append(...best.map(({ name }) => this.#rows.get(name).element)), SETTLE_MS);
  }
}
