// Which release is served, what is tried beside it, and what its ladder is worth.

import { ask } from "./api.js";
import { legendMark, strip } from "./charts.js";
import { byId, element, put } from "./dom.js";
import { count, decimal, duration, percent } from "./format.js";
import { showRefusal } from "./notice.js";

/** Ask and draw. */
export async function showRelease() {
  const place = byId("release");
  try {
    const release = await ask("v1/release");
    const parts = [
      element("h2", {}, "Release"),
      element("dl", {}, facts(release).map(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])),
      ladder(release.ladder),
    ];
    const before = place.querySelector("details");
    const figures = metrics(release.offline_metrics, before?.open);
    if (before && before.textContent === figures?.textContent) {
      // Left where it is, with its focus and its selection: somebody may be reading it.
      for (const child of [...place.children]) if (child !== before) child.remove();
      before.before(...parts);
    } else {
      put(place, ...parts, figures);
    }
  } catch (refusal) {
    showRefusal(place, refusal, showRelease);
  }
}

function facts(release) {
  const { num_user_heads: users, num_item_heads: items, width, attention_width: attention } = release.shape;
  const ageS = (Date.now() - Date.parse(release.created)) / 1000;
  return [
    ["model", release.model],
    ["release", element("span", { class: "mono" }, release.release)],
    ["age", `${duration(ageS)}, created ${release.created}`],
    ["rows", `${count(release.num_users)} users, ${count(release.num_items)} items, ${release.row_dtype}`],
    ["shape", `${users} × ${items} sub-spaces, width ${width}, attention ${attention}`],
    ["refused", release.refused ? bad(`${release.refused.release ?? "pointer"}: ${release.refused.reason}`) : "none"],
    ["canary", trial(release.canary, "of the users")],
    ["shadow", trial(release.shadow, "of the answers")],
  ];
}

function trial(one, ofWhat) {
  if (!one) return "none";
  const state = one.refused ? bad(`refused: ${one.refused}`) : one.serving ? "serving" : "loading";
  return [element("span", { class: "mono" }, one.release), `, ${percent(one.share, 1)} ${ofWhat}, `, state];
}

function bad(text) {
  return element("span", { class: "bad" }, text);
}

/** The levels on one line each; the axis begins where the worst of them stands, for all are near 1. */
function ladder(levels) {
  if (!levels.length) return element("p", { class: "note" }, "No ladder: everything is scored in full.");
  const low = Math.min(...levels.flatMap((level) => [level.ndcg_to_full, level.recall_to_full]));
  const heads = ["in full", "NDCG", "recall"].map((name) => element("th", { scope: "col", class: "number" }, name));
  const rows = levels.map((level) => {
    const { ndcg_to_full: ndcg, recall_to_full: recall } = level;
    const marks = [{ kind: "maxsim", value: recall }, { kind: "full", value: ndcg }];
    return element("tr", {},
      element("th", { scope: "row" }, level.level),
      [percent(level.share), decimal(ndcg), decimal(recall)].map((value) => element("td", { class: "number" }, value)),
      element("td", { class: "grow" }, strip(marks, low, 1)));
  });
  return element("table", { class: "figures-table" },
    element("caption", {}, "Ladder", element("span", { class: "note" },
      `first ${levels[0].k} against full scoring: `, legendMark("full"), "NDCG ", legendMark("maxsim"), "recall")),
    element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "level"), heads, element("td", {}))),
    element("tbody", {}, rows));
}

function metrics(figures, open = false) {
  return Object.keys(figures).length
    ? element("details", { open }, element("summary", {}, "Offline metrics"),
        element("pre", { class: "code", tabindex: 0, "aria-label": "Offline metrics" }, JSON.stringify(figures, null, 2)))
    : null;
}
