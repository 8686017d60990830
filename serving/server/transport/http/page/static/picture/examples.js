// The example pictures: those in the models' files, and for models of garments without any, those that the server has.

import { byId, make } from "../dom.js";
import { call, callJson } from "../server.js";

const GARMENTS = {
  "shirt-1": "Shirt", // first, because all models that ship answer it rightly, and none is certain
  "pullover-2": "Pullover", // cnn-small takes it for a shirt
  "coat-1": "Coat",
  "dress-1": "Dress",
  "trouser-1": "Trouser",
  "sandal-2": "Sandal",
  "sneaker-1": "Sneaker",
  "bag-1": "Bag",
  "t-shirt-top-2": "T-shirt/top", // the models disagree about it
  "ankle-boot-2": "Ankle boot", // all take it for a sandal
};
const OUTFITS = {
  "1-pullover-coat-sandal": "Pullover, coat, sandal",
  "2-t-shirt-top-dress-sandal-bag": "T-shirt, dress, sandal, bag",
};
const FEW = 10; // examples, for which buttons are larger

/**
 * A picture to try.
 * @typedef {Object} Example
 * @property {string} name of its file.
 * @property {string} label the right one.
 * @property {Blob} blob
 * @property {string} content the same for equal pictures.
 */

export class Examples {
  /** @param {(blob: Blob, name: string) => void} onPicture called with the example that a person picks. */
  constructor(onPicture) {
    this.onPicture = onPicture;
    this.known = new Map(); // a promise of Example[], by the model's name and version
    this.offered = []; // in the order of the buttons
  }

  /** Offer the examples of these models, each picture once. They are loaded before models are asked, so that none of
   * them takes a connection then. */
  async show(models) {
    const found = (await Promise.all(models.map((model) => this.of(model)))).flat();
    const offered = [...new Map(found.map((example) => [example.content, example])).values()];
    if (offered.map(({ content }) => content).join() === this.offered.map(({ content }) => content).join()) return;
    for (const image of byId("examples").querySelectorAll("img")) URL.revokeObjectURL(image.src);
    this.offered = offered;
    byId("examples").classList.toggle("many", offered.length > FEW);
    byId("examples").replaceChildren(...offered.map((example) => this.button(example)));
  }

  of(model) {
    const key = `${model.name}@${model.version}`;
    if (!this.known.has(key)) {
      const examples = load(model);
      examples.catch(() => this.known.delete(key)); // to be tried again, perhaps with a token
      this.known.set(key, examples);
    }
    return this.known.get(key);
  }

  button({ name, label, blob }) {
    const image = make("img", { src: URL.createObjectURL(blob), alt: label, width: 28, height: 28 });
    const properties = { type: "button", title: label, "aria-pressed": "false", "data-name": name };
    return make("button", { ...properties, onclick: () => this.pick(name) }, image);
  }

  /** Take an example, by default the first; false where there is none. */
  pick(name = this.offered[0]?.name) {
    const example = this.offered.find((each) => each.name === name);
    if (example) this.onPicture(example.blob, name);
    return Boolean(example);
  }

  has(name) {
    return this.offered.some((each) => each.name === name);
  }

  /** Mark the example that is shown; "" for none. */
  mark(name) {
    for (const button of byId("examples").children) button.setAttribute("aria-pressed", button.dataset.name === name);
  }
}

/** @returns {Promise<Example[]>} */
async function load(model) {
  const { examples } = await callJson(`v1/examples/${encodeURIComponent(model.id)}`);
  if (examples.length) return examples.map((example, place) => decoded(example, `${model.name}-${place + 1}.png`));
  if (model.image.fit !== "garment") return [];
  return Promise.all(Object.entries(model.multiLabel ? OUTFITS : GARMENTS).map(shipped));
}

function decoded({ label, png }, name) {
  const bytes = Uint8Array.from(atob(png), (character) => character.charCodeAt(0));
  return { name, label, blob: new Blob([bytes], { type: "image/png" }), content: png };
}

async function shipped([name, label]) {
  const path = `page/examples/${name}.png`;
  return { name: `${name}.png`, label, blob: await (await call(path)).blob(), content: path };
}
