// A request as JSON, its answer, and the line that sends it from a shell.

import { apiKey, send } from "./api.js";
import { byId, element, put } from "./dom.js";
import { showRefusal } from "./notice.js";

// What POST endpoints are asked with at first; GET has no body.
const BODIES = {
  "v1/rank": { user_id: "", num_candidates: 100, top_k: 10 },
  "v1/score": { user_id: "", candidate_ids: [] },
  "v1/explain": { user_id: "", candidate_ids: [], levels: true },
  "v1/release": null,
};

export function startPlayground() {
  const endpoint = byId("endpoint");
  endpoint.append(...Object.entries(BODIES).map(([path, body]) => element("option", { value: path }, `${body ? "POST" : "GET"} /${path}`)));
  endpoint.addEventListener("change", () => setBody(BODIES[endpoint.value]));
  byId("body").addEventListener("input", showCurl);
  byId("body").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("play").requestSubmit();
  });
  byId("play").addEventListener("submit", (event) => {
    event.preventDefault();
    play();
  });
  byId("copy").addEventListener("click", copy);
  setBody(BODIES[endpoint.value]);
  put(byId("answer"), element("p", { class: "empty" }, "Nothing sent yet."));
}

/** Put a request of the Rank view here. */
export function takeOver(body) {
  byId("endpoint").value = "v1/rank";
  byId("body").disabled = false;
  byId("body").value = body;
  showCurl();
}

function setBody(body) {
  byId("body").disabled = !body;
  byId("body").value = body ? JSON.stringify({ ...body, user_id: byId("user").value }, null, 2) : "";
  showCurl();
}

/** The body as it stands in the field; undefined for a GET. */
function body() {
  return byId("body").disabled ? undefined : byId("body").value;
}

/** Text as one word of a POSIX shell. */
export function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** The line; the key comes from the environment, so that it stands in no history. */
export function showCurl() {
  const words = ["curl", "-sS", quoted(new URL(byId("endpoint").value, document.baseURI).href)];
  if (apiKey()) words.push("-H", '"x-api-key: $RANKTOWER_AUTH__API_KEY"');
  if (body() !== undefined) words.push("-H", quoted("content-type: application/json"), "--data-raw", quoted(body()));
  byId("curl").textContent = words.join(" ");
}

async function copy() {
  try {
    await navigator.clipboard.writeText(byId("curl").textContent);
    byId("copied").textContent = "Copied.";
  } catch {
    // No clipboard without https or localhost: the line is selected, for Ctrl+C.
    getSelection().selectAllChildren(byId("curl"));
    byId("copied").textContent = "Selected; press Ctrl+C.";
  }
}

async function play() {
  const place = byId("answer");
  place.setAttribute("aria-busy", "true");
  try {
    const began = performance.now();
    const { status, headers, text } = await send(byId("endpoint").value, body());
    const facts = [`${Math.round(performance.now() - began)} ms`];
    for (const name of ["x-request-id", "retry-after"]) if (headers.get(name)) facts.push(`${name} ${headers.get(name)}`);
    put(place,
      element("p", { class: status === 200 ? "status" : "status bad" }, `Status ${status}`),
      element("p", { class: "note mono" }, facts.join(" · ")),
      element("pre", { class: "code", tabindex: 0, "aria-label": "Answer" }, indented(text)));
    byId("said").textContent = `Status ${status}`;
    if (status === 401 || status === 403) document.dispatchEvent(new CustomEvent("key-wanted", { detail: play }));
  } catch (refusal) {
    showRefusal(place, refusal, play);
  } finally {
    place.removeAttribute("aria-busy");
  }
}

const TOKEN = /"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/g;
const CLOSED_BY = { "{": "}", "[": "]" };

/** JSON with an entry a line; what nests nothing stays on one. From its tokens, so numbers stay as they were written. */
export function indented(text) {
  try {
    JSON.parse(text);
  } catch {
    return text;
  }
  const tokens = text.match(TOKEN).values();
  const write = (token, indent) => {
    const close = CLOSED_BY[token];
    if (!close) return token;
    const entries = [];
    let nests = false;
    for (let next = tokens.next().value; next !== close; next = tokens.next().value) {
      if (next === ",") continue;
      let name = "";
      if (token === "{") {
        name = `${next}${tokens.next().value} `;
        next = tokens.next().value;
      }
      nests ||= next in CLOSED_BY;
      entries.push(name + write(next, `${indent}  `));
    }
    if (!nests) return token + entries.join(", ") + close;
    return `${token}\n${entries.map((entry) => `${indent}  ${entry}`).join(",\n")}\n${indent}${close}`;
  };
  return write(tokens.next().value, "");
}
