// The chips that choose which models answer.

import { byId, make, percent, style } from "../dom.js";
import { accuracy } from "./catalog.js";

const FIRST_CHOICE = 3; // models that are chosen before anybody has chosen

export class Chooser {
  /** @param {() => void} onChange called when a person chooses. */
  constructor(onChange) {
    this.onChange = onChange;
    this.models = [];
    this.names = null; // ids of the chosen models; null until a person has chosen
  }

  /** The chosen models, in the order of the chips. */
  get chosen() {
    const ids = this.names ?? new Set(this.defaults().map((model) => model.id));
    return this.models.filter((model) => ids.has(model.id));
  }

  defaults() {
    const current = this.models.filter((model) => model.isDefault);
    const ranking = current.filter((model) => !model.multiLabel);
    const [first, ...others] = ranking.length ? ranking : current;
    if (!first) return [];
    const labels = (model) => model.facts["hangtag.labels"];
    // A picture rarely suits models of other labels.
    return [first, ...others.filter((model) => labels(model) === labels(first))].slice(0, FIRST_CHOICE);
  }

  /** Show the models that classify pictures. Those chosen before stay chosen. */
  show(models) {
    this.models = models.filter((model) => model.classifies);
    const chosen = new Set(this.chosen.map((model) => model.id));
    byId("chooser").replaceChildren(
      byId("chooser").querySelector("legend"),
      ...this.models.map((model) => this.chip(model, chosen.has(model.id))),
    );
  }

  chip(model, checked) {
    const rate = accuracy(model);
    const input = make("input", { type: "checkbox", value: model.id, checked, onchange: () => this.choose() });
    const chip = make(
      "label",
      { title: rate ? `${rate.name} ${percent(rate.value, 2)}` : undefined },
      input,
      make("span", {}, make("i", {}), model.id, rate && make("small", {}, percent(rate.value))),
    );
    return style(chip, { "--series": model.colour });
  }

  choose() {
    this.names = new Set([...byId("chooser").querySelectorAll("input:checked")].map((input) => input.value));
    this.onChange();
  }
}
