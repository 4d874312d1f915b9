// The stream: whole numbers, rates, latency, and the lag with a line for each partition.

import { bar, byId, empty, setText, Table } from "../dom.js";
import { age, millis, number, rate, whole } from "../format.js";
import { Chart } from "../chart.js";
import { Figures } from "./figures.js";

const LATE_S = 10;

export class Stream {
  #figures = new Figures(byId("figures"));
  #most = 1;

  constructor() {
    const charts = byId("stream-charts");
    this.rates = new Chart(charts, {
      title: "Records a second",
      lines: [
        { label: "records", ink: "accent", fill: true },
        { label: "dead letters", ink: "bad" },
      ],
      format: (value, isAxis) => (isAxis ? short(value) : value === null || value === undefined ? "–" : number(Math.round(value * 10) / 10)),
      nothing: "No records yet",
    });
    this.lag = new Chart(charts, {
      title: "Lag",
      lines: [{ label: "lag", ink: "accent", fill: true }],
      format: (value, isAxis) => (value === null || value === undefined ? "–" : isAxis ? `${number(value, 3)} s` : age(value)),
      nothing: "No partitions yet",
    });
    this.latency = new Chart(charts, {
      title: "Latency",
      lines: [
        { label: "p50", ink: "accent" },
        { label: "p99", ink: "ghost", dash: [4, 3] },
      ],
      format: (value, isAxis) => (!isAxis ? millis(value) : value < 1000 ? `${short(value)} ms` : `${short(value / 1000)} s`),
      nothing: "Shown when predictions come",
    });
    this.partitions = new Table(byId("partitions"), [
      { title: "partition", cell: (row) => String(row.partition) },
      { title: "committed", cell: (row) => whole(row.committed) },
      {
        title: "lag", sign: (row) => `${row.lag}/${this.#most}`,
        cell: (row) => [whole(row.lag), bar((row.lag ?? 0) / this.#most, row.lag_s > LATE_S)],
      },
      { title: "behind", cell: (row) => (row.lag_s ? `${row.lag_is_least ? "> " : ""}${age(row.lag_s)}` : "–") },
      { title: "rate", cell: (row) => rate(row.rate) },
      { title: "learned", hide: true, cell: (row) => whole(row.learned) },
      { title: "saved at", hide: true, cell: (row) => whole(row.snapshot) },
      { title: "version", hide: true, cell: (row) => whole(row.version) },
      { title: "worker", cell: (row) => (row.worker === null ? "–" : String(row.worker)) },
    ], { key: (row) => row.partition });
  }

  show(frame, series) {
    const { counts, rates } = frame;
    const behind = frame.lag_s ? `${frame.lag_is_least ? "more than " : ""}${age(frame.lag_s)} behind` : "up to date";
    const latency = frame.latency;
    this.#figures.show([
      ["Records", whole(counts?.records), rate(rates.records)],
      ["Predictions", whole(counts?.predictions), rate(rates.predictions)],
      ["Dead letters", whole(counts?.dead_letters), rate(rates.dead_letters), rates.dead_letters > 0 ? "bad" : ""],
      ["Skipped", whole(counts?.skipped), rate(rates.skipped)],
      ["Learned", whole(counts?.learned), rate(rates.learned)],
      ["Lag", whole(frame.lag), frame.lag === null ? "" : behind, frame.lag_s > LATE_S ? "warn" : ""],
      ["Latency p50", latency ? millis(latency.p50) : "–", latency ? `p99 ${millis(latency.p99)}, last ${latency.count}` : counts?.predictions ? "no predictions lately" : "no predictions yet"],
    ]);
    this.#most = Math.max(1, ...frame.partitions.map((row) => row.lag ?? 0));
    this.partitions.show(frame.partitions);
    const last = frame.partitions.reduce((found, row) => (row.lag_s > (found?.lag_s ?? 0) ? row : found), null);
    const furthest = last ? ` · furthest behind: ${last.partition}, ${age(last.lag_s)}` : "";
    setText(byId("partitions-note"), frame.partitions.length ? `${frame.partitions.length}${furthest}` : "");
    empty(byId("partitions-empty"), frame.partitions.length ? "" : "There is no features topic yet. `headrace run` creates it.");
    this.draw(frame, series);
  }

  draw(frame, series) {
    const { columns } = series;
    if (!columns.t) return;
    const marks = series.events.filter((event) => event.mark);
    this.rates.show([columns.t, columns.records, columns.dead_letters], { marks });
    this.latency.show([columns.t, columns.p50, columns.p99], { marks });
    const lags = [...series.partitions.entries()].sort(([one], [other]) => one - other);
    const worst = frame.partitions.reduce((found, row) => (row.lag_s > (found?.lag_s ?? -1) ? row : found), null);
    const hot = worst ? lags.findIndex(([n]) => n === worst.partition) : null;
    const labels = lags.length ? lags.map(([n]) => `partition ${n}`) : ["lag"];
    this.lag.show([columns.t, ...(lags.length ? lags.map(([, column]) => column) : [columns.lag_s])], { labels, hot, marks });
  }
}

function short(value) {
  if (value === null || value === undefined) return "";
  if (value >= 1e6) return `${number(value / 1e6, 3)}M`;
  return value >= 1e4 ? `${number(value / 1e3, 3)}k` : number(value, 3);
}
