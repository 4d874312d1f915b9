// The saved versions, and what a model has learned between the oldest and the newest of them.

import { byId, el, empty, setHidden, setText, Table } from "../dom.js";
import { age, bytes, count, moment, number, percent, whole } from "../format.js";
import { get } from "../api.js";

const EVERY_MS = 5000;
const CHANGES_MS = 15000;

export class Models {
  #sign = null;
  #readAt = -Infinity;
  #changesAt = -Infinity;
  #busy = false;

  constructor() {
    this.versions = new Table(byId("versions"), [
      { title: "partition", cell: (row) => String(row.partition) },
      { title: "version", cell: (row) => whole(row.version) },
      { title: "learned", cell: (row) => whole(row.learned) },
      { title: "offset", hide: true, cell: (row) => whole(row.offset) },
      { title: "quality", cell: (row) => quality(row.quality) },
      { title: "size", hide: true, cell: (row) => bytes(row.bytes) },
      { title: "saved", cell: (row) => moment(row.created_ms) },
    ], { key: (row) => `${row.partition}/${row.version}` });
    this.weights = new Table(byId("weights"), [
      { title: "feature", left: true, wide: true, cell: (row) => row.feature },
      { title: "to − and +", sign: (row) => `${row.now}/${this.most}`, cell: (row) => swing(row.now, this.most) },
      { title: "weight", cell: (row) => number(row.now) },
      { title: "change", cell: (row) => (row.before === null ? "new" : row.now === row.before ? "–" : signed(row.now - row.before)) },
    ], { key: (row) => row.feature });
    byId("changes-partition").addEventListener("change", () => {
      this.#changesAt = -Infinity;
      this.#readChanges();
    });
  }

  show(frame) {
    const sign = frame.partitions.map((row) => row.version).join();
    const now = performance.now();
    if (sign === this.#sign || now - this.#readAt < EVERY_MS) return;
    [this.#sign, this.#readAt] = [sign, now];
    this.#read();
  }

  async #read() {
    const told = await get("/api/models").catch(() => null);
    if (!told) return;
    const newest = told.versions.filter((row, at, all) => at === 0 || all[at - 1].partition !== row.partition);
    // Of many partitions only the newest version of each is shown.
    const rows = newest.length > 8 ? newest : told.versions;
    this.versions.show(rows);
    setText(byId("models-note"), rows.length ? `scope ${told.scope} · ${count(newest.length, "model", "models")}` : "");
    empty(byId("versions-empty"), rows.length ? "" : "Nothing is saved yet. The first version comes about a second after the first record.");
    this.#list(newest.map((row) => row.partition));
    this.#lifecycle(told);
    await this.#readChanges();
  }

  #list(numbers) {
    const select = byId("changes-partition");
    const text = numbers.join();
    if (select.dataset.text === text) return;
    const chosen = select.value;
    select.dataset.text = text;
    select.replaceChildren(...numbers.map((n) => el("option", { value: String(n) }, String(n))));
    if (chosen && numbers.includes(Number(chosen))) select.value = chosen;
  }

  async #readChanges() {
    const partition = byId("changes-partition").value;
    const now = performance.now();
    if (!partition) {
      setText(byId("changes-note"), "The weights that moved most come here.");
      return;
    }
    if (this.#busy || now - this.#changesAt < CHANGES_MS) return;
    this.#busy = true;
    this.#changesAt = now;
    if (!byId("changes-note").textContent) setText(byId("changes-note"), "The models are being read.");
    try {
      const told = await get(`/api/models/${partition}`);
      this.most = Math.max(1e-12, ...told.weights.map((row) => Math.abs(row.now)));
      this.weights.show(told.weights);
      const shown = told.count > told.weights.length ? `${told.weights.length} of ${told.count} weights, the most changed first` : "Weights, the most changed first";
      const since = told.oldest === told.newest ? `version ${told.newest}; changes come with the next version` : `from version ${told.oldest} to ${told.newest}, in ${age(told.since_s)}`;
      setText(byId("changes-note"), told.weights.length ? `${shown}, ${since}.` : sentenceOf(told.why));
      setText(byId("spec"), told.spec);
      setHidden(byId("spec-box"), !told.spec);
    } catch (error) {
      setText(byId("changes-note"), error.message);
    } finally {
      this.#busy = false;
    }
  }

  // Challengers and the history of models, where the pipeline has such.
  #lifecycle({ challengers, history }) {
    const box = byId("lifecycle");
    setHidden(box, !challengers.length && !history.length);
    if (box.hidden) return;
    const table = (title, rows) => {
      const names = Object.keys(rows[0] ?? {});
      return el("div", { class: "panel" }, el("div", { class: "panel-head" }, el("h3", {}, title)),
        el("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": title }, el("table", { class: "data" },
          el("thead", {}, el("tr", {}, names.map((name) => el("th", { scope: "col" }, name)))),
          el("tbody", {}, rows.map((row) => el("tr", {}, names.map((name) => el("td", {}, String(row[name])))))))));
    };
    box.replaceChildren(...[challengers.length && table("Challengers", challengers), history.length && table("History", history)].filter(Boolean));
  }
}

function quality(told) {
  if (told.accuracy_recent !== undefined) return percent(told.accuracy_recent);
  return told.mae_recent !== undefined ? number(told.mae_recent) : "–";
}

const signed = (value) => `${value > 0 ? "+" : value < 0 ? "−" : ""}${number(Math.abs(value), 3)}`;
const sentenceOf = (text) => (text ? `${text[0].toUpperCase()}${text.slice(1)}.` : "It has no weights yet.");

function swing(value, most) {
  const fill = el("i", { class: value < 0 ? "minus" : "" });
  const half = (Math.abs(value) / most) * 50;
  fill.style.width = `${half}%`;
  fill.style.left = `${value < 0 ? 50 - half : 50}%`;
  return el("span", { class: "swing", "aria-hidden": "true" }, fill);
}
