// What the service has been doing lately, from /metrics.

import { askText } from "./api.js";
import { bar, histogram, timeline } from "./charts.js";
import { byId, element, put } from "./dom.js";
import { count, duration, milliseconds, percent } from "./format.js";
import { between, quantile, Reading, together } from "./metrics.js";
import { showRefusal } from "./notice.js";

const KEPT = 60; // readings
const LEAST_MS = 2000;
const MOST_MS = 10_000;
// Rendering /metrics takes a worker's processor time. Resting this times as long makes it half a percent of one worker.
const REST = 200;
const DURATION = "ranktower_request_duration_seconds";
const STAGES = ["queue", "parse", "fetch", "score", "serialize"];
// What people ask for is not what the service is there for.
const isServing = ({ endpoint }) => endpoint !== "explain" && endpoint !== "release";
const isAnswered = (labels) => isServing(labels) && labels.outcome === "ok";

let readings = [];

/** Read once more and draw. Returns the milliseconds to wait until the next time. */
export async function poll() {
  const began = performance.now();
  try {
    const reading = new Reading(await askText("metrics"));
    const tookMs = performance.now() - began;
    readings = [...readings.slice(1 - KEPT), reading];
    put(byId("service-notice"));
    draw();
    return Math.min(MOST_MS, Math.max(LEAST_MS, REST * tookMs));
  } catch (refusal) {
    showRefusal(byId("service-notice"), refusal, poll);
    return MOST_MS;
  }
}

/** Each reading with the one before it of the same replica: behind a proxy the next reading may be of another one. */
function steps() {
  const latest = new Map();
  return readings.flatMap((after) => {
    const replica = after.total("ranktower_start_time_seconds"); // another one after a restart, too
    const before = latest.get(replica);
    latest.set(replica, after);
    return before ? [[before, after]] : [];
  });
}

function draw() {
  const taken = steps();
  const grown = (name, wanted) =>
    taken.reduce((sum, [before, after]) => sum + after.total(name, wanted) - before.total(name, wanted), 0);
  const answers = taken.map(([before, after]) => between(before.buckets(DURATION, isAnswered), after.buckets(DURATION, isAnswered)));
  const counts = together(answers);
  const answered = counts.reduce((sum, [, own]) => sum + own, 0);
  const [p50, p99] = [quantile(counts, 0.5), quantile(counts, 0.99)];
  const elapsedS = (readings.at(-1).atMs - readings[0].atMs) / 1000;
  const lines = [0.99, 0.5].map((q) => ({ name: `p${100 * q}`, values: answers.map((own) => quantile(own, q)) }));
  const highest = Math.max(...lines.flatMap(({ values }) => values.map((value) => value ?? 0)));
  const width = Math.max(260, byId("live").clientWidth - 32);
  const heading = element("h2", {}, "Latency ", element("span", { class: "note" }, taken.length ? `last ${duration(elapsedS)}` : "first reading"));
  if (!answered) {
    const text = taken.length ? "No request was answered in this time." : "Reading again soon.";
    put(byId("live"), heading, element("p", { class: "empty" }, text), shares(grown));
    return;
  }
  put(byId("live"),
    heading,
    element("p", { class: "figures" },
      figure("p50", milliseconds(p50)), figure("p99", milliseconds(p99)), figure("answered", `${(answered / elapsedS).toFixed(1)} /s`)),
    histogram(counts, [{ label: "p50", value: p50 }, { label: "p99", value: p99 }],
      { width, label: `Latency of ${count(answered)} answers: median ${milliseconds(p50)}, 99th percentile ${milliseconds(p99)}` }),
    element("p", { class: "note axis-name" }, "milliseconds, upper bounds of the buckets"),
    element("h3", {}, "Over time ",
      element("span", { class: "note" }, `p50 in colour, p99 in grey, up to ${milliseconds(highest)}`)),
    timeline(lines, { width, label: "p50 and p99 between each two readings" }),
    shares(grown),
    stages(grown),
  );
}

function figure(name, value) {
  return element("span", { class: "figure" }, element("span", { class: "note" }, name), ` ${value}`);
}

/** Which part was degraded, shed, or failed. */
function shares(grown) {
  const all = grown(`${DURATION}_count`, isServing);
  const failed = all - grown(`${DURATION}_count`, (labels) => isServing(labels) && ["ok", "shed"].includes(labels.outcome));
  const rows = [
    ["degraded", grown("ranktower_degraded_total"), grown("ranktower_answers_total")],
    ["shed", grown("ranktower_shed_total", isServing), all],
    ["failed or refused", failed, all],
  ];
  return table("Share of requests", ["", "share", "requests"], rows.map(([name, part, whole]) =>
    [name, whole ? percent(part / whole, 1) : "–", count(part), bar(part, whole)]));
}

function stages(grown) {
  const name = "ranktower_stage_duration_seconds";
  const means = STAGES.map((stage) => {
    const isStage = (labels) => labels.stage === stage;
    return [stage, grown(`${name}_sum`, isStage) / (grown(`${name}_count`, isStage) || 1)];
  });
  const longest = Math.max(...means.map(([, mean]) => mean));
  return table("Where the time goes", ["stage", "mean"], means.map(([stage, mean]) => [stage, milliseconds(mean), bar(mean, longest)]));
}

function table(title, heads, rows) {
  return element("table", { class: "figures-table" },
    element("caption", {}, title),
    element("thead", {}, element("tr", {},
      heads.map((head, place) => element("th", { scope: "col", class: place ? "number" : undefined }, head)), element("td", {}))),
    element("tbody", {}, rows.map(([name, ...cells]) =>
      element("tr", {}, element("th", { scope: "row" }, name),
        cells.map((value) => element("td", { class: typeof value === "string" ? "number" : "grow" }, value))))));
}
