// Small charts, drawn by hand. Each has its figures as text beside it, so a chart itself is hidden from screen readers
// or named by one sentence.

import { shape } from "./dom.js";
import { milliseconds } from "./format.js";

const STRIP = { width: 120, height: 16, inset: 6 };

/** Values on one line from `low` to `high`; `marks`: [{value, kind}], kind full, maxsim or pooled. */
export function strip(marks, low, high) {
  const { width, height, inset } = STRIP;
  const x = (value) => inset + ((width - 2 * inset) * (value - low)) / (high - low || 1);
  const y = height / 2;
  return shape("svg", { class: "strip", viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" },
    shape("line", { class: "axis", x1: 0, x2: width, y1: y, y2: y }),
    marks.filter(({ value }) => value !== null).map(({ value, kind }) => mark(kind, x(value), y)),
  );
}

/** The shape that stands for a level, wherever it is shown. */
export function mark(kind, x, y) {
  if (kind === "pooled") return shape("path", { class: "mark pooled", d: `M${x} ${y - 4.5}l4.5 4.5l-4.5 4.5l-4.5 -4.5z` });
  return shape("circle", { class: `mark ${kind}`, cx: x, cy: y, r: 3.5 });
}

/** The mark alone, for a heading or a legend. */
export function legendMark(kind) {
  return shape("svg", { class: "legend", viewBox: "0 0 12 12", "aria-hidden": "true" }, mark(kind, 6, 6));
}

/** A bar of `value` out of `largest`; a negative one is hollow. */
export function bar(value, largest) {
  const width = largest ? (100 * Math.abs(value)) / largest : 0;
  return shape("svg", { class: "bar-chart", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
    shape("rect", { class: value < 0 ? "negative" : "positive", x: 0, y: 1, width, height: 8 }),
  );
}

/** Counts by bucket, bars of one width; `quantiles`: [{label, value}] in seconds, drawn where they fall. */
export function histogram(counts, quantiles, { width, label }) {
  const [height, top, bottom] = [150, 16, 20];
  const step = width / counts.length;
  const most = Math.max(1, ...counts.map(([, own]) => own));
  const ground = height - bottom;
  const every = Math.ceil(44 / step);
  const bars = counts.map(([, own], place) => {
    const size = own ? Math.max(1.5, ((ground - top) * own) / most) : 0;
    return shape("rect", { class: "positive", x: place * step + 1, y: ground - size, width: Math.max(1, step - 2), height: size });
  });
  const bounds = counts.slice(0, -1).flatMap(([bound], place) =>
    place % every === every - 1 ? [shape("text", { x: (place + 1) * step, y: height - 6, "text-anchor": "middle" }, String(+(1000 * bound).toPrecision(3)))] : [],
  );
  const lines = quantiles.filter(({ value }) => value !== null).map(({ label: name, value }, row) => {
    const x = position(counts, value) * step;
    const isLeft = row === 0 ? x > 90 : x > width - 90;
    return shape("g", { class: "quantile" },
      shape("line", { x1: x, x2: x, y1: 4, y2: ground }),
      shape("text", { x: x + (isLeft ? -4 : 4), y: 12 + 13 * row, "text-anchor": isLeft ? "end" : "start" }, `${name} ${milliseconds(value)}`),
    );
  });
  return shape("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    bars, shape("line", { class: "axis", x1: 0, x2: width, y1: ground, y2: ground }), bounds, lines);
}

/** Where a value falls, in buckets from the left. */
function position(counts, value) {
  const place = counts.findIndex(([bound]) => value <= bound);
  const [low, high] = [place > 0 ? counts[place - 1][0] : 0, counts[place][0]];
  return place + (high === Infinity ? 0.5 : (value - low) / (high - low));
}

/** Lines over time, newest at the right; `series`: [{name, values}] of one length, null where there was nothing. */
export function timeline(series, { width, label }) {
  const height = 56;
  const length = Math.max(15, series[0].values.length);
  const most = Math.max(1e-9, ...series.flatMap(({ values }) => values.map((value) => value ?? 0)));
  const paths = series.map(({ name, values }) => {
    const offset = length - values.length;
    let pen = "M";
    const d = values.map((value, place) => {
      if (value === null) {
        pen = "M";
        return "";
      }
      const point = `${pen}${(((offset + place) * width) / (length - 1)).toFixed(1)} ${(height - 3 - ((height - 8) * value) / most).toFixed(1)}`;
      pen = "L";
      return point;
    });
    return shape("path", { class: `line ${name}`, d: d.join("") || "M0 0" });
  });
  return shape("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    shape("line", { class: "axis", x1: 0, x2: width, y1: height - 1, y2: height - 1 }), paths);
}
