// A line chart that speaks: the arrow keys walk through its points, and a table has its numbers.

import { el, setHidden } from "./dom.js";
import { clock } from "./format.js";

const ROWS = 20;
const CLOSE_MS = 1500;
let inks = null;

function readInks() {
  const probe = el("i", { class: "ink" });
  document.body.append(probe);
  inks = {};
  for (const name of ["accent", "ghost", "line", "muted", "warn", "bad", "soft"]) {
    probe.className = `ink ${name}`;
    inks[name] = getComputedStyle(probe).color;
  }
  inks.font = `11px ${getComputedStyle(document.documentElement).fontFamily}`;
  probe.remove();
}

export const repaint = [];
export function themeChanged() {
  inks = null;
  repaint.forEach((draw) => draw());
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", themeChanged);

function ink(name) {
  if (!inks) readInks();
  return inks[name];
}

export class Chart {
  // `lines` are [{label, ink, width, dash, fill}]; more lines than these are drawn as ghosts. `format` writes a value.
  constructor(parent, { title, lines, format, nothing, min = 0, soft = 1, max = null, floor = null }) {
    Object.assign(this, { lines, format, min, soft, max, floor });
    this.title = title;
    this.data = [[]];
    this.marks = [];
    this.hot = null;
    this.chosen = null;
    this.now = el("span", { class: "now" });
    this.plotBox = el("div", {
      class: "plot", tabIndex: 0, role: "slider", "aria-label": `${title}, last 15 minutes`, "aria-orientation": "horizontal",
      "aria-valuemin": "0", "aria-valuemax": "0", "aria-valuenow": "0", "aria-valuetext": "nothing yet",
    });
    this.nothing = el("div", { class: "nothing" }, nothing);
    this.plotBox.append(this.nothing);
    this.rows = el("table", { class: "data" });
    this.details = el(
      "details", {},
      el("summary", {}, "Table"),
      el("div", { class: "scroll", tabIndex: 0, role: "region", "aria-label": `${title}, as a table` }, this.rows),
    );
    this.details.addEventListener("toggle", () => this.#fill());
    parent.append(
      el("figure", { class: "chart" }, el("figcaption", {}, el("h3", {}, title), this.now), this.plotBox, this.details),
    );
    this.plotBox.addEventListener("keydown", (event) => this.#walk(event));
    this.plotBox.addEventListener("blur", () => this.#point(null));
    new ResizeObserver(() => this.#resize()).observe(this.plotBox);
    repaint.push(() => this.plot?.redraw(false, true));
  }

  // `columns` are times in ms, and one column for each line. `hot` is the line to bring out of many.
  show(columns, { labels = null, hot = null, marks = [] } = {}) {
    this.data = columns;
    this.hot = hot;
    this.labels = labels ?? this.lines.map((line) => line.label);
    this.marks = marks;
    const some = columns.slice(1).some((column) => column.some((value) => value !== null && value !== undefined));
    setHidden(this.nothing, some);
    if (some && (!this.plot || this.plot.series.length !== columns.length)) this.#make();
    this.plot?.setData(columns);
    this.plotBox.setAttribute("aria-valuemax", String(Math.max(0, columns[0].length - 1)));
    if (this.chosen === null) this.#tell(columns[0].length - 1);
    if (this.details.open && performance.now() - (this.filledAt ?? 0) > 5000) this.#fill();
  }

  #line(at) {
    return this.lines[at] ?? this.lines[this.lines.length - 1];
  }

  #make() {
    this.plot?.destroy();
    // A browser whose language has no valid name can't load the library; the table has the numbers all the same.
    if (!window.uPlot) {
      this.details.open = true;
      return;
    }
    const many = this.data.length - 1 > this.lines.length;
    const series = this.data.slice(1).map((_, at) => ({
      stroke: () => (many ? (at === this.hot ? ink("accent") : ink("ghost")) : ink(this.#line(at).ink)),
      width: many ? 1 : (this.#line(at).width ?? 1.6),
      dash: many ? undefined : this.#line(at).dash,
      fill: this.#line(at).fill && !many ? () => ink("soft") : undefined,
      points: { show: false },
      spanGaps: false,
    }));
    const axis = { stroke: () => ink("muted"), font: ink("font"), grid: { stroke: () => ink("line"), width: 1 }, ticks: { show: false } };
    const { width, height } = this.#size();
    this.plot = new window.uPlot(
      {
        width, height, ms: 1, legend: { show: false }, padding: [6, 4, 0, 0], series: [{}, ...series],
        cursor: { y: false, drag: { x: false, y: false }, points: { show: !many, size: 6 }, sync: { key: "time" } },
        scales: { x: { time: true }, y: { range: (_, low, high) => this.#range(low, high) } },
        axes: [
          { ...axis, size: 24, space: 70, values: (_, times, __, ___, step) => times.map((at) => (step < 60_000 ? clock(at) : clock(at).slice(0, 5))) },
          { ...axis, size: 50, space: 34, values: (_, values) => values.map((value) => this.format(value, true)) },
        ],
        hooks: {
          drawAxes: [(plot) => this.#drawMarks(plot)],
          draw: [(plot) => many && this.#drawHot(plot)],
          setCursor: [(plot) => this.#tell(plot.cursor.idx ?? this.data[0].length - 1)],
        },
      },
      this.data,
      this.plotBox,
    );
  }

  #range(low, high) {
    if (low === null || high === null) return [this.min ?? 0, this.soft];
    const top = this.max !== null ? this.max : Math.max(this.soft, high * 1.12);
    if (this.floor === null) return [this.min, top];
    return [Math.max(this.min, Math.min(this.floor, low - 0.02)), top];
  }

  #size() {
    return { width: Math.max(120, this.plotBox.clientWidth), height: Math.max(80, this.plotBox.clientHeight) };
  }

  #resize() {
    if (this.plot) this.plot.setSize(this.#size());
  }

  #drawMarks(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
    for (const mark of this.marks) {
      const x = Math.round(plot.valToPos(mark.at, "x", true));
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.strokeStyle = ink(mark.kind === "paused" || mark.kind === "left" || mark.kind === "drift" ? "warn" : "ghost");
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  }

  // The line that is brought out is drawn once more, above the others.
  #drawHot(plot) {
    if (this.hot === null || !this.data[this.hot + 1]) return;
    const { ctx } = plot;
    ctx.save();
    ctx.strokeStyle = ink("accent");
    ctx.lineWidth = 2 * devicePixelRatio;
    ctx.beginPath();
    let open = false;
    this.data[this.hot + 1].forEach((value, at) => {
      if (value === null || value === undefined) {
        open = false;
        return;
      }
      const x = plot.valToPos(this.data[0][at], "x", true);
      const y = plot.valToPos(value, "y", true);
      if (open) ctx.lineTo(x, y);
      else ctx.moveTo(x, y);
      open = true;
    });
    ctx.stroke();
    ctx.restore();
  }

  #walk(event) {
    const last = this.data[0].length - 1;
    const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -30, PageDown: 30, Home: -Infinity, End: Infinity };
    if (!(event.key in steps) || last < 0) {
      if (event.key === "Escape") this.#point(null);
      return;
    }
    event.preventDefault();
    this.#point(Math.max(0, Math.min(last, (this.chosen ?? last) + steps[event.key])));
  }

  #point(at) {
    this.chosen = at;
    if (!this.plot) return;
    const left = at === null ? -10 : this.plot.valToPos(this.data[0][at], "x");
    this.plot.setCursor({ left, top: at === null ? -10 : 10 });
    this.#tell(at ?? this.data[0].length - 1);
  }

  #parts(at) {
    const shown = this.data.length - 1 > this.lines.length ? (this.hot === null ? [] : [this.hot]) : this.data.slice(1).map((_, n) => n);
    return shown.map((n) => [this.labels[n], this.format(this.data[n + 1][at])]);
  }

  #tell(at) {
    const time = this.data[0][at];
    if (time === undefined) return;
    const parts = this.#parts(at);
    const isNow = at === this.data[0].length - 1;
    const marks = this.marks.filter((mark) => Math.abs(mark.at - time) < CLOSE_MS).map((mark) => mark.text);
    const text = [clock(time), ...parts.flat(), ...marks].join();
    if (this.now.dataset.text !== text) {
      this.now.dataset.text = text;
      const when = isNow ? [] : [`${clock(time)} `];
      const told = marks.length && !isNow ? [marks.join("; ")] : parts.flatMap(([label, value]) => [` ${label} `, el("b", {}, value), " "]);
      this.now.replaceChildren(...when, ...told);
    }
    this.plotBox.setAttribute("aria-valuenow", String(at));
    this.plotBox.setAttribute("aria-valuetext", [clock(time), ...parts.map((part) => part.join(" ")), ...marks].join(", "));
  }

  #fill() {
    if (!this.details.open) return;
    this.filledAt = performance.now();
    const size = this.data[0].length;
    const step = Math.max(1, Math.floor(size / ROWS));
    const rows = [];
    for (let at = size - 1; at >= 0; at -= step) {
      const cells = this.#parts(at).map(([, value]) => el("td", {}, value));
      rows.push(el("tr", {}, el("td", { class: "l" }, clock(this.data[0][at])), cells));
    }
    const labels = size ? this.#parts(size - 1).map(([label]) => el("th", { scope: "col" }, label)) : [];
    this.rows.replaceChildren(
      el("thead", {}, el("tr", {}, el("th", { scope: "col", class: "l" }, "time"), labels)),
      el("tbody", {}, rows),
    );
  }
}
