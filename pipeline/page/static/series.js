// The last quarter of an hour as columns, begun from the server's and continued by each frame.

const SECONDS = 900;

export class Series {
  columns = {};
  partitions = new Map();
  events = [];
  #names = ["t", "records", "dead_letters", "lag", "lag_s", "p50", "p99", "recent", "total", "share"];

  begin(told) {
    for (const name of this.#names) this.columns[name] = told[name].slice();
    this.partitions = new Map(Object.entries(told.partitions).map(([n, lags]) => [Number(n), lags.slice()]));
    this.events = told.events.slice();
  }

  add(frame) {
    const { columns } = this;
    if (!columns.t || (columns.t.length && frame.at <= columns.t[columns.t.length - 1])) return false;
    const quality = frame.quality ?? {};
    const point = {
      t: frame.at,
      records: frame.rates.records ?? 0,
      dead_letters: frame.rates.dead_letters ?? 0,
      lag: frame.lag,
      lag_s: frame.lag_s,
      p50: frame.latency?.p50 ?? null,
      p99: frame.latency?.p99 ?? null,
      recent: quality.accuracy_recent ?? quality.mae_recent ?? null,
      total: quality.accuracy ?? quality.mae ?? null,
      share: frame.labelled_share,
    };
    const full = columns.t.length >= SECONDS;
    for (const name of this.#names) {
      columns[name].push(point[name]);
      if (full) columns[name].shift();
    }
    const known = columns.t.length;
    for (const row of frame.partitions) {
      if (!this.partitions.has(row.partition)) this.partitions.set(row.partition, new Array(known - 1).fill(null));
    }
    const lags = new Map(frame.partitions.map((row) => [row.partition, row.lag_s]));
    for (const [n, column] of this.partitions) {
      column.push(lags.get(n) ?? null);
      if (column.length > known) column.shift();
    }
    this.events.push(...frame.events);
    if (this.events.length > 200) this.events.splice(0, this.events.length - 200);
    return true;
  }
}
