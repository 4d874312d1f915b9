// Dead letters: by code, one by one, edited, tried and sent again.

import { byId, cmd, el, setHidden, setText, Table } from "../dom.js";
import { bytes, count, moment, whole } from "../format.js";
import { act, get, setToken, token } from "../api.js";

const EVERY_MS = 3000;
const KEPT_MS = 4000;
const STATES = { waiting: "", replayed: "good", parked: "warn" };

export class Letters {
  #code = null;
  #chosen = null;
  #limit = 100;
  #sign = "";
  #readAt = -Infinity;
  #due = [];
  #busy = false;
  actions = false;

  constructor() {
    this.list = new Table(byId("letter-list"), [
      { title: "letter", left: true, sign: (row) => place(row), cell: (row) => [el("button", { class: "link", type: "button", "aria-label": `Open letter ${place(row)}` }, place(row))] },
      { title: "time", left: true, cell: (row) => moment(row.at) },
      { title: "code", left: true, hide: true, cell: (row) => row.code },
      { title: "message", left: true, wide: true, cell: (row) => row.message },
      { title: "replay", left: true, sign: (row) => row.state, cell: (row) => [el("span", { class: `tag ${STATES[row.state] ?? ""}` }, row.state)] },
    ], { key: place, mark: (row, item) => {
      row.dataset.place = place(item);
      row.classList.toggle("on", place(item) === this.#chosen);
    } });
    byId("letter-list").addEventListener("click", (event) => {
      const row = event.target.closest("tr[data-place]");
      if (row) this.open(row.dataset.place);
    });
    byId("letters-more").addEventListener("click", () => {
      this.#limit += 100;
      this.read();
    });
  }

  show(frame) {
    const sign = String(frame.counts?.dead_letters ?? 0);
    const now = performance.now();
    if (sign !== this.#sign) {
      this.#sign = sign;
      // The server may give what it read up to two seconds ago: so read once more when that is over.
      this.#due = [now, now + KEPT_MS];
    }
    if (!this.#due.length || now < this.#due[0] || this.#busy || now - this.#readAt < EVERY_MS) return;
    this.#due.shift();
    this.read();
  }

  async read() {
    if (this.#busy) return;
    this.#busy = true;
    this.#readAt = performance.now();
    const query = this.#code === null ? "" : `code=${encodeURIComponent(this.#code)}&`;
    try {
      const told = await get(`/api/letters?${query}before=0`);
      while (told.letters.length < Math.min(this.#limit, told.total)) {
        const more = await get(`/api/letters?${query}before=${told.letters.length}`);
        if (!more.letters.length) break;
        told.letters.push(...more.letters);
      }
      this.#draw(told);
    } catch (error) {
      setText(byId("letters-note"), error.message);
    } finally {
      this.#busy = false;
    }
  }

  #draw(told) {
    const isEmpty = !told.counts.length;
    setHidden(byId("letters-body"), isEmpty);
    setHidden(byId("letters-empty"), !isEmpty);
    if (isEmpty) {
      byId("letters-empty").replaceChildren("No dead letters: every record could be read. One that can't comes to ", cmd(told.topic), ".");
      return;
    }
    const all = told.counts.reduce((sum, row) => sum + row.count, 0);
    const waiting = told.counts.reduce((sum, row) => sum + row.waiting, 0);
    const one = (code, title, total, below) =>
      el("li", {}, el("button", { type: "button", "aria-pressed": String(this.#code === code), on: { click: () => this.#pick(code) } },
        el("span", {}, title), el("span", {}, whole(total)), el("small", { title: below }, below)));
    byId("codes").replaceChildren(
      one(null, "All", all, `${whole(waiting)} waiting`),
      ...told.counts.map((row) => one(row.code, row.code, row.count, row.waiting ? `${whole(row.waiting)} waiting · ${row.example}` : row.replayed ? "all replayed" : "none waiting")),
    );
    this.list.show(told.letters);
    const left = told.left_out ? ` · ${whole(told.left_out)} older ones are not listed` : "";
    setText(byId("letters-note"), `${whole(told.letters.length)} of ${whole(told.total)}${left}`);
    setHidden(byId("letters-more"), told.letters.length >= told.total);
    if (this.#chosen === null && told.letters.length) this.#invite(told);
  }

  #pick(code) {
    this.#code = code;
    this.#limit = 100;
    this.#chosen = null;
    this.read();
  }

  #invite(told) {
    const code = this.#code;
    const waiting = told.counts.filter((row) => code === null || row.code === code).reduce((sum, row) => sum + row.waiting, 0);
    const parts = [el("div", { class: "panel-head" }, el("h3", {}, code === null ? "No letter is open" : code)), el("p", { class: "note block" }, "Open one to see its value and headers, correct it, and send it into the stream again.")];
    if (code !== null && waiting) parts.push(...this.#bulk(code, waiting));
    byId("letter").replaceChildren(...parts);
  }

  #bulk(code, waiting) {
    if (!this.actions) return [this.#locked(`headrace dlq replay --code ${code}`)];
    const result = el("p", { class: "result" });
    const go = async (name) => {
      try {
        const told = await act(name, { code });
        result.className = "result";
        result.replaceChildren(...outcome(told));
        if (name === "replay") this.read();
      } catch (error) {
        fail(result, error);
      }
    };
    return [
      this.#tokenField(),
      el("div", { class: "row" },
        el("button", { class: "quiet", type: "button", on: { click: () => go("dry-run") } }, "Dry run"),
        el("button", { type: "button", on: { click: () => confirmed(code, waiting, () => go("replay")) } }, `Replay all ${whole(waiting)}`)),
      result,
    ];
  }

  #locked(command) {
    return el("div", { class: "note block" }, "This page only reads. Replay in a terminal: ", cmd(command), ", or start the page with ", cmd("--actions"), ".");
  }

  #tokenField() {
    if (token()) return null;
    const input = el("input", { type: "password", autocomplete: "off", on: { change: (event) => setToken(event.target.value) } });
    return el("label", { class: "block-label" }, "Token, as `headrace page --actions` printed it, or of page.token_file".replaceAll("`", ""), input);
  }

  async open(where) {
    this.#chosen = where;
    for (const row of byId("letter-list").querySelectorAll("tr[data-place]")) row.classList.toggle("on", row.dataset.place === where);
    const box = byId("letter");
    try {
      const told = await get(`/api/letters/${where.replace(":", "/")}`);
      if (this.#chosen === where) this.#letter(box, where, told);
    } catch (error) {
      box.replaceChildren(el("p", { class: "result bad" }, error.message));
    }
  }

  #letter(box, where, told) {
    const isText = told.value !== undefined && told.value !== null;
    const omitted = Object.entries(told.omitted ?? {}).map(([part, size]) => `${part} (${bytes(size)}, still at the source)`).join(", ");
    const facts = [
      ["Reason", told.message],
      ["Field", told.field],
      ["Stage", told.stage],
      ["Record", told.origin],
      ["Time", moment(told.timestamp)],
      ["Key", told.key ?? (told.key_base64 ? `${told.key_base64} (base64)` : "none")],
      ["Replays", whole(told.replay_count)],
      ["Left out", omitted],
      ["Headers", told.record_headers.map(([name, value]) => `${name}: ${value ?? "none"}`).join("\n") || "none"],
    ].filter(([, value]) => value);
    const area = el("textarea", { value: isText ? told.value : (told.value_base64 ?? ""), readOnly: !isText || !this.actions, spellcheck: false, rows: 7 });
    const diff = el("div", { class: "diff", role: "region", "aria-label": "What the edit changes", tabIndex: 0, hidden: true });
    const result = el("p", { class: "result", role: "status" });
    area.addEventListener("input", () => showDiff(diff, told.value, area.value));
    const order = () => (isText && area.value !== told.value ? { letters: [where], value: area.value } : { letters: [where] });
    const go = async (name, button) => {
      button.disabled = true;
      try {
        const done = await act(name, order());
        result.className = "result";
        result.replaceChildren(...outcome(done));
        if (name === "replay") this.read();
      } catch (error) {
        fail(result, error);
      } finally {
        button.disabled = false;
      }
    };
    const dry = el("button", { class: "quiet", type: "button", on: { click: () => go("dry-run", dry) } }, "Dry run");
    const send = el("button", { type: "button", on: { click: () => go("replay", send) } }, "Replay");
    const state = el("span", { class: `tag ${STATES[told.state] ?? ""}` }, told.state);
    box.replaceChildren(...[
      el("div", { class: "panel-head" }, el("h3", {}, `${where} · ${told.status} ${told.code}`), state),
      el("dl", { class: "facts" }, facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", { class: name === "Headers" ? "mono" : "" }, value)])),
      el("label", { class: "block-label" }, `Value, ${bytes(told.bytes)}${isText ? "" : ", base64: not UTF-8, so it can't be edited here"}`, area),
      diff,
      this.actions ? this.#tokenField() : this.#locked(`headrace dlq replay --code ${told.code}`),
      this.actions && el("div", { class: "row" }, dry, send, el("span", { class: "note" }, "Each letter is learned once, however often it is sent.")),
      result,
    ].filter(Boolean));
  }
}

const place = (row) => `${row.partition}:${row.offset}`;

function fail(node, error) {
  node.className = "result bad";
  node.replaceChildren(error.message, error.hint ? el("span", { class: "note" }, ` · ${error.hint}`) : "");
}

function outcome(told) {
  const parts = [];
  const add = (n, words) => n && parts.push(`${whole(n)} ${words}`);
  if (told.execute) {
    parts.push(`${whole(told.sent)} sent`);
    add(told.parked, "parked: replayed too often");
  } else {
    parts.push(`${whole(told.to_send)} would be sent`);
    add(told.to_park, "would be parked: replayed too often");
  }
  add(told.already, told.already === 1 ? "had been replayed before" : "had been replayed before");
  add(told.lost, "lost: the original is gone");
  add(told.too_large, "too large for the topic");
  const foreign = Object.values(told.foreign ?? {}).reduce((sum, n) => sum + n, 0);
  add(foreign, "of other pipelines");
  return [el("b", {}, parts[0]), parts.length > 1 ? ` · ${parts.slice(1).join(" · ")}` : "", ...(told.reasons ?? []).map((text) => el("div", { class: "note" }, text))];
}

// The lines that differ, between the same first and last lines.
function showDiff(node, before, after) {
  setHidden(node, before === after);
  if (node.hidden) return;
  const [old, fresh] = [before.split("\n"), after.split("\n")];
  let head = 0;
  while (head < Math.min(old.length, fresh.length) && old[head] === fresh[head]) head += 1;
  let tail = 0;
  while (tail < Math.min(old.length, fresh.length) - head && old[old.length - 1 - tail] === fresh[fresh.length - 1 - tail]) tail += 1;
  node.replaceChildren(
    ...old.slice(head, old.length - tail).map((line) => el("div", { class: "gone" }, `− ${line}`)),
    ...fresh.slice(head, fresh.length - tail).map((line) => el("div", { class: "come" }, `+ ${line}`)),
  );
}

function confirmed(code, waiting, then) {
  const dialog = byId("confirm");
  const input = el("input", { type: "text", autocomplete: "off", "aria-label": `Type ${code}` });
  const go = el("button", { type: "submit", disabled: true }, "Replay");
  input.addEventListener("input", () => {
    go.disabled = input.value.trim() !== code;
  });
  const form = el("form", { method: "dialog" },
    el("h3", { id: "confirm-title" }, `Replay ${count(waiting, "dead letter", "dead letters")}?`),
    el("p", {}, "They go back into the stream unchanged, and are predicted and learned. Type ", cmd(code), " to go on."),
    input,
    el("div", { class: "row" }, el("button", { class: "quiet", type: "button", on: { click: () => dialog.close() } }, "Cancel"), go));
  form.addEventListener("submit", () => then());
  dialog.replaceChildren(form);
  dialog.showModal();
  input.focus();
}
