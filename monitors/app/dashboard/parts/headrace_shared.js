// What the parts of the dashboard share: the server's clock, ages that keep ticking, icons, figures.
//
// All text reaches the page by interpolation or as a bound attribute, never as HTML.
import { computed, h, reactive } from "vue";

// The clock of the server, in epoch seconds; ticks every second.
const clock = reactive({ now: Date.now() / 1000, skew: 0 });
setInterval(() => (clock.now = Date.now() / 1000 + clock.skew), 1000);

export function setServerTime(now) {
  const skew = now - Date.now() / 1000;
  if (Math.abs(skew - clock.skew) > 1.5) clock.skew = skew;
}

export function serverNow() {
  return clock.now;
}

export function age(at) {
  const seconds = Math.max(0, Math.round(clock.now - at));
  if (seconds < 2) return "just now";
  if (seconds < 60) return `${seconds} s ago`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ago`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 ? `${hours} h ${minutes % 60} min ago` : `${hours} h ago`;
  const days = Math.floor(hours / 24);
  return days === 1 ? "1 day ago" : `${days} days ago`;
}

const two = (n) => String(n).padStart(2, "0");

export function clockTime(at, withSeconds = true) {
  const date = new Date(at * 1000);
  return `${two(date.getHours())}:${two(date.getMinutes())}` + (withSeconds ? `:${two(date.getSeconds())}` : "");
}

export function fullTime(at) {
  const date = new Date(at * 1000);
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${clockTime(at)}`;
}

export function shortTime(at) {
  const date = new Date(at * 1000);
  const today = new Date(clock.now * 1000);
  const day = date.toDateString() === today.toDateString() ? "" : `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} `;
  return day + clockTime(at);
}

export const Ago = {
  props: { at: Number, prefix: { type: String, default: "" } },
  setup(props) {
    const text = computed(() => props.prefix + age(props.at));
    return () => h("time", { datetime: new Date(props.at * 1000).toISOString(), title: fullTime(props.at) }, text.value);
  },
};

const ICONS = {
  ok: ["M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18Z", "m8 12.2 2.8 2.8L16 9.5"],
  warning: ["M12 4 2.8 20h18.4L12 4Z", "M12 10v4.5", "M12 17.3v.2"],
  critical: ["M8.3 3h7.4L21 8.3v7.4L15.7 21H8.3L3 15.7V8.3L8.3 3Z", "M12 7.5v5.5", "M12 16.3v.2"],
  info: ["M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18Z", "M12 11v5.5", "M12 7.7v.2"],
  stale: ["M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18Z", "M12 7v5.3l3.5 2"],
  "no-data": ["M8 3.9a9 9 0 0 1 8 0", "M20.1 8a9 9 0 0 1 0 8", "M16 20.1a9 9 0 0 1-8 0", "M3.9 16a9 9 0 0 1 0-8"],
  drift: ["M3 17.5h5.5l3-11 3.5 6.5h6"],
  incident: ["M6 16.5V11a6 6 0 0 1 12 0v5.5l1.5 1.5h-15L6 16.5Z", "M10 20.5h4"],
  closed: ["m5 12.5 4.5 4.5L19 7.5"],
  light: ["M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8Z", "M12 2.5v2M12 19.5v2M2.5 12h2M19.5 12h2M5.3 5.3l1.4 1.4M17.3 17.3l1.4 1.4M5.3 18.7l1.4-1.4M17.3 6.7l1.4-1.4"],
  dark: ["M20 14.5A8.3 8.3 0 0 1 9.5 4 8.3 8.3 0 1 0 20 14.5Z"],
  auto: ["M3.5 5h17v11.5h-17z", "M9 20h6M12 16.5V20"],
  up: ["M12 19V5", "m6 11 6-6 6 6"],
  down: ["M12 5v14", "m18 13-6 6-6-6"],
  left: ["M15 5l-7 7 7 7"],
  right: ["m9 5 7 7-7 7"],
  open: ["m6 9.5 6 6 6-6"],
  search: ["M10.5 4a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13Z", "m20 20-4.8-4.8"],
  close: ["M6 6l12 12M18 6 6 18"],
  plus: ["M12 5v14M5 12h14"],
  minus: ["M5 12h14"],
  all: ["M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5"],
  table: ["M3.5 5h17v14h-17z", "M3.5 10h17M3.5 14.5h17M10 10v9"],
  chart: ["M4 4v16h16", "m7.5 14.5 3.5-4 3 2.5 5-6"],
  empty: ["M4 13.5 6.5 5h11l2.5 8.5v5.5h-16v-5.5Z", "M4 13.5h5l1 2h4l1-2h5"],
  away: ["m4 4 16 16", "M8.5 15.5a5 5 0 0 1 6-.6M5.5 12.3a9 9 0 0 1 4-2.1M14 10a9 9 0 0 1 4.5 2.3M2.5 9a13 13 0 0 1 4.5-2.7M10.5 5.1A13.500 13.500 0 0 1 21.500 9M12 19.300v.2"],
  calm: ["M6 12h12"],
};

