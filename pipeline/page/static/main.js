// Brings the rooms together: each frame goes to all of them, and nothing is drawn while nobody looks.

import { byId, setText } from "./dom.js";
import { age } from "./format.js";
import { get } from "./api.js";
import { themeChanged } from "./chart.js";
import { Feed } from "./feed.js";
import { Series } from "./series.js";
import * as banner from "./rooms/banner.js";
import { Ask } from "./rooms/ask.js";
import { Letters } from "./rooms/letters.js";
import { Models } from "./rooms/models.js";
import { Predictions } from "./rooms/predictions.js";
import { Quality } from "./rooms/quality.js";
import { Stream } from "./rooms/stream.js";
import { Workers } from "./rooms/workers.js";

const series = new Series();
const rooms = { stream: new Stream(), quality: new Quality(), models: new Models(), letters: new Letters(), ask: new Ask(), workers: new Workers() };
const predictions = new Predictions();
let frame = null;

function draw() {
  if (document.hidden || !frame) return;
  banner.show(frame, feed.silence);
  for (const room of Object.values(rooms)) room.show(frame, series);
  predictions.draw();
  document.documentElement.dataset.frame = String(frame.seq);
}

async function begin() {
  try {
    series.begin(await get("/api/history"));
  } catch {
    series.begin({ t: [], records: [], dead_letters: [], lag: [], lag_s: [], p50: [], p99: [], recent: [], total: [], share: [], partitions: {}, events: [] });
  }
}

const feed = new Feed((kind, told) => {
  if (kind === "predictions") {
    predictions.take(told);
    if (!document.hidden) predictions.draw();
  } else if (kind === "reset") begin();
  else {
    frame = told;
    series.add(told);
    draw();
  }
});

setInterval(() => {
  if (document.hidden) return;
  banner.show(frame, feed.silence);
  setText(byId("age"), frame ? `Last frame ${age((Date.now() - frame.at) / 1000)} ago` : "");
}, 1000);
document.addEventListener("visibilitychange", draw);

const THEMES = ["system", "light", "dark"];
function theme(step) {
  const root = document.documentElement;
  const at = (THEMES.indexOf(root.dataset.theme ?? "system") + step) % THEMES.length;
  if (at) root.dataset.theme = THEMES[at];
  else delete root.dataset.theme;
  if (at) localStorage.setItem("headrace-theme", THEMES[at]);
  else localStorage.removeItem("headrace-theme");
  setText(byId("theme"), `Theme: ${THEMES[at]}`);
  themeChanged();
}
byId("theme").addEventListener("click", () => theme(1));
theme(0);

// The room that is in view is the current one of the navigation.
const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
const inView = new Set();
const spy = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) inView.add(entry.target.id);
    else inView.delete(entry.target.id);
  }
  const first = [...links.keys()].find((id) => inView.has(id));
  for (const [id, link] of links) {
    if (id === first) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}, { rootMargin: "-70px 0px -55% 0px" });
for (const id of links.keys()) spy.observe(byId(id));

get("/api/about").then((about) => {
  setText(byId("name"), about.name);
  rooms.letters.actions = about.actions;
  rooms.letters.read();
});
begin();
