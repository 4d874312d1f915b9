// The state of the stream in one line, and what to do about it.

import { byId, cmd, el, sentence, setHidden, setText } from "../dom.js";
import { age, count, rate, whole } from "../format.js";

const WORDS = { running: "Running", paused: "Paused", relearning: "Relearning", stopped: "Not running", unknown: "Unknown" };
const STALE_S = 5;

const banner = byId("banner");

export function show(frame, silence) {
  if (silence > STALE_S) return stale(frame, silence);
  document.documentElement.classList.remove("stale-figures");
  if (!frame) return undefined;
  const { banner: told } = frame;
  set(told.state, told.status === 503 ? `${WORDS.paused} 503` : WORDS[told.state], told.reason || summary(frame));
  const since = Math.max(0, Date.now() - told.since) / 1000;
  setText(byId("since"), told.since ? `for ${age(since < 10 ? Math.floor(since) : since).replace(".0 s", " s")}` : "");
  advice(told.words, told.command);
  faults([...told.warnings, ...told.faults]);
  return undefined;
}

function stale(frame, silence) {
  document.documentElement.classList.add("stale-figures");
  set("stale", `Stale ${age(silence)}`, "the page's server has sent nothing; the figures below are old");
  setText(byId("since"), "");
  advice("Check that it still runs. This page goes on by itself when it does.", "headrace page");
  faults([]);
}

function set(state, title, why) {
  banner.dataset.state = state;
  setText(byId("state"), title);
  if (byId("why").dataset.text !== why) {
    byId("why").dataset.text = why;
    byId("why").replaceChildren(...sentence(why));
  }
  const name = byId("name").textContent;
  const page = name ? `${name} · Headrace` : "Headrace";
  document.title = state === "running" ? page : `${title.replace(/ [\d].*/, "")} · ${page}`;
}

function summary(frame) {
  const { partitions, workers } = frame;
  if (frame.banner.state === "stopped") return frame.lag ? `${count(frame.lag, "record waits", "records wait")}` : "";
  const lag = frame.lag ? `${whole(frame.lag)} behind` : "nothing behind";
  return `${count(partitions.length, "partition", "partitions")} on ${count(workers.length, "worker", "workers")} · ${rate(frame.rates.records)} · ${lag}`;
}

function advice(words, command) {
  const node = byId("advice");
  setHidden(node, !words);
  const text = `${words}|${command}`;
  if (node.dataset.text === text) return;
  node.dataset.text = text;
  node.replaceChildren(...sentence(words), ...(command ? [" ", cmd(command)] : []));
}

function faults(lines) {
  const node = byId("faults");
  setHidden(node, !lines.length);
  const text = lines.join("\n");
  if (node.dataset.text === text) return;
  node.dataset.text = text;
  node.replaceChildren(...lines.map((line) => el("li", {}, sentence(line))));
}
