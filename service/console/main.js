// Views, the API key and the health line; each view has a module of its own.

import { apiKey, ask, setApiKey } from "./api.js";
import { byId, put } from "./dom.js";
import { poll } from "./live.js";
import { showCurl, startPlayground, takeOver } from "./playground.js";
import { offerUsers, startRanking } from "./ranking.js";
import { showRelease } from "./release.js";

const VIEWS = ["rank", "service", "playground"];
const HEALTH_MS = 5000;
const RELEASE_MS = 10_000;

function currentView() {
  const name = location.hash.slice(1);
  return VIEWS.includes(name) ? name : "rank";
}

function showView() {
  const view = currentView();
  for (const name of VIEWS) byId(name).hidden = name !== view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  scrollTo(0, 0);
}

/** Call `work` now and again, as many ms after the last time as it says or `everyMs`; only while its view is seen. */
function repeat(work, everyMs, view = null) {
  let timer = 0;
  let running = false;
  const isSeen = () => !document.hidden && (view === null || view === currentView());
  const next = async () => {
    clearTimeout(timer);
    if (running || !isSeen()) return;
    running = true;
    try {
      timer = setTimeout(next, (await work()) ?? everyMs);
    } finally {
      running = false;
    }
  };
  document.addEventListener("visibilitychange", next);
  addEventListener("hashchange", next);
  next();
}

async function showHealth() {
  const place = byId("health");
  try {
    const { release, refused } = await ask("readyz");
    place.textContent = refused ? `serving ${release}, a newer one is refused` : `serving ${release}`;
    place.className = refused ? "refused" : "ready";
  } catch (refusal) {
    place.textContent = refusal.status === 503 ? `not ready: ${refusal.type}` : "unreachable";
    place.className = "down";
  }
}

let retryWithKey = null;

function openKey(open) {
  byId("key-form").hidden = !open;
  byId("key-toggle").setAttribute("aria-expanded", String(open));
  byId("key-forget").hidden = !apiKey();
  if (open) byId("key").focus();
}

function startKey() {
  byId("key-toggle").addEventListener("click", () => openKey(byId("key-form").hidden));
  document.addEventListener("key-wanted", ({ detail }) => {
    retryWithKey = detail;
    openKey(true);
  });
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    useKey(byId("key").value);
  });
  byId("key-forget").addEventListener("click", () => useKey(""));
  byId("key-form").addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    openKey(false);
    byId("key-toggle").focus();
  });
}

function useKey(key) {
  setApiKey(key);
  byId("key").value = "";
  openKey(false);
  byId("key-toggle").focus();
  showCurl();
  const retry = retryWithKey;
  retryWithKey = null;
  put(byId("rank-notice"));
  if (key && retry) retry();
}

addEventListener("hashchange", showView);
showView();
startKey();
startPlayground();
startRanking(takeOver);
offerUsers();
repeat(showHealth, HEALTH_MS);
repeat(poll, null, "service");
repeat(showRelease, RELEASE_MS, "service");
