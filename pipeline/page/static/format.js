// Numbers and times for people.

const whole_ = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const MISSING = "–";

export const whole = (value) => (value === null || value === undefined ? MISSING : whole_.format(value));

export function number(value, digits = 4) {
  if (value === null || value === undefined || Number.isNaN(value)) return MISSING;
  if (Number.isInteger(value)) return Math.abs(value) < 1e15 ? whole_.format(value) : String(value);
  const size = Math.abs(value);
  if (size >= 1e6 || (size < 1e-4 && size > 0)) return value.toExponential(digits - 1);
  return String(Number(value.toPrecision(digits)));
}

export function rate(value) {
  if (value === null || value === undefined) return MISSING;
  if (value === 0) return "0/s";
  return value < 10 ? `${value.toFixed(1)}/s` : `${whole(value)}/s`;
}

export const percent = (share, digits = 1) =>
  share === null || share === undefined ? MISSING : `${(share * 100).toFixed(digits)} %`;

export function age(seconds) {
  if (seconds === null || seconds === undefined) return MISSING;
  if (seconds < 10) return `${Math.max(0, seconds).toFixed(1)} s`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

export const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");

export function moment(ms) {
  const at = new Date(ms);
  const today = new Date().toDateString() === at.toDateString();
  return today ? clock(ms) : `${at.toISOString().slice(0, 10)} ${clock(ms)}`;
}

export function millis(value) {
  if (value === null || value === undefined) return MISSING;
  return value < 10_000 ? `${whole(value)} ms` : age(value / 1000);
}

export function bytes(value) {
  if (value < 1024) return `${value} B`;
  if (value < 1048576) return `${(value / 1024).toFixed(1)} KiB`;
  return `${(value / 1048576).toFixed(1)} MiB`;
}

export function plain(value) {
  if (value === null || value === undefined) return MISSING;
  if (typeof value === "number") return number(value);
  return typeof value === "string" ? value : JSON.stringify(value);
}

export const count = (n, one, many) => `${whole(n)} ${n === 1 ? one : many}`;
