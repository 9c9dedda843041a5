// The big button. "hands-free": each press is one event. "press": held down, or Space held down anywhere on the page; a
// short tap latches, so that whoever cannot hold a button taps once to begin and once to end.

const TAP_MS = 350;
const TYPING = "input, textarea, select, button, a, summary, [contenteditable]";

export class TalkButton {
  #button;
  #events;
  #down = null; // when the press began that is under way
  #latched = false;

  mode = "hands-free";

  /** `onPress()` hands-free; `onTalk(bool)` press and talk. */
  constructor(button, events) {
    this.#button = button;
    this.#events = events;
    button.addEventListener("pointerdown", (event) => event.button === 0 && this.#press(event));
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) button.addEventListener(name, () => this.#release());
    button.addEventListener("contextmenu", (event) => event.preventDefault()); // a long press on a phone
    button.addEventListener("click", (event) => this.#click(event));
    document.addEventListener("keydown", (event) => this.#key(event, true));
    document.addEventListener("keyup", (event) => this.#key(event, false));
    window.addEventListener("blur", () => this.stop());
  }

  get isTalking() {
    return this.#down !== null || this.#latched;
  }

  get isLatched() {
    return this.#latched;
  }

  /** Whatever was held is let go. */
  stop() {
    const was = this.isTalking;
    this.#down = null;
    this.#latched = false;
    if (was) this.#events.onTalk(false);
  }

  #press(event) {
    if (this.mode !== "press") return;
    if (event.pointerId !== undefined) this.#button.setPointerCapture(event.pointerId);
    if (this.#latched) return this.stop();
    this.#down = performance.now();
    this.#events.onTalk(true);
  }

  #release() {
    if (this.#down === null) return;
    const held = performance.now() - this.#down;
    this.#down = null;
    if (held >= TAP_MS) return this.#events.onTalk(false);
    this.#latched = true;
    this.#events.onTalk(true); // it goes on, and the label says so
  }

  /** Clicks that no pointer made (a screen reader's, a voice command's) toggle; those of a pointer were seen above. */
  #click(event) {
    if (this.mode !== "press") return this.#events.onPress();
    if (event.detail !== 0) return;
    if (this.isTalking) return this.stop();
    this.#latched = true;
    this.#events.onTalk(true);
  }

  #key(event, down) {
    const here = event.target === this.#button;
    const ours = event.key === " " && (here || !event.target.closest?.(TYPING));
    if (this.mode !== "press" || !ours) return;
    event.preventDefault();
    if (event.repeat) return;
    if (down) this.#press(event);
    else this.#release();
  }
}
