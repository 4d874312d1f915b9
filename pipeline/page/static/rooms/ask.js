// A question to the model: a form of the features, and the answer with the version that gave it.

import { bar, byId, el, empty, setHidden } from "../dom.js";
import { number, percent, plain, whole } from "../format.js";
import { get } from "../api.js";

export class Ask {
  #fields = new Map();
  #isRead = false;
  #scope = "partition";

  constructor() {
    byId("ask-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    byId("ask-last").addEventListener("click", () => this.read(true));
  }

  show(frame) {
    if (!this.#isRead && frame.counts?.records) {
      this.#isRead = true;
      this.read(false);
    }
    const nothing = "The form comes from the schema, or from the first record. Send one: `headrace produce sample.jsonl`";
    empty(byId("ask-empty"), this.#fields.size ? "" : nothing);
    setHidden(byId("ask-send").parentElement, !this.#fields.size);
    setHidden(byId("ask-last"), !frame.counts?.records);
  }

  async read(isFilling) {
    const told = await get("/api/ask/form").catch(() => null);
    if (!told || !Object.keys(told.fields).length) {
      this.#isRead = false;
      return;
    }
    this.#scope = told.scope;
    if (isFilling || !this.#fields.size) this.#build(told);
  }

  #build({ fields, key }) {
    this.#fields.clear();
    const nodes = Object.entries(fields).map(([name, field]) => this.#field(name, field));
    this.key = el("input", { type: "text", value: key ?? "", placeholder: this.#scope === "key" ? "" : "any" });
    const title = this.#scope === "key" ? "required" : "optional";
    byId("ask-fields").replaceChildren(el("label", {}, el("span", {}, el("b", {}, "Kafka key"), title), this.key), ...nodes);
  }

  #field(name, field) {
    const options = field.values ?? (field.type === "boolean" ? ["true", "false"] : null);
    const value = field.value === null ? "" : String(field.value);
    const input = options
      ? el("select", {}, ["", ...options].map((text) => el("option", { value: text, selected: text === value }, text || "–")))
      : el("input", { type: "text", value, inputMode: field.type === "string" ? "text" : "decimal" });
    this.#fields.set(name, { input, field });
    return el("label", {}, el("span", {}, el("b", { title: name }, name), field.type), input);
  }

  #features() {
    const features = {};
    this.key.removeAttribute("aria-invalid");
    for (const [name, { input, field }] of this.#fields) {
      input.removeAttribute("aria-invalid");
      const text = input.value;
      if (text === "") continue;
      if (field.type === "boolean") features[name] = text === "true";
      else if (field.type === "string") features[name] = text;
      // What is no number is sent as it is: the answer says what a record with it would come to.
      else features[name] = Number.isFinite(Number(text)) && text.trim() !== "" ? Number(text) : text;
    }
    return features;
  }

  async #send() {
    const button = byId("ask-send");
    button.disabled = true;
    const query = new URLSearchParams({ features: JSON.stringify(this.#features()), key: this.key.value });
    try {
      this.#answer(await get(`/api/ask?${query}`));
    } catch (error) {
      const named = (error.field ?? "").replace(/^.*?features\./, "");
      const input = this.#fields.get(named)?.input ?? (named === "key" ? this.key : null);
      input?.setAttribute("aria-invalid", "true");
      byId("answer").replaceChildren(el("div", { class: "answer" }, el("p", { class: "wrong" }, error.message), el("p", { class: "note" }, [error.code, error.hint].filter(Boolean).join(" · "))));
    } finally {
      button.disabled = false;
    }
  }

  #answer(told) {
    const shares = Object.entries(told.proba ?? {}).sort(([, one], [, other]) => other - one).slice(0, 8);
    const { model } = told;
    const offsets = Object.entries(model.offsets ?? { [model.partition]: model.offset });
    const isScore = told.score !== undefined && (told.prediction ?? null) === null;
    const facts = [
      ...(told.score !== undefined && !isScore ? [["Score", number(told.score)]] : []),
      ["Model", model.version ? `${model.name}, version ${whole(model.version)}` : `${model.name}, a new one that has learned nothing`],
      ["Learned up to", offsets.slice(0, 4).map(([partition, offset]) => `${partition}:${offset}`).join(", ") + (offsets.length > 4 ? `, and ${offsets.length - 4} more` : "")],
      ["Answered by", told.by],
      ...(model.stale ? [["Stale", `the store confirmed this version ${number(model.age_ms / 1000, 1)} s ago`]] : []),
      ["Took", `${number(told.took_ms, 3)} ms`],
    ];
    byId("answer").replaceChildren(el("div", { class: "answer" },
      el("p", { class: "note" }, isScore ? "Score" : "Prediction"),
      el("p", { class: "big" }, plain(isScore ? told.score : told.prediction)),
      el("div", { class: "shares" }, shares.flatMap(([label, share]) => [el("span", {}, label), bar(share), el("span", {}, percent(share))])),
      el("dl", { class: "facts" }, facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]))));
  }
}
