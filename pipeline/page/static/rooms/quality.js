// How good the predictions are: the last thousand against all, and the share that got a label.

import { byId } from "../dom.js";
import { number, percent, whole } from "../format.js";
import { Chart } from "../chart.js";
import { Figures } from "./figures.js";

const FALL = 0.05;

export class Quality {
  #figures = new Figures(byId("quality-figures"));
  #isError = false;

  show(frame, series) {
    const quality = frame.quality ?? {};
    this.#isError = quality.mae !== undefined;
    const recent = quality.accuracy_recent ?? quality.mae_recent;
    const total = quality.accuracy ?? quality.mae;
    const falls = recent !== undefined && (this.#isError ? recent > total * (1 + 2 * FALL) : recent < total - FALL);
    const write = (value) => (value === undefined ? "–" : this.#write(value));
    const name = this.#isError ? "Mean absolute error" : "Accuracy";
    const points = this.#isError ? `${percent(recent / total - 1)} against all` : `${((recent - total) * 100).toFixed(1)} points against all`;
    this.#figures.show([
      [`${name}, last 1,000`, write(recent), recent === undefined ? "no labels yet" : falls ? `falling: ${points}` : points, falls ? "warn" : ""],
      [`${name}, all`, write(total), quality.rmse === undefined ? "" : `RMSE ${number(quality.rmse)}`],
      ["Scored", whole(quality.scored ?? 0), "predictions with a label"],
      ["Labelled", percent(frame.labelled_share), frame.labels ? "of those whose wait is over" : "of the predictions"],
      ["Waiting for a label", whole(frame.labels?.waiting ?? 0), frame.labels ? `${whole(frame.labels.waiting_early)} labels wait, too` : "no labels topic"],
    ]);
    this.draw(series);
  }

  #write(value) {
    if (value === null || value === undefined) return "–";
    return this.#isError ? number(value) : percent(value);
  }

  draw(series) {
    const { columns } = series;
    if (!columns.t) return;
    this.chart ??= new Chart(byId("quality-chart"), {
      title: this.#isError ? "Mean absolute error" : "Accuracy",
      lines: [
        { label: "last 1,000", ink: "accent", fill: true },
        { label: "all", ink: "ghost", dash: [5, 4] },
      ],
      format: (value, isAxis) => (isAxis && !this.#isError ? `${Math.round(value * 100)} %` : this.#write(value)),
      nothing: "Shown when labelled records come",
      max: this.#isError ? null : 1,
      soft: this.#isError ? 0.1 : 1,
      floor: this.#isError ? null : 0.9,
    });
    const marks = series.events.filter((event) => event.mark);
    this.chart.show([columns.t, columns.recent, columns.total], { marks });
  }
}