export const Icon = {
  props: { name: String },
  render() {
    return h(
      "svg",
      { class: "hr-icon", viewBox: "0 0 24 24", "aria-hidden": "true", focusable: "false" },
      (ICONS[this.name] || ICONS.calm).map((d) => h("path", { d })),
    );
  },
};

// A line without axes, and where drifts were on it.
export const Spark = {
  props: { times: Array, values: Array, marks: { type: Array, default: () => [] }, since: Number, until: Number },
  render() {
    const known = (this.values || []).filter((v) => v !== null);
    const ticks = () => this.marks.map((at) => h("path", { class: ["hr-spark-mark", this.marks.length > 20 && "hr-spark-crowd"], d: `M${x(at).toFixed(2)} 0V30` }));
    const x = (t) => (100 * (t - this.since)) / (this.until - this.since || 1);
    const svg = (children) => h("svg", { class: "hr-spark", viewBox: "0 0 100 30", preserveAspectRatio: "none", "aria-hidden": "true", focusable: "false" }, children);
    if (known.length < 2) return svg(this.marks.length ? [h("path", { class: "hr-spark-none", d: "M0 29H100" }), ...ticks()] : []);
    const low = Math.min(...known), high = Math.max(...known), span = Math.max(high - low, 0.02 * Math.abs(high)) || 1;
    const y = (v) => 27 - (24 * (v - low)) / span;
    let line = "", area = "", pen = false, last = "";
    const close = () => (area += pen ? `L${last} 30Z` : "");
    this.times.forEach((t, i) => {
      const v = this.values[i], at = x(t).toFixed(2);
      if (v === null) {
        close();
        pen = false;
        return;
      }
      line += `${pen ? "L" : "M"}${at} ${y(v).toFixed(2)}`;
      area += `${pen ? "L" : `M${at} 30L`}${at} ${y(v).toFixed(2)}`;
      last = at;
      pen = true;
    });
    close();
    return svg([h("path", { class: "hr-spark-area", d: area }), ...ticks(), h("path", { class: "hr-spark-line", d: line })]);
  },
};

// The same beside an axis, where there is little room.
export function axisFigure(value, kind) {
  const short = Number(value.toPrecision(4));
  if (kind === "share") return `${Number((100 * short).toFixed(1))} %`;
  if (kind === "rate") return `${short.toLocaleString("en-US")}/s`;
  return figure(short, kind);
}

// A figure of the chart, as `monitors/app/dashboard/words.py` writes it.
export function figure(value, kind) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (kind === "share") return `${(100 * value).toFixed(1)} %`;
  if (kind === "count") return Math.round(value).toLocaleString("en-US");
  if (kind === "rate") return `${value < 100 ? value.toFixed(1) : Math.round(value).toLocaleString("en-US")}/s`;
  if (kind === "seconds") {
    if (value === 0) return "0 s";
    if (value < 1e-3) return `${(value * 1e6).toPrecision(3)} μs`;
    if (value < 1) return `${Number((value * 1e3).toPrecision(3))} ms`;
    if (value < 120) return `${Number(value.toPrecision(3))} s`;
    return value < 7200 ? `${Math.round(value / 60)} min` : `${(value / 3600).toFixed(1)} h`;
  }
  if (kind === "bytes") {
    for (const [limit, name] of [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]]) {
      if (value >= limit) return `${Number((value / limit).toPrecision(3))} ${name}`;
    }
    return `${Math.round(value)} B`;
  }
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e9 || size < 1e-4) return value.toPrecision(3);
  if (size >= 1000) return value.toLocaleString("en-US", { maximumFractionDigits: 0 });
  return String(Number(value.toPrecision(4)));
}
