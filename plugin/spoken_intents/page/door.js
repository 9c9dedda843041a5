// Who calls: the token, where the server asks for one. It is kept for as long as the tab is open. A link to this page may bring
// it behind #token=, which browsers send to nobody; it is taken out of the address at once.

export class Door {
  #form;
  #input;
  #why;
  #stored;
  #token = ""; // where nothing can be stored

  /** `stored(storage, key, value)` keeps a text; `onToken()` is called when somebody has entered one. */
  constructor(form, { stored, onToken }) {
    this.#form = form;
    this.#input = form.querySelector("input");
    this.#why = form.querySelector("p");
    this.#stored = stored;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#keep(this.#input.value.trim());
      this.close();
      onToken();
    });
    window.addEventListener("hashchange", () => this.#takeFromAddress() && onToken());
    this.#takeFromAddress();
  }

  get token() {
    return this.#stored("sessionStorage", "token") || this.#token;
  }

  /** Whether it says itself whose conversation this is: a JSON Web Token of the role "user". */
  get namesSender() {
    try {
      const payload = this.token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
      return JSON.parse(atob(payload)).user.role === "user";
    } catch {
      return false;
    }
  }

  /** Asks for a token; `why` the last one was not taken, if there was one. */
  ask(why) {
    this.#keep("");
    this.#why.textContent = why;
    this.#input.value = "";
    this.#form.hidden = false;
    this.focus();
  }

  focus() {
    this.#input.focus();
  }

  close() {
    this.#form.hidden = true;
  }

  #keep(token) {
    this.#token = token;
    this.#stored("sessionStorage", "token", token);
  }

  #takeFromAddress() {
    const [, written] = location.hash.match(/^#token=(.+)$/) ?? [];
    if (!written) return false;
    history.replaceState(null, "", location.pathname + location.search);
    try {
      this.#keep(decodeURIComponent(written));
    } catch {
      this.#keep(written);
    }
    return true;
  }
}
