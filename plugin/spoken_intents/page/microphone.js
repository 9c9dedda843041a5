// The microphone, in chunks of 20 ms (Int16Array), and in words why there is none.

const CONSTRAINTS = { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true };
const WORKLET = new URL("capture-worklet.js", import.meta.url);

/** Why the microphone cannot be had. `message` is for people. */
export class NoMicrophone extends Error {}

export class Microphone {
  #context;
  #onChunk;
  #onLost;
  #stream = null;
  #nodes = [];
  #loaded = null;
  #opening = null;

  /** `onChunk` gets every chunk while it is open; `onLost` is told when it is unplugged. */
  constructor(context, onChunk, onLost) {
    this.#context = context;
    this.#onChunk = onChunk;
    this.#onLost = onLost;
  }

  get isOpen() {
    return this.#stream !== null;
  }

  /** Opens it, asking the person if need be. Throws NoMicrophone. */
  async open() {
    if (this.isOpen) return;
    this.#opening ??= this.#ask().finally(() => (this.#opening = null)); // a second press while the browser asks
    await this.#opening;
  }

  async #ask() {
    const why = whyNever();
    if (why) throw new NoMicrophone(why);
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: CONSTRAINTS });
      this.#loaded ??= this.#context.audioWorklet.addModule(WORKLET);
      await this.#loaded;
    } catch (error) {
      for (const track of stream?.getTracks() ?? []) track.stop();
      throw new NoMicrophone(reason(error));
    }
    this.#connect(stream);
  }

  close() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    for (const node of this.#nodes) node.disconnect();
    this.#nodes = [];
    this.#stream = null;
  }

  #connect(stream) {
    const source = this.#context.createMediaStreamSource(stream);
    const capture = new AudioWorkletNode(this.#context, "capture");
    capture.port.onmessage = ({ data }) => this.#stream === stream && this.#onChunk(data);
    source.connect(capture).connect(this.#context.destination); // it puts out silence; unconnected, some browsers do not run it
    stream.getAudioTracks()[0].addEventListener("ended", () => {
      if (this.#stream !== stream) return;
      this.close();
      this.#onLost("The microphone is gone. Plug it in again and press the button.");
    });
    this.#stream = stream;
    this.#nodes = [source, capture];
  }
}

/** Why this page can never have a microphone here, in words; null when it can ask. */
export function whyNever() {
  if (window.isSecureContext && navigator.mediaDevices?.getUserMedia) return null;
  const here = `http://localhost${location.port ? `:${location.port}` : ""}${location.pathname}`;
  return (
    `Browsers give the microphone only to pages on https or on this computer itself. This page came by plain http from ` +
    `${location.host}. Open it by https, or as ${here} on the computer that runs the server.`
  );
}

function reason(error) {
  switch (error.name) {
    case "NotAllowedError":
      return (
        "The browser does not let this page use the microphone. Allow it by the icon beside the page's address " +
        "(a microphone or a lock), then press the button again."
      );
    case "NotFoundError":
    case "OverconstrainedError":
      return "No microphone was found. Plug one in and press the button again.";
    case "NotReadableError":
      return "The microphone cannot be read. Perhaps another program uses it: close that and press the button again.";
    default:
      return `The microphone could not be opened (${error.name}: ${error.message}).`;
  }
}
