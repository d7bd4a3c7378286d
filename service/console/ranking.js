// Ask for a ranking, and show it a page at a time, each with its explanations.

import { ask } from "./api.js";
import { legendMark, strip } from "./charts.js";
import { byId, element, put } from "./dom.js";
import { count, decimal, percent, shown } from "./format.js";
import { showNotice, showRefusal } from "./notice.js";
import { clearWhy, showWhy, startWhy } from "./why.js";

const PAGE = 25; // at most what /v1/explain takes at once
const LEVELS = ["full", "maxsim", "pooled"];
// The page explains what it shows, but never before a request that counts.
const AFTER_OTHERS = { "x-ranktower-priority": "low" };

// The page shown: `question` and `answer` of /v1/rank, its first place, the place chosen; of all pages, the explanations.
let ranking = null;
let turn = 0; // of asking; an answer to an earlier one comes too late

/** Listen to the form; `onAsked(body)` gets each request that is sent. */
export function startRanking(onAsked) {
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    rank(onAsked);
  });
  byId("another").addEventListener("click", () => {
    const users = [...byId("users").options].map(({ value }) => value).filter((id) => id !== byId("user").value);
    byId("user").value = users[Math.floor(Math.random() * users.length)];
    rank(onAsked);
  });
  byId("ranking").addEventListener("keydown", onKey);
  startWhy(focusChosen);
  showNothing();
}

/** Users to choose from; the first stands in the field already. */
export async function offerUsers() {
  put(byId("rank-notice"));
  try {
    const { users } = await ask("v1/console/users");
    put(byId("users"), ...users.map((id) => element("option", { value: id })));
    byId("another").hidden = users.length < 2;
    if (users.length && !byId("user").value) byId("user").value = users[0];
  } catch (refusal) {
    if (refusal.status !== 0) showRefusal(byId("rank-notice"), refusal, offerUsers);
  }
}

function showNothing() {
  put(byId("ranking"),
    element("p", { class: "empty" }, "Choose a user and press Rank: the items nearest to the user are retrieved and ranked."),
  );
  clearWhy();
}

/** The form's fields as JSON text; features as they were typed, or large integers would lose digits. Null: not asked. */
function readForm() {
  const [user, features] = [byId("user").value, byId("features").value.trim()];
  const [budget, own] = [byId("budget").value, byId("own").value.split("\n").filter((id) => id.trim())];
  if (!user && !features) return notAsked("user", "A user's id, or features, are needed.");
  if (features && !isObject(features)) return notAsked("features", "User features must be a JSON object.");
  const ofUser = [`"user_id":${JSON.stringify(user)}`];
  if (features) ofUser.push(`"user_features":${features}`);
  const fields = [...ofUser];
  fields.push(own.length ? `"candidate_ids":${JSON.stringify(own)}` : `"num_candidates":${Number(byId("count").value)}`);
  if (budget) fields.push(`"budget_ms":${Number(budget)}`);
  return { ofUser, own, body: `{${fields.join(",")}}` };
}

function notAsked(id, text) {
  showNotice(byId("rank-notice"), "Not asked", text);
  focusField(id);
  return null;
}

function focusField(id) {
  if (byId("more").contains(byId(id))) byId("more").open = true;
  byId(id).focus();
}

function isObject(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value);
  } catch {
    return false;
  }
}

async function rank(onAsked) {
  const question = readForm();
  if (!question) return;
  const mine = ++turn;
  onAsked(question.body);
  put(byId("rank-notice"));
  byId("ranking").setAttribute("aria-busy", "true");
  try {
    const answer = await ask("v1/rank", question.body);
    if (mine !== turn) return;
    ranking = { question, answer, first: 0, explanations: new Map(), chosen: 0 };
    byId("said").textContent = `${count(answer.items.length)} ranked`;
    showPage(0);
  } catch (refusal) {
    if (mine !== turn) return;
    ranking = null;
    showNothing();
    showRefusal(byId("rank-notice"), refusal, () => rank(onAsked));
    if (refusal.message.startsWith("candidate_ids: required")) focusField("own"); // there is no index
  } finally {
    if (mine === turn) byId("ranking").removeAttribute("aria-busy");
  }
}

/** The page that begins at `first`: at once with the scores, then with what explains them. */
async function showPage(first, chosen = first) {
  const mine = (ranking = { ...ranking, first, chosen });
  put(byId("rank-notice"));
  clearWhy();
  draw();
  const items = pageItems();
  if (!items.length) return;
  const ids = JSON.stringify(items.map(({ id }) => id));
  const body = `{${ranking.question.ofUser.join(",")},"candidate_ids":${ids},"levels":true}`;
  try {
    const { explanations, release } = await ask("v1/explain", body, AFTER_OTHERS);
    explanations.forEach((one, place) => {
      if (one) mine.explanations.set(first + place, { ...one, release });
    });
    if (mine !== ranking) return;
    const hadFocus = byId("ranking").contains(document.activeElement);
    draw();
    choose(ranking.chosen, hadFocus);
  } catch (refusal) {
    if (mine !== ranking) return;
    // By the time that a key is given, another page or nothing may be shown.
    showRefusal(byId("rank-notice"), refusal, () => ranking && showPage(ranking.first, ranking.chosen));
  }
}

function pageItems() {
  return ranking.answer.items.slice(ranking.first, ranking.first + PAGE);
}

