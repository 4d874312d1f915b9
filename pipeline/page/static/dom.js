// Small helpers for the document: nothing is written that has not changed, so that a frame costs little.

export const byId = (id) => document.getElementById(id);

export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") node.className = value;
    else if (name === "on") for (const [event, call] of Object.entries(value)) node.addEventListener(event, call);
    else if (name in node && !name.startsWith("aria")) node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function setHidden(node, hidden) {
  if (node.hidden !== hidden) node.hidden = hidden;
}

export const cmd = (text) => el("code", { class: "cmd" }, text);

// A sentence with `commands` in backticks.
export function sentence(text) {
  return text.split("`").map((part, at) => (at % 2 ? cmd(part) : part));
}

export function empty(node, text) {
  setHidden(node, !text);
  if (text && node.dataset.text !== text) {
    node.dataset.text = text;
    node.replaceChildren(...sentence(text));
  }
}

// A table whose rows keep their elements while their key stays. A column is {title, cell, left, wide, hide}.
export class Table {
  constructor(table, columns, { key, mark } = {}) {
    this.columns = columns;
    this.key = key ?? ((_, at) => at);
    this.mark = mark;
    this.kept = new Map();
    this.table = table;
    this.body = el("tbody");
  }

  #begin() {
    const heads = this.columns.map((column) => el("th", { scope: "col", class: this.#style(column) }, column.title));
    this.table.replaceChildren(el("thead", {}, el("tr", {}, heads)), this.body);
  }

  #style(column) {
    return [column.left && "l", column.wide && "wide", column.hide && "wide-only"].filter(Boolean).join(" ");
  }

  show(items) {
    if (!items.length) {
      this.kept.clear();
      this.body.replaceChildren();
      this.table.replaceChildren();
      return;
    }
    if (!this.table.firstChild) this.#begin();
    const rows = items.map((item, at) => this.#row(item, at));
    const gone = new Set(this.kept.keys());
    items.forEach((item, at) => gone.delete(this.key(item, at)));
    for (const key of gone) {
      this.kept.get(key).remove();
      this.kept.delete(key);
    }
    rows.forEach((row, at) => {
      if (this.body.children[at] !== row) this.body.insertBefore(row, this.body.children[at] ?? null);
    });
  }

  #row(item, at) {
    const key = this.key(item, at);
    let row = this.kept.get(key);
    if (!row) {
      row = el("tr", {}, this.columns.map((column) => el("td", { class: this.#style(column) })));
      this.kept.set(key, row);
    }
    this.columns.forEach((column, n) => {
      const told = column.cell(item, row.children[n]);
      if (told instanceof Node || Array.isArray(told)) {
        const sign = column.sign?.(item);
        if (sign === undefined || row.children[n].dataset.sign !== sign) {
          row.children[n].replaceChildren(...[told].flat());
          if (sign !== undefined) row.children[n].dataset.sign = sign;
        }
      } else if (told !== undefined) {
        setText(row.children[n], told);
        if (column.wide) row.children[n].title = told;
      }
    });
    this.mark?.(row, item);
    return row;
  }
}

export function bar(share, warn = false) {
  const fill = el("i");
  fill.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return el("span", { class: warn ? "bar warn" : "bar", "aria-hidden": "true" }, fill);
}
