// The Prometheus text of /metrics, and what happened between two readings of it.

const LINE = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)$/;
const LABEL = /([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const ESCAPED = { "\\n": "\n", '\\"': '"', "\\\\": "\\" };

/** One reading: samples by metric name. */
export class Reading {
  constructor(text) {
    this.atMs = performance.now();
    this.samples = new Map();
    for (const line of text.split("\n")) {
      const [, name, labels = "", value] = LINE.exec(line) ?? [];
      if (!name) continue;
      if (!this.samples.has(name)) this.samples.set(name, []);
      this.samples.get(name).push({ labels: parseLabels(labels), value: Number(value.replace("Inf", "Infinity")) });
    }
  }

  /** The sum over the samples that `wanted(labels)` picks, all by default. */
  total(name, wanted = () => true) {
    return this.#of(name, wanted).reduce((sum, sample) => sum + sample.value, 0);
  }

  /** A histogram's cumulative counts by upper bound, ascending: [[bound, count], ...]. */
  buckets(name, wanted = () => true) {
    const counts = new Map();
    for (const { labels, value } of this.#of(`${name}_bucket`, wanted)) {
      const bound = Number(labels.le.replace("Inf", "Infinity"));
      counts.set(bound, (counts.get(bound) ?? 0) + value);
    }
    return [...counts].sort(([a], [b]) => a - b);
  }

  #of(name, wanted) {
    return (this.samples.get(name) ?? []).filter(({ labels }) => wanted(labels));
  }
}

function parseLabels(text) {
  const pairs = [...text.matchAll(LABEL)];
  return Object.fromEntries(pairs.map(([, name, value]) => [name, value.replace(/\\[n"\\]/g, (one) => ESCAPED[one])]));
}

/** What each bucket alone got between two readings of `buckets`: [[bound, count], ...]. */
export function between(before, after) {
  const start = new Map(before);
  let below = 0;
  return after.map(([bound, cumulative]) => {
    const upTo = cumulative - (start.get(bound) ?? 0);
    const own = upTo - below;
    below = upTo;
    return [bound, own];
  });
}

/** Several such counts added up. */
export function together(several) {
  const sums = new Map();
  for (const [bound, own] of several.flat()) sums.set(bound, (sums.get(bound) ?? 0) + own);
  return [...sums].sort(([a], [b]) => a - b);
}

/** The q-quantile of counts by bucket, linear within one; null of nothing. Above the last bound, that bound. */
export function quantile(counts, q) {
  const total = counts.reduce((sum, [, own]) => sum + own, 0);
  if (!total) return null;
  let [left, low] = [q * total, 0];
  for (const [bound, own] of counts) {
    if (left <= own) return bound === Infinity ? low : low + (bound - low) * (left / (own || 1));
    left -= own;
    low = bound;
  }
  return low;
}
