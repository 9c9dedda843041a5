// The last seconds of what was sent, as bars in the colours of what the server hears in them. The server tells of speech
// and pauses a moment later than they were, so colours are looked up by time at each drawing.

const BAR_MS = 60;
const BAR = { width: 2, gap: 1.5 };
const MOST_BARS = 1000;
const MOST_MARKS = 300;
const CALM_MS = 250; // between drawings when the person asked for less motion

export class Waveform {
  #canvas;
  #bars = []; // {ms, peak}
  #marks = []; // {ms, kind}: from then on
  #planned = false;
  #drawnAt = 0;
  #calm = matchMedia("(prefers-reduced-motion: reduce)");

  constructor(canvas) {
    this.#canvas = canvas;
    new ResizeObserver(() => this.#plan()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#plan());
  }

  /** A chunk of what was sent: its loudest sample, and where it ends, in milliseconds. */
  push(peak, ms) {
    const last = this.#bars.at(-1);
    if (last && Math.floor(last.ms / BAR_MS) === Math.floor(ms / BAR_MS)) last.peak = Math.max(last.peak, peak);
    else this.#bars.push({ ms, peak });
    if (this.#bars.length > MOST_BARS) this.#bars.splice(0, MOST_BARS / 2);
    const now = performance.now();
    if (this.#calm.matches && now - this.#drawnAt < CALM_MS) return;
    this.#drawnAt = now;
    this.#plan();
  }

  /** From `ms` on it is speech, pause or quiet. */
  mark(kind, ms) {
    this.#marks.push({ kind, ms });
    if (this.#marks.length > MOST_MARKS) this.#marks.splice(0, MOST_MARKS / 2);
    this.#plan();
  }

  /** What was taken for speech since the last quiet was none. */
  noise() {
    let last = this.#marks.length - 1;
    while (last >= 0 && this.#marks[last].kind === "quiet") last--;
    for (; last >= 0 && this.#marks[last].kind !== "quiet"; last--) this.#marks[last].kind = "noise";
    this.#plan();
  }

  #kindAt(ms) {
    return this.#marks.findLast((mark) => mark.ms <= ms)?.kind ?? "quiet";
  }

  #plan() {
    if (this.#planned) return;
    this.#planned = true;
    requestAnimationFrame(() => {
      this.#planned = false;
      this.#draw();
    });
  }

  #draw() {
    const { width, height } = this.#canvas.getBoundingClientRect();
    const scale = window.devicePixelRatio || 1;
    this.#canvas.width = Math.round(width * scale);
    this.#canvas.height = Math.round(height * scale);
    const pen = this.#canvas.getContext("2d");
    pen.scale(scale, scale);
    const style = getComputedStyle(this.#canvas);
    const pitch = BAR.width + BAR.gap;
    const room = Math.floor(width / pitch);
    for (let back = 0; back < room; back++) {
      const bar = this.#bars[this.#bars.length - 1 - back];
      const kind = bar ? this.#kindAt(bar.ms) : "quiet";
      pen.fillStyle = style.getPropertyValue(`--wave-${kind}`);
      const x = width - (back + 1) * pitch;
      this.#bar(pen, x, height - 5, bar ? bar.peak : 0);
      if (kind === "speech" || (kind === "pause" && back % 2)) pen.fillRect(x, height - 2, kind === "speech" ? pitch : BAR.width, 2);
    }
  }

  #bar(pen, x, height, peak) {
    const tall = Math.max(BAR.width, Math.min(1, peak ** 0.6) * height);
    pen.beginPath();
    pen.roundRect(x, (height - tall) / 2, BAR.width, tall, BAR.width / 2);
    pen.fill();
  }
}
