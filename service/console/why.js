// What one score is made of: the sub-spaces that met, and both attention maps.

import { bar } from "./charts.js";
import { byId, element, put } from "./dom.js";
import { decimal, shown } from "./format.js";

/** What the button that leads back to the list does. */
export function startWhy(back) {
  byId("why").addEventListener("keydown", (event) => {
    if (event.key === "Escape") back();
  });
  byId("why").addEventListener("click", ({ target }) => {
    if (target.matches(".back")) back();
  });
}

/** Nothing is chosen. */
export function clearWhy() {
  byId("why").hidden = true;
}

/** Explain `item` of a ranking by `release`; `show` scrolls there where it is not in sight. */
export function showWhy(item, explanation, release, { show }) {
  const place = byId("why");
  const { matches, score, user_attention: ofUser, item_attention: ofItem } = explanation;
  put(place,
    element("h2", {}, "Why ", element("span", { class: "mono" }, shown(item.id)), ` scores ${decimal(score)}`),
    explanation.release === release ? null
      : element("p", { class: "note" }, `Explained by release ${explanation.release}, which is served by now.`),
    matchTable(matches, score),
    element("div", { class: "maps" },
      heatMap("User attends to item", ofUser, "user", "item"),
      heatMap("Item attends to user", ofItem, "item", "user")),
    element("button", { type: "button", class: "quiet back" }, "Back to the list"),
  );
  place.hidden = false;
  if (show) place.scrollIntoView({ block: "nearest" });
}

function matchTable(matches, score) {
  const largest = Math.max(...matches.map(({ contribution }) => Math.abs(contribution)));
  return element("table", { class: "matches" },
    element("caption", {}, "Each user sub-space and its best item sub-space"),
    element("thead", {}, element("tr", {},
      ["user", "item", "cosine", "adds"].map((name) => element("th", { scope: "col", class: "number" }, name)), element("td", {}))),
    element("tbody", {}, matches.map(({ item_subspace: best, cosine, contribution }, user) =>
      element("tr", {},
        element("th", { scope: "row", class: "number" }, String(user)),
        element("td", { class: "number" }, String(best)),
        element("td", { class: "number" }, decimal(cosine)),
        element("td", { class: "number" }, decimal(contribution)),
        element("td", { class: "grow" }, bar(contribution, largest))))),
    element("tfoot", {}, element("tr", {},
      element("th", { scope: "row", colspan: 3, class: "number" }, "score"),
      element("td", { class: "number" }, decimal(score)), element("td", {}))),
  );
}

/** Weights `[rows][columns]` as a table whose cells are shaded by what they say. */
function heatMap(title, weights, rowName, columnName) {
  const columns = weights[0].map((_, column) =>
    element("th", { scope: "col" }, element("span", { class: "hidden-text" }, `${columnName} `), String(column)));
  return element("table", { class: "map" },
    element("caption", {}, title, element("span", { class: "note" }, `rows ${rowName}, columns ${columnName}, %`)),
    element("thead", {}, element("tr", {}, element("td", {}), columns)),
    element("tbody", {}, weights.map((row, place) =>
      element("tr", {},
        element("th", { scope: "row" }, element("span", { class: "hidden-text" }, `${rowName} `), String(place)),
        row.map(cell)))),
  );
}

/** Half shade is even attention, full shade twice that and more. */
function cell(weight, _, { length }) {
  const node = element("td", {}, (100 * weight).toFixed(0));
  node.style.setProperty("--shade", Math.min(1, (weight * length) / 2));
  return node;
}
