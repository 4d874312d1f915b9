// The stream of frames. A browser opens at most six connections to a host, so of all tabs of a browser one leads: it
// reads the events and passes them on to the others. The lock goes to another tab when the leader is closed.

const SILENCE_MS = 4000;
const RETRY_MS = 2000;
const OLD_MS = 10_000;

export class Feed {
  #take;
  #channel = typeof BroadcastChannel === "undefined" ? null : new BroadcastChannel("headrace");
  #heardAt = performance.now();
  #seq = null;

  // `take` gets the kind of an event ("frame", "predictions", "reset") and its content.
  constructor(take) {
    this.#take = take;
    if (this.#channel && navigator.locks) {
      this.#channel.onmessage = ({ data }) => this.#hear(data.kind, data.text);
      navigator.locks.request("headrace-events", () => new Promise(() => this.#lead()));
    }
    setInterval(() => this.#poll(), RETRY_MS);
  }

  get silence() {
    return (performance.now() - this.#heardAt) / 1000;
  }

  #hear(kind, text) {
    const told = JSON.parse(text);
    if (kind === "frame" && told.seq !== this.#seq) {
      // The first frame may be an old one, of a server that makes no more.
      const old = this.#seq === null ? Date.now() - told.at : 0;
      this.#heardAt = performance.now() - (old > OLD_MS ? old : 0);
      this.#seq = told.seq;
    }
    this.#take(kind, told);
  }

  #lead() {
    const source = new EventSource("/events");
    for (const kind of ["frame", "predictions", "reset"]) {
      source.addEventListener(kind, ({ data }) => {
        this.#hear(kind, data);
        this.#channel.postMessage({ kind, text: data });
      });
    }
    source.addEventListener("error", () => {
      // A refused stream is not tried again by the browser itself.
      if (source.readyState === EventSource.CLOSED) setTimeout(() => this.#lead(), RETRY_MS);
    });
  }

  // Without a leader that speaks, as in a browser without locks, ask for single frames.
  async #poll() {
    if (document.hidden || performance.now() - this.#heardAt < SILENCE_MS) return;
    try {
      const text = await (await fetch("/api/frame", { cache: "no-store" })).text();
      if (text !== "null") this.#hear("frame", text);
      const rows = await (await fetch("/api/predictions", { cache: "no-store" })).text();
      this.#hear("predictions", rows);
    } catch {
      // The banner says that the page is stale.
    }
  }
}
