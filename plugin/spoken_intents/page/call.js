// The connection to the server: asks whether it is there, opens the WebSocket when a call is wanted, and comes back by
// itself when it is lost. A server that refuses is not asked again until somebody does something.

const RETRY_S = [1, 2, 3, 5, 8, 15];
const STEADY_MS = 5000; // a connection that lasts so long was a good one: the next loss is tried again soon
const ANSWER_MS = 8000; // how long the server may take to answer at all
const MOST_UNSENT_BYTES = 2 ** 21; // twenty seconds: the line is dead, whatever the browser says
const MOST_EARLY = 250; // chunks, five seconds
const REFUSED = 4000; // close codes from here on

/**
 * States, told to `onState(state, detail)`:
 * checking · ready (there, no call) · connecting · open · gone and unable ({seconds} until the next try; unable: it has no
 * recognizer) · locked (it asks for a token; {message}: it does not take the one that was shown) · refused ({message}) · ended
 * (the bot hung up).
 */
export class Call {
  #events;
  #socket = null;
  #wanted = false;
  #attempts = 0;
  #timers = {};
  #queue = []; // typed messages that wait for a connection
  #early = []; // audio, and what belongs to it, for the connection that is being made
  #refusal = null;
  #hungUp = false;

  state = "checking";
  speech = "none"; // who speaks the bot's words: "browser" is this page

  /** `onState`, `onMessage(message)`, `onConnecting()` just before a connection, `handshake()` gives its first message,
   * with a `token` where there is one. */
  constructor(events) {
    this.#events = events;
    window.addEventListener("online", () => this.#timers.retry && this.check());
  }

  /** Asks the server whether it is there, and again until it is; goes on with the call that is wanted. */
  async check() {
    this.#stopTimer("retry");
    this.#become("checking");
    const status = await this.#status();
    if (this.state !== "checking") return;
    if (!status) return this.#later("gone");
    this.speech = status.speech ?? "none";
    if (status.token && !this.#events.handshake().token) return this.#become("locked", { message: "" });
    if (!status.recognizer) return this.#later("unable");
    if (this.#wanted || this.#queue.length) this.#connect();
    else {
      this.#attempts = 0;
      this.#become("ready");
    }
  }

  /** A call is wanted from now on. */
  open() {
    this.#wanted = true;
    if (["ready", "ended"].includes(this.state)) this.#connect();
    else if (["gone", "unable", "refused"].includes(this.state)) this.check();
  }

  /** No call is wanted any more. */
  close() {
    this.#wanted = false;
    this.#queue = [];
    if (this.#socket) this.#drop();
    if (["connecting", "open", "refused", "ended"].includes(this.state)) this.#become("ready");
  }

  /** Sends a message; one that nobody can take yet waits for the connection, which it asks for. */
  send(message) {
    if (this.#isOpen()) return this.#socket.send(JSON.stringify(message));
    this.#queue.push(message);
    this.open();
  }

  /** Sends a message that means something to this connection alone; without one it is forgotten. */
  tell(message) {
    if (this.state === "connecting") this.#early.push(JSON.stringify(message));
    if (this.#isOpen()) this.#socket.send(JSON.stringify(message));
  }

  /** Sends samples; false when there is no connection that could take them. */
  sendAudio(samples) {
    if (this.state === "connecting" && this.#early.length < MOST_EARLY) {
      this.#early.push(samples);
      return true;
    }
    if (!this.#isOpen()) return false;
    if (this.#socket.bufferedAmount > MOST_UNSENT_BYTES) {
      this.#drop();
      this.#later("gone");
      return false;
    }
    this.#socket.send(samples);
    return true;
  }

  /** A socket that is closing would complain. */
  #isOpen() {
    return this.state === "open" && this.#socket.readyState === WebSocket.OPEN;
  }

  async #status() {
    try {
      const answer = await fetch("status", { signal: AbortSignal.timeout(ANSWER_MS), cache: "no-store" });
      return answer.ok ? await answer.json() : null;
    } catch {
      return null;
    }
  }

  #connect() {
    const url = new URL("websocket", location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    url.search = url.hash = "";
    const socket = new WebSocket(url);
    this.#socket = socket;
    this.#early = [];
    this.#refusal = null;
    this.#hungUp = false;
    this.#events.onConnecting();
    this.#become("connecting");
    this.#startTimer("answer", ANSWER_MS, () => socket.close());
    socket.onopen = () => this.#socket === socket && this.#opened(socket);
    socket.onmessage = ({ data }) => this.#socket === socket && this.#received(data);
    socket.onclose = ({ code, reason }) => this.#socket === socket && this.#closed(code, reason);
  }

  #opened(socket) {
    this.#stopTimer("answer");
    this.#startTimer("steady", STEADY_MS, () => (this.#attempts = 0));
    socket.send(JSON.stringify(this.#events.handshake()));
    for (const message of this.#early) socket.send(message);
    for (const message of this.#queue) socket.send(JSON.stringify(message));
    this.#early = [];
    this.#queue = [];
    this.#become("open");
  }

  #received(data) {
    const message = JSON.parse(data);
    if (message.error && message.error.code !== "turn_failed") this.#refusal = message.error;
    else if (message.hangup) this.#hungUp = true;
    this.#events.onMessage(message);
  }

  #closed(code, reason) {
    this.#forget();
    const refusal = this.#refusal ?? (code >= REFUSED ? { code: reason, message: `${reason} (WebSocket close code ${code})` } : null);
    if (refusal?.code === "no_recognizer") return this.#later("unable");
    if (!this.#hungUp && (!refusal || refusal.code === "going_down")) return this.#later("gone");
    this.#wanted = false;
    if (refusal?.code === "unauthorized") return this.#become("locked", { message: refusal.message });
    if (this.#hungUp) this.#become("ended");
    else if (refusal.code === "idle") this.#become("ready"); // nobody said anything for a while: no reason for a message
    else this.#become("refused", { message: refusal.message });
  }

  #drop() {
    const socket = this.#socket;
    this.#forget();
    socket.close();
  }

  #forget() {
    this.#socket = null;
    this.#early = [];
    this.#stopTimer("answer");
    this.#stopTimer("steady");
  }

  #later(state) {
    const seconds = RETRY_S[Math.min(this.#attempts++, RETRY_S.length - 1)];
    this.#startTimer("retry", seconds * 1000, () => this.check());
    this.#become(state, { seconds });
  }

  #become(state, detail = {}) {
    this.state = state;
    this.#events.onState(state, detail);
  }

  #startTimer(name, ms, then) {
    this.#stopTimer(name);
    this.#timers[name] = setTimeout(() => {
      this.#timers[name] = null;
      then();
    }, ms);
  }

  #stopTimer(name) {
    clearTimeout(this.#timers[name]);
    this.#timers[name] = null;
  }
}
