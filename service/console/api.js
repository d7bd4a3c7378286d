// Requests to the service that serves this page. Addresses are relative, so a prefix in front of it does not matter.

const KEY = "ranktower.api-key";
const TIMEOUT_MS = 30_000;

/** An answer other than 200; of status 0 where there was none. */
export class Refusal extends Error {
  constructor(status, { error, error_type: type = "", request_id: requestId = "" }, retryAfterS = null) {
    super(error);
    Object.assign(this, { status, type, requestId, retryAfterS });
  }
}

/** The API key of this tab, "" where there is none. */
export function apiKey() {
  return sessionStorage.getItem(KEY) ?? "";
}

export function setApiKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

/** Send and read whatever comes back. A `body`, a string, makes it a POST. Refusal where nothing comes back. */
export async function send(path, body = undefined, headers = {}) {
  const options = { headers: { ...headers }, signal: AbortSignal.timeout(TIMEOUT_MS), cache: "no-store" };
  if (apiKey()) options.headers["x-api-key"] = apiKey();
  if (body !== undefined) {
    Object.assign(options, { method: "POST", body });
    options.headers["content-type"] = "application/json";
  }
  try {
    const answer = await fetch(path, options);
    return { status: answer.status, headers: answer.headers, text: await answer.text() };
  } catch (error) {
    const late = error.name === "TimeoutError";
    throw new Refusal(0, { error: late ? "No answer within 30 s." : "The service cannot be reached." });
  }
}

/** The text of a 200; Refusal otherwise. */
export async function askText(path, body, headers) {
  const answer = await send(path, body, headers);
  if (answer.status === 200) return answer.text;
  const retryAfterS = Number(answer.headers.get("retry-after")) || null;
  throw new Refusal(answer.status, errorBody(answer.text), retryAfterS);
}

/** The JSON of a 200; Refusal otherwise. */
export async function ask(path, body, headers) {
  const text = await askText(path, body, headers);
  try {
    return JSON.parse(text);
  } catch {
    throw new Refusal(0, { error: "An answer that is not RankTower's; is another server in between?" });
  }
}

function errorBody(text) {
  try {
    const content = JSON.parse(text);
    if (typeof content.error === "string") return content;
  } catch {
    // A proxy's own page.
  }
  return { error: "The answer is not RankTower's; it comes from a server in between." };
}
