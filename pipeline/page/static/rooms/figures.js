// A row of figures: a name, a number, and a line below it.

import { el, setText } from "../dom.js";

export class Figures {
  #cells = new Map();

  constructor(list) {
    this.list = list;
  }

  // `items` are [name, number, below, tone].
  show(items) {
    for (const [name, number, below = "", tone = ""] of items) {
      let cell = this.#cells.get(name);
      if (!cell) {
        cell = { number: el("dd"), below: el("dd") };
        this.list.append(el("div", {}, el("dt", {}, name), cell.number, cell.below));
        this.#cells.set(name, cell);
      }
      setText(cell.number, number);
      setText(cell.below, below);
      cell.number.title = number;
      if (cell.number.className !== tone) cell.number.className = tone;
    }
  }
}
