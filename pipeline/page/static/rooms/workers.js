// The workers and what happened to them.

import { byId, el, empty, setHidden, Table } from "../dom.js";
import { age, clock, whole } from "../format.js";

const PARTS_MAX = 6;
const TONES = { running: "good", paused: "warn", relearning: "accent" };

export class Workers {
  #told = 0;

  constructor() {
    this.table = new Table(byId("worker-list"), [
      { title: "worker", cell: (row) => String(row.ordinal) },
      { title: "state", left: true, sign: (row) => row.state, cell: (row) => [el("span", { class: `tag ${TONES[row.state] ?? ""}` }, row.state)] },
      { title: "partitions", left: true, wide: true, cell: (row) => ranges(row.partitions) },
      { title: "up for", cell: (row) => (row.started_ms ? age((Date.now() - row.started_ms) / 1000) : "–") },
      { title: "restarts", cell: (row) => whole(row.restarts ?? 0) },
      { title: "relearning", hide: true, cell: (row) => relearning(row) },
      { title: "host", left: true, wide: true, hide: true, cell: (row) => row.host },
      { title: "process", hide: true, cell: (row) => String(row.pid) },
    ], { key: (row) => `${row.host}/${row.ordinal}` });
  }

  show(frame, series) {
    this.table.show(frame.workers);
    empty(byId("workers-empty"), frame.workers.length ? "" : "No worker runs. Start one: `headrace run`");
    const last = series.events.at(-1);
    const sign = `${series.events.length}/${last?.at}/${last?.text}`;
    if (sign === this.#told) return;
    this.#told = sign;
    setHidden(byId("timeline-empty"), series.events.length > 0);
    byId("timeline").replaceChildren(
      ...series.events.slice(-100).reverse().map((event) =>
        el("li", { class: event.kind }, el("time", { dateTime: new Date(event.at).toISOString() }, clock(event.at)), el("span", {}, event.text))),
    );
  }
}

function relearning(row) {
  const left = Object.values(row.relearning ?? {}).reduce((sum, n) => sum + n, 0);
  return left ? `${whole(left)} left, ${whole(row.relearn_rate)}/s` : "–";
}

function ranges(numbers) {
  if (!numbers?.length) return "none";
  const parts = [];
  let from = numbers[0];
  numbers.forEach((n, at) => {
    if (numbers[at + 1] === n + 1) return;
    parts.push(from === n ? String(n) : `${from}–${n}`);
    from = numbers[at + 1];
  });
  if (parts.length <= PARTS_MAX) return parts.join(", ");
  return `${numbers.length}: ${parts.slice(0, PARTS_MAX - 2).join(", ")}, …, ${parts.at(-1)}`;
}
