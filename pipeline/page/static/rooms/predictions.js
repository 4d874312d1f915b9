// The newest predictions, with labels beside them as they come.

import { byId, el, empty, setText, Table } from "../dom.js";
import { clock, count, millis, number, percent, plain, whole } from "../format.js";

const SHOWN = 50;
const KEPT = 500;

export class Predictions {
  #rows = new Map();
  #held = false;
  #filter = "";

  constructor() {
    byId("key-filter").addEventListener("input", (event) => {
      this.#filter = event.target.value.trim().toLowerCase();
      this.draw();
    });
    byId("hold").addEventListener("click", (event) => {
      this.#held = !this.#held;
      event.target.setAttribute("aria-pressed", String(this.#held));
      setText(event.target, this.#held ? "Go on" : "Pause");
      this.draw();
    });
  }

  take(rows) {
    for (const row of rows) this.#rows.set(place(row), row);
    if (this.#rows.size > KEPT) {
      const old = this.#sorted().slice(KEPT);
      for (const row of old) this.#rows.delete(place(row));
    }
  }

  #sorted() {
    return [...this.#rows.values()].sort((a, b) => b.at - a.at || a.partition - b.partition || b.offset - a.offset);
  }

  draw() {
    if (this.#held && this.shown) {
      this.#note(this.shown);
      return;
    }
    const all = this.#sorted();
    const found = this.#filter ? all.filter((row) => (row.key ?? "").toLowerCase().includes(this.#filter)) : all;
    this.shown = found.slice(0, SHOWN);
    if (this.shown.length) this.table ??= new Table(byId("prediction-list"), columns(this.shown.some(isScored)), { key: place });
    this.table?.show(this.shown);
    this.#note(this.shown);
    const text = this.#rows.size ? "No prediction of the last minutes has such a key." : "No predictions yet. Send some records: `headrace produce sample.jsonl`";
    empty(byId("predictions-empty"), this.shown.length ? "" : text);
  }

  #note(rows) {
    const labelled = rows.filter((row) => row.has_label);
    const judgedRows = labelled.filter((row) => typeof row.label !== "number" && isTold(row.prediction));
    const judged = judgedRows.length;
    const right = judgedRows.filter((row) => row.label === row.prediction).length;
    const score = judged ? ` · ${right} of ${judged} right` : "";
    setText(byId("predictions-note"), rows.length ? `${count(rows.length, "prediction", "predictions")} · ${labelled.length} labelled${score}${this.#held ? " · paused" : ""}` : "");
  }
}

const place = (row) => `${row.partition}:${row.offset}`;
const isTold = (value) => value !== null && value !== undefined;
// Only an anomaly detector has scores.
const isScored = (row) => row.score !== undefined;

function columns(scored) {
  const sure = { title: "sure", cell: (row) => (row.proba ? percent(Math.max(...Object.values(row.proba))) : "–") };
  const score = { title: "score", cell: (row) => number(row.score) };
  return [
    { title: "time", left: true, cell: (row) => clock(row.at) },
    { title: "key", left: true, wide: true, cell: (row) => row.key ?? "–" },
    { title: "id", left: true, wide: true, hide: true, cell: (row) => row.id },
    { title: "prediction", left: true, wide: true, cell: (row) => plain(row.prediction) },
    scored ? score : sure,
    { title: "label", left: true, sign: (row) => `${row.has_label}${row.label}`, cell: label },
    { title: "latency", cell: (row) => millis(row.latency_ms) },
    { title: "version", hide: true, cell: (row) => whole(row.version) },
    { title: "record", hide: true, cell: place },
  ];
}

function label(row) {
  if (!row.has_label) return [el("span", { class: "note" }, "–")];
  if (typeof row.label === "number" && typeof row.prediction === "number") {
    return [plain(row.label), " ", el("span", { class: "note" }, `off by ${number(Math.abs(row.label - row.prediction), 3)}`)];
  }
  if (!isTold(row.prediction)) return [el("span", { class: "tag" }, plain(row.label))];
  const right = row.label === row.prediction;
  return [el("span", { class: right ? "tag good" : "tag bad" }, `${right ? "✓" : "✗"} ${plain(row.label)}`)];
}
