// The answers side by side: labels with their probabilities, and what each answer cost.

import { byId, make, milliseconds, percent, style } from "./dom.js";
import { classify } from "./server.js";
import { isRoute, whoAnswered } from "./models/routes.js";

// The page is painted before it asks: the work of painting would be taken for the network's.
const PAINT_MS = 40;

/**
 * A part of an answer's time.
 * @typedef {Object} Part
 * @property {string} kind preprocess, queue, compute or network; its colour goes by it.
 * @property {string} name
 * @property {number} ms
 */

export class Answers {
  constructor() {
    this.calls = new AbortController();
    this.costs = new Map(); // Part[] of each card
  }

  /**
   * Ask models about a picture, one after another: models that compute at the same time would slow each other down,
   * and their times could not be compared. A further question ends this one.
   * @returns {Promise<CallError|null>} what the last model that failed failed with.
   */
  async ask(models, picture) {
    this.calls.abort();
    const { signal } = (this.calls = new AbortController());
    this.costs.clear();
    const cards = this.lay(models);
    let failure = null;
    await new Promise((resolve) => setTimeout(resolve, PAINT_MS));
    for (const model of models) {
      try {
        const { answer, roundTrip } = await classify(model.id, picture, signal);
        cards.get(model.id).replaceChildren(...this.answered(cards.get(model.id), model, answer, roundTrip));
      } catch (error) {
        if (error.name === "AbortError") return null;
        failure = error;
        cards.get(model.id).dataset.summary = `${model.id}: no answer`;
        cards.get(model.id).replaceChildren(...failed(model, error));
      }
      cards.get(model.id).removeAttribute("aria-busy");
    }
    this.compareTimes();
    byId("summary").textContent = [...cards.values()].map((card) => card.dataset.summary).join(". ");
    return failure;
  }

  /** Say why there is nothing to ask. */
  explain(text) {
    this.calls.abort();
    byId("legend").hidden = true;
    byId("answers").replaceChildren(make("p", { class: "card nothing muted" }, text));
  }

  /** Show that models are about to be asked. */
  wait(models) {
    this.calls.abort();
    this.lay(models);
  }

  /** Lay a card for each model. A model's card keeps what it shows until the new answer is there. */
  lay(models) {
    const old = new Map([...byId("answers").children].map((card) => [card.dataset.model, card]));
    const cards = new Map(models.map((model) => [model.id, old.get(model.id) ?? waiting(model)]));
    for (const card of cards.values()) card.setAttribute("aria-busy", "true");
    byId("answers").replaceChildren(...cards.values());
    byId("legend").hidden = false;
    byId("distances").hidden = true;
    return cards;
  }

  answered(card, model, answer, roundTrip) {
    const cost = parts(answer.timings, roundTrip);
    this.costs.set(card, cost);
    const first = answer.labels[0];
    card.dataset.summary = `${model.id}: ${first ? `${first.label}, ${percent(first.probability)}` : "no label"}`;
    if (answer.labels.some((label) => label.distance > 0)) byId("distances").hidden = false;
    const isSet = answer.task === "TASK_MULTI_LABEL";
    return [
      heading(model, answer.model_version),
      isSet ? labelSet(answer) : ranking(answer.labels),
      whoAnswered(model, answer),
      times(cost, answer.timings),
    ].filter(Boolean);
  }

  /** Draw all times to one scale. */
  compareTimes() {
    const longest = Math.max(...[...this.costs.values()].map(total));
    for (const [card, cost] of this.costs) {
      const bars = card.querySelectorAll(".bar span");
      cost.forEach(({ ms }, place) => style(bars[place], { width: percent(ms / longest, 2) }));
    }
  }
}

function waiting(model) {
  const card = make(
    "article",
    { class: "card headline answer", "data-model": model.id, "data-summary": "" },
    heading(model, model.version),
    make("div", { class: "skeleton" }, ...Array.from({ length: 3 }, () => make("i"))),
  );
  return style(card, { "--series": model.colour });
}

function heading(model, version) {
  const kind = isRoute(model) ? " route" : ` version ${version}`;
  return make("h3", {}, make("span", { class: "model" }, model.name), make("span", { class: "muted small" }, kind));
}

/** The parts of a round trip in their order: of a route, those of each member that computed. */
function parts({ preprocess_ns, queue_ns, compute_ns, stages }, roundTrip) {
  const computed = stages.length > 1 ? stages : [{ model: "", queue_ns, compute_ns }];
  const known = [
    { kind: "preprocess", name: "decoding", ms: preprocess_ns / 1e6 },
    ...computed.flatMap((stage) => [
      { kind: "queue", name: `${stage.model} queue`.trim(), ms: stage.queue_ns / 1e6 },
      { kind: "compute", name: `${stage.model} compute`.trim(), ms: stage.compute_ns / 1e6 },
    ]),
  ];
  return [...known, { kind: "network", name: "network", ms: Math.max(0, roundTrip - total(known)) }];
}

const total = (cost) => cost.reduce((sum, { ms }) => sum + ms, 0);

function failed(model, error) {
  const status = error.status ? ` (${error.status})` : "";
  return [
    heading(model, model.version),
    make("div", { class: "refusal" }, make("b", {}, `No answer${status}`), make("p", {}, error.message)),
  ];
}

function ranking(labels) {
  return make(
    "ol",
    { class: "labels" },
    ...labels.map(({ label, probability, distance }, place) =>
      make(
        "li",
        {},
        make("span", { class: "name" }, label),
        make("span", { class: "share" }, percent(probability)),
        probabilityBar(probability),
        place > 0 && distance !== undefined
          ? make("span", { class: "small muted distance" }, `distance ${distance.toFixed(2)}`)
          : null,
      ),
    ),
  );
}

function labelSet({ labels, path_probability: pathProbability }) {
  const isPath = pathProbability !== undefined;
  const exactly = `In the order predicted. Exactly these labels: ${percent(pathProbability ?? 0)}`;
  const remark = isPath ? exactly : "All of these labels";
  return make(
    "div",
    {},
    make(
      "ol",
      { class: isPath ? "labels set path" : "labels set" },
      ...labels.map(({ label, probability }) =>
        make(
          "li",
          {},
          make("span", { class: "name" }, label),
          make("span", { class: "share" }, percent(probability)),
          probabilityBar(probability),
        ),
      ),
    ),
    make("p", { class: "small muted" }, labels.length ? remark : "None of its labels"),
  );
}

function probabilityBar(probability) {
  const bar = make("span", { class: "probability" }, make("i"));
  style(bar.firstChild, { width: percent(probability, 2) });
  return bar;
}

function times(cost, { batch_size, stages }) {
  const batchSize = stages.at(-1)?.batch_size ?? batch_size;
  return make(
    "div",
    { class: "times" },
    make(
      "p",
      {},
      make("b", {}, milliseconds(total(cost))),
      make("span", { class: "small muted" }, batchSize === 1 ? "computed alone" : `in a batch of ${batchSize}`),
    ),
    make("div", { class: "bar" }, ...cost.map(({ kind }) => make("span", { class: kind }))),
    make(
      "dl",
      { class: "small" },
      ...cost.flatMap(({ kind, name, ms }) => [
        make("dt", { class: `key ${kind}` }, name),
        make("dd", {}, milliseconds(ms)),
      ]),
    ),
  );
}