function draw() {
  const { answer, question, first } = ranking;
  const items = pageItems();
  const range = scale(items);
  const parts = [summary(answer)];
  if (question.own.length && answer.missing.length) {
    const missing = answer.missing.map((place) => shown(question.own[place]));
    parts.push(element("p", { class: "note" }, `Without a score: ${missing.slice(0, 20).join(", ")}${missing.length > 20 ? " …" : ""}`));
  }
  if (items.length) parts.push(table(items, first, range), pager());
  else parts.push(element("p", { class: "empty" }, "None of the candidates has a score."));
  put(byId("ranking"), ...parts);
}

function summary({ items, user, took_ms: tookMs, degraded, release }) {
  const origins = { PRESENT: "stored user", COMPUTED: "user computed from features", FALLBACK: "unknown user, fallback row" };
  const level = degraded
    ? element("p", { class: "degraded" },
        `Degraded to ${degraded.level} (${degraded.reason}): ${percent(degraded.share)} scored in full, ` +
        `expected NDCG ${decimal(degraded.expected_ndcg)}, recall ${decimal(degraded.expected_recall)} of full scoring.`)
    : null;
  return element("div", { class: "summary" },
    element("h2", {}, `${count(items.length)} ranked`),
    element("p", { class: "note" }, `${tookMs.toFixed(1)} ms · ${origins[user]} · ${degraded ? "" : "scored in full · "}`,
      element("span", { class: "mono" }, release)),
    level,
  );
}

/** The smallest and largest score of the page at any level, for the strips. */
function scale(items) {
  const values = items.flatMap(({ score }, place) => [score, ...Object.values(scores(ranking.first + place)).filter((one) => one !== null)]);
  return [Math.min(...values), Math.max(...values)];
}

/** Of the candidate at a place, the scores by level as far as they are known. */
function scores(place) {
  const one = ranking.explanations.get(place);
  return { full: one?.score ?? null, maxsim: one?.levels?.maxsim ?? null, pooled: one?.levels?.pooled ?? null };
}

function table(items, first, range) {
  const isDegraded = ranking.answer.degraded !== null;
  const heads = LEVELS.map((level) => element("th", { scope: "col", class: "number" }, legendMark(level), level));
  if (isDegraded) heads.unshift(element("th", { scope: "col", class: "number" }, "answered"));
  return element("table", { class: "ranking" },
    element("caption", { class: "hidden-text" }, "Items, best first, with their scores by level. Arrow keys move, Enter explains, Escape goes back."),
    element("thead", {}, element("tr", {},
      element("th", { scope: "col", class: "number" }, "#"), element("th", { scope: "col" }, "item"), heads,
      element("td", { class: "wide" }))),
    element("tbody", {}, items.map((item, place) => row(item, first + place, isDegraded, range))),
  );
}

function row({ id, score, rank: place }, index, isDegraded, [low, high]) {
  const levels = scores(index);
  const isChosen = index === ranking.chosen;
  const cells = LEVELS.map((level) => element("td", { class: "number" }, decimal(levels[level])));
  if (isDegraded) cells.unshift(element("td", { class: "number" }, decimal(score)));
  const button = element("button", {
    type: "button", class: "item", title: shown(id), "data-place": index, "aria-pressed": String(isChosen),
    "aria-controls": "why", tabindex: isChosen ? 0 : -1,
  }, shown(id));
  return element("tr", { class: isChosen ? "chosen" : undefined, click: () => choose(index, true, true) },
    element("td", { class: "number dim" }, String(place)),
    element("th", { scope: "row", class: "id" }, button),
    cells,
    element("td", { class: "wide" }, strip(LEVELS.toReversed().map((kind) => ({ kind, value: levels[kind] })), low, high)),
  );
}

function pager() {
  const { first, answer: { items } } = ranking;
  const last = Math.min(first + PAGE, items.length);
  const turnTo = (where) => () => showPage(where).then(() => focusChosen());
  return element("div", { class: "pager" },
    element("button", { type: "button", class: "quiet", disabled: first === 0, click: turnTo(first - PAGE) }, "Previous"),
    element("span", { class: "note" }, `${count(first + 1)}–${count(last)} of ${count(items.length)}`),
    element("button", { type: "button", class: "quiet", disabled: last === items.length, click: turnTo(first + PAGE) }, "Next"),
  );
}

/** Make the candidate at a place of this page the one that is explained; `show`: bring the explanation into sight. */
function choose(place, withFocus, show = false) {
  ranking.chosen = place;
  for (const button of byId("ranking").querySelectorAll("button.item")) {
    const isChosen = Number(button.dataset.place) === place;
    button.setAttribute("aria-pressed", String(isChosen));
    button.tabIndex = isChosen ? 0 : -1;
    button.closest("tr").classList.toggle("chosen", isChosen);
  }
  const explanation = ranking.explanations.get(place);
  if (explanation) showWhy(ranking.answer.items[place], explanation, ranking.answer.release, { show });
  else clearWhy();
  if (withFocus) focusChosen();
}

function focusChosen() {
  byId("ranking").querySelector(`button.item[data-place="${ranking?.chosen}"]`)?.focus();
}

function onKey(event) {
  if (!event.target.matches("button.item")) return;
  const [first, last] = [ranking.first, Math.min(ranking.first + PAGE, ranking.answer.items.length) - 1];
  const places = { ArrowDown: ranking.chosen + 1, ArrowUp: ranking.chosen - 1, Home: first, End: last };
  if (event.key === "Escape") byId("user").focus();
  else if (event.key === "PageDown" && last + 1 < ranking.answer.items.length) showPage(last + 1).then(() => focusChosen());
  else if (event.key === "PageUp" && first > 0) showPage(first - PAGE).then(() => focusChosen());
  else if (event.key in places) choose(Math.min(last, Math.max(first, places[event.key])), true);
  else return;
  event.preventDefault();
}
