// How a page on this computer talks to its server: with the token that stands behind the # of its address.

const token = () => new URLSearchParams(location.hash.slice(1)).get("token");

/** What the server answers to a GET, or to a POST where there is a `body`, as JSON. Throws an Error with a sentence for people. */
export async function ask(path, body) {
  const answer = await reply(path, body);
  return answer.json();
}

/** The same for what is no JSON, such as a clip: its bytes. */
export async function bytes(path) {
  const answer = await reply(path);
  return answer.arrayBuffer();
}

/** A WebSocket of the server. */
export function socket(path) {
  const url = new URL(path, location.href);
  url.protocol = "ws:";
  url.hash = "";
  return new WebSocket(url, ["bearer", token() || "none"]);
}

async function reply(path, body) {
  const posted = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(path, { ...posted, headers: { Authorization: `Bearer ${token()}` } });
  } catch {
    throw new Error("The program behind this page is not running any more. Start it again and open the address that it shows.");
  }
  if (answer.ok) return answer;
  const why = await answer.json().catch(() => ({}));
  throw new Error(why.error ?? `The server answered ${answer.status}.`);
}
