// The strip of what the server has done in the last minute, computed from its metrics.

import { byId, make, makeSvg, milliseconds, style } from "./dom.js";
import { call } from "./server.js";

const INTERVAL_MS = 2000;
const KEPT = 31; // readings: those of a minute
const KEPT_SECONDS = 62; // a page that was out of sight has older ones
const RATE_READINGS = 5; // the rate is of the last ten seconds
const LINE = /^(\w+)\{(.*)\} (\S+)$/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

export class Live {
  /**
   * @param {() => void} onServed called when other models or versions serve than before.
   * @param {(error: CallError|null) => void} onReading called after each reading, with what it failed with.
   */
  constructor(onServed, onReading) {
    this.onServed = onServed;
    this.onReading = onReading;
    this.readings = [];
    this.served = null; // what served at the last reading; null until there was one
    document.addEventListener("visibilitychange", () => this.schedule(0));
  }

  /** Take the next models that serve for a change, because those that serve now could not be read. */
  distrust() {
    this.served = "";
  }

  /** Read again soon, and from then on every other second while the page is in sight and not refused. */
  schedule(delay = INTERVAL_MS) {
    clearTimeout(this.timer);
    if (!document.hidden) this.timer = setTimeout(() => this.read(), delay);
  }

  async read() {
    try {
      const reading = parse(await (await call("metrics")).text());
      this.keep(reading);
      this.show();
      if (this.served !== null && this.served !== reading.served) this.onServed();
      this.served = reading.served;
      await call("v2/health/ready");
      this.onReading(null);
    } catch (error) {
      this.onReading(error);
      if (error.status === 401) return; // until there is a token, every reading would be refused
    }
    this.schedule();
  }

  keep(reading) {
    const last = this.readings.at(-1);
    if (last && reading.counted < last.counted) this.readings = []; // the server has started again
    if (this.readings.length && reading.at - last.at < INTERVAL_MS / 2e3) this.readings.pop(); // a rate needs time
    const recent = this.readings.filter(({ at }) => reading.at - at <= KEPT_SECONDS);
    this.readings = [...recent, reading].slice(-KEPT);
  }

  show() {
    const { readings } = this;
    const last = readings.at(-1);
    const rates = readings.slice(1).map((reading, place) => rate(readings[place], reading));
    const recent = readings.at(-Math.min(readings.length, RATE_READINGS + 1));
    const perSecond = rate(recent, last);
    const shown = perSecond >= 10 ? perSecond.toFixed(0) : perSecond.toFixed(1);
    byId("rate").textContent = readings.length > 1 ? shown : "–";
    const buckets = difference(readings[0].buckets, last.buckets);
    for (const [id, share] of [["p50", 0.5], ["p99", 0.99]]) {
      const seconds = quantile(buckets, share);
      byId(id).textContent = seconds === null ? "–" : milliseconds(seconds * 1e3);
    }
    const failures = last.failed - readings[0].failed;
    byId("failed").hidden = failures === 0;
    byId("failures").textContent = failures;
    byId("strip").replaceChildren(strip(rates));
  }
}

/**
 * Sum up the requests of all models in the text of the metrics. `counted` has those that routes made to their members
 * and shadows, too, and `total` the callers' alone.
 */
export function parse(text) {
  const reading = { at: performance.now() / 1e3, counted: 0, total: 0, failed: 0, buckets: new Map(), served: [] };
  let ofRoutes = 0;
  for (const line of text.split("\n")) {
    const [, name, labels, value] = LINE.exec(line) ?? [];
    if (!/^hangtag_(request_seconds_|model_ready|route_(shadow_)?requests_total)/.test(name)) continue;
    const pairs = [...labels.matchAll(LABEL)].map((match) => match.slice(1));
    const { code, le, model, version, outcome } = Object.fromEntries(pairs);
    if (name === "hangtag_model_ready") reading.served.push(`${model} ${version} ${value}`);
    else if (name.endsWith("requests_total")) ofRoutes += outcome && outcome !== "compared" ? 0 : Number(value);
    else if (name.endsWith("_count")) reading[code === "OK" ? "counted" : "failed"] += Number(value);
    else if (name.endsWith("_bucket") && code === "OK") {
      const bound = le === "+Inf" ? Infinity : Number(le);
      reading.buckets.set(bound, (reading.buckets.get(bound) ?? 0) + Number(value));
    }
  }
  reading.total = reading.counted - ofRoutes;
  reading.served = reading.served.sort().join(", ");
  return reading;
}

function rate(before, after) {
  const seconds = after.at - before.at;
  // A route counts a member's answer a moment before the member does, so a difference may be below zero.
  return seconds > 0 ? Math.max(0, after.total + after.failed - before.total - before.failed) / seconds : 0;
}

const difference = (before, after) => [...after].map(([bound, value]) => [bound, value - (before.get(bound) ?? 0)]);

/** A quantile in seconds, interpolated in its bucket as Prometheus does; null where nothing was counted. */
function quantile(buckets, share) {
  const sorted = buckets.sort(([a], [b]) => a - b);
  const rank = share * (sorted.at(-1)?.[1] ?? 0);
  if (!rank) return null;
  const place = sorted.findIndex(([, cumulative]) => cumulative >= rank);
  const [low, below] = sorted[place - 1] ?? [0, 0];
  const [bound, cumulative] = sorted[place];
  return bound === Infinity ? low : low + ((bound - low) * (rank - below)) / (cumulative - below);
}

/** A bar for every other second, the latest at the right. */
function strip(rates) {
  const most = Math.max(...rates, 0);
  const bars = rates.map((value, place) => {
    const height = most ? Math.max(1.5, (value / most) * 36) : 1.5;
    const x = (KEPT - 1 - rates.length + place) * 8;
    return makeSvg("rect", { x, y: 38 - height, width: 6, height, rx: 1.5, class: value ? "busy" : undefined });
  });
  const properties = { viewBox: `0 0 ${(KEPT - 1) * 8} 38`, preserveAspectRatio: "none", role: "img" };
  const label = `Calls per second in the last minute: at most ${most.toFixed(1)}`;
  return makeSvg("svg", { ...properties, "aria-label": label }, ...bars);
}
