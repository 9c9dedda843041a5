// Building elements. Everything that comes from the server goes in as text, never as HTML: the bot's words are not ours.

/** An element with attributes and children; `null` children are left out, strings become text. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** The address as the browser reads it when it is an http or https one, otherwise null (`javascript:` and the like). */
export function webAddress(address) {
  try {
    const url = new URL(String(address));
    return url.protocol === "http:" || url.protocol === "https:" ? url.href : null;
  } catch {
    return null;
  }
}

/** A link that opens elsewhere and tells nobody where it was found. */
export function link(address, text = address) {
  return element("a", { href: address, target: "_blank", rel: "noopener noreferrer nofollow" }, text);
}

/** The text as nodes, with web addresses in it as links. */
export function linked(text) {
  return text.split(/(https?:\/\/[^\s<>"]+[^\s<>".,;:!?)\]'])/).map((part, index) => {
    const address = index % 2 ? webAddress(part) : null;
    return address ? link(address, part) : document.createTextNode(part);
  });
}

/** "240 ms" or "1.24 s". */
export function duration(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`;
}

/** "98%", "<1%". */
export function percent(share) {
  if (share > 0 && share < 0.005) return "<1%";
  return `${Math.round(share * 100)}%`;
}
