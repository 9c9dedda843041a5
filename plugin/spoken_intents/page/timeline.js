// Where a turn's time went, as one stacked bar and as a list that says the same in words.

import { duration, element } from "./dom.js";

/** What the figures of a final marker, and what this page measured, say of each phase: [{phase, label, ms, note}]. */
export function phases(latency, turn, playedMs) {
  const spoken = turn.start_ms !== undefined && turn.speech_end_ms !== undefined;
  const first = latency.first_response_latency_ms;
  const firstSound = latency.tts_first_byte_latency_ms;
  return [
    spoken && { phase: "speech", label: "speech", ms: turn.speech_end_ms - turn.start_ms },
    spoken && { phase: "wait", label: "silence waited", ms: latency.endpoint_delay_ms },
    spoken && {
      phase: "classify",
      label: "classification",
      ms: latency.asr_latency_ms,
      note: turn.ahead ? "ahead, in the pause" : null,
    },
    { phase: "dialogue", label: "dialogue", ms: latency.rasa_processing_latency_ms },
    firstSound !== undefined &&
      first !== undefined && { phase: "synthesis", label: "synthesis to the first sound", ms: Math.max(0, firstSound - first) },
    playedMs > 0 && { phase: "playback", label: "playback", ms: playedMs },
  ].filter((phase) => phase && Number.isFinite(phase.ms));
}

/** How long after the end of speech (or of typing) the bot was heard or read first; null when it said nothing. */
export function answeredAfter(latency) {
  const first = latency.tts_first_byte_latency_ms ?? latency.first_response_latency_ms;
  return first === undefined ? null : (latency.endpoint_delay_ms ?? 0) + first;
}

/** The bar and the list. */
export function timeline(latency, turn, playedMs) {
  const parts = phases(latency, turn, playedMs);
  const after = answeredAfter(latency);
  const bar = element("div", { class: "bar", "aria-hidden": "true" });
  const list = element("ul", { class: "phases" });
  for (const { phase, label, ms, note } of parts) {
    const piece = element("i", { "data-phase": phase, title: `${label}: ${duration(ms)}` });
    piece.style.setProperty("flex-grow", Math.max(ms, 0));
    bar.append(piece);
    const dot = element("i", { "data-phase": phase, "aria-hidden": "true" });
    list.append(element("li", {}, dot, `${label} `, element("b", {}, duration(ms)), note ? ` (${note})` : ""));
  }
  const spoken = parts.some(({ phase }) => phase === "speech");
  const heading = after === null ? "Where the time went" : `Answered ${duration(after)} after ${spoken ? "you stopped" : "you sent it"}`;
  return element("div", { class: "timeline" }, element("h4", {}, heading), bar, list);
}
