// The example pictures that the server has.

import { byId, make } from "../dom.js";
import { call } from "../server.js";

const GARMENTS = {
  "t-shirt-top-2": "T-shirt/top", // first, because models disagree about it
  "pullover-2": "Pullover",
  "ankle-boot-2": "Ankle boot",
  "shirt-1": "Shirt",
  "coat-1": "Coat",
  "dress-1": "Dress",
  "trouser-1": "Trouser",
  "sandal-2": "Sandal",
  "sneaker-1": "Sneaker",
  "bag-1": "Bag",
};
const OUTFITS = {
  "1-pullover-coat-sandal": "Pullover, coat, sandal",
  "2-t-shirt-top-dress-sandal-bag": "T-shirt, dress, sandal, bag",
};

export class Examples {
  /** @param {(blob: Blob, name: string) => void} onPicture called with the example that a person picks. */
  constructor(onPicture) {
    this.onPicture = onPicture;
    this.blobs = new Map(); // by the file's name, in the order of the buttons
  }

  /** Offer garments where a model takes one, and outfits where a model takes several. Loads them, so that none of them
   * takes a connection when models are asked. */
  async show(models) {
    const classifiers = models.filter((model) => model.classifies);
    const outfits = classifiers.some((model) => model.multiLabel);
    const garments = !outfits || classifiers.some((model) => !model.multiLabel);
    const offered = Object.entries({ ...(garments && GARMENTS), ...(outfits && OUTFITS) });
    if (offered.map(([name]) => `${name}.png`).join() === [...this.blobs.keys()].join()) return;
    const load = async ([name]) => [`${name}.png`, await (await call(`page/examples/${name}.png`)).blob()];
    this.blobs = new Map(await Promise.all(offered.map(load)));
    byId("examples").classList.toggle("outfits", outfits);
    byId("examples").replaceChildren(...offered.map(([name, label]) => this.button(`${name}.png`, label)));
  }

  button(name, label) {
    const image = make("img", { src: URL.createObjectURL(this.blobs.get(name)), alt: label, width: 28, height: 28 });
    const properties = { type: "button", title: label, "aria-pressed": "false", "data-name": name };
    return make("button", { ...properties, onclick: () => this.pick(name) }, image);
  }

  /** Take an example, by default the first. */
  pick(name = [...this.blobs.keys()][0]) {
    this.onPicture(this.blobs.get(name), name);
  }

  /** Mark the example that is shown; "" for none. */
  mark(name) {
    for (const button of byId("examples").children) button.setAttribute("aria-pressed", button.dataset.name === name);
  }
}
