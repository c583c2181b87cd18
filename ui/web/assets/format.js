// Numbers, sizes, times for people. Every function takes null or undefined for "not known" and answers an en dash.

export const NONE = "–";
const known = (value) => value !== null && value !== undefined && !Number.isNaN(value);
const grouped = new Intl.NumberFormat("en-US");

/// Server clock minus ours, in ms.
let skew = 0;
export const setServerNow = (now) => { if (now) skew = now - Date.now(); };
export const serverNow = () => Date.now() + skew;

export const count = (value) => (known(value) ? grouped.format(value) : NONE);

/// 1234567 -> 1.23 M
export function compact(value) {
  if (!known(value)) return NONE;
  for (const [scale, unit] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e4, "k"]]) {
    if (Math.abs(value) >= scale) {
      const scaled = value / (unit === "k" ? 1e3 : scale);
      return `${Number(scaled.toFixed(scaled >= 100 ? 0 : scaled >= 10 ? 1 : 2))} ${unit}`;
    }
  }
  return grouped.format(value);
}

export function bytes(value) {
  if (!known(value)) return NONE;
  let scaled = value;
  for (const unit of ["B", "KiB", "MiB", "GiB", "TiB"]) {
    if (scaled < 1024 || unit === "TiB") return `${scaled.toFixed(unit === "B" || scaled >= 100 ? 0 : 1)} ${unit}`;
    scaled /= 1024;
  }
  return NONE;
}

export function ms(value) {
  if (!known(value)) return NONE;
  if (value < 0) return "0 ms";
  if (value < 1000) return `${Math.round(value)} ms`;
  const seconds = value / 1000;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
  const minutes = Math.round(whole / 60);
  if (minutes < 1440) return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
  return `${Math.floor(minutes / 1440)} d ${Math.floor((minutes % 1440) / 60)} h`;
}

export function ns(value) {
  if (!known(value)) return NONE;
  if (value < 1e3) return `${value} ns`;
  if (value < 1e6) return `${(value / 1e3).toFixed(1)} µs`;
  if (value < 1e9) return `${(value / 1e6).toFixed(value < 1e7 ? 2 : 1)} ms`;
  return ms(value / 1e6);
}

const two = (value) => String(value).padStart(2, "0");

/// Local time; the date is left out for today.
export function time(at) {
  if (!at) return NONE;
  const date = new Date(at);
  const clock = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  return date.toDateString() === new Date(serverNow()).toDateString() ? clock : `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${clock}`;
}

export const fullTime = (at) => (at ? new Date(at).toISOString().replace("T", " ").replace("Z", " UTC") : "");

export function ago(at) {
  if (!at) return NONE;
  const passed = serverNow() - at;
  return passed < 1500 ? "just now" : `${ms(passed < 60000 ? Math.round(passed / 1000) * 1000 : passed).replace(".00", "").replace(".0", "")} ago`;
}

/// Time between two instants, up to now while the second is missing.
export const span = (from, to) => (from ? ms((to || serverNow()) - from) : NONE);

export const percent = (part, whole) => (whole > 0 ? Math.min(100, (100 * part) / whole) : 0);

/// Ids are long: what tells them apart is at the start (Ballista) or anywhere; show the start, the title has all.
export const shortId = (id) => (id && id.length > 14 ? `${id.slice(0, 13)}…` : id || NONE);
