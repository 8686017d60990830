// Where the picture comes from: a file that is chosen, dropped or pasted, an example, or the pad.

import { byId, bytes } from "../dom.js";
import { Examples } from "./examples.js";
import { DRAWING, Pad } from "./pad.js";

const PIXELATED = 96; // pixels: a smaller picture is shown with sharp pixels

export class PictureInput {
  /** @param {() => void} onPicture called when there is another picture. */
  constructor(onPicture) {
    this.onPicture = onPicture;
    this.blob = null;
    this.name = "";
    this.example = ""; // the name of the example that is shown
    this.examples = new Examples((blob, name) => this.show(blob, name, name));
    this.pad = new Pad((blob, name) => this.take(blob, name));
    byId("file").addEventListener("change", ({ target }) => {
      this.showFile(target.files[0]);
      target.value = ""; // so that the same file can be chosen again
    });
    document.addEventListener("paste", ({ clipboardData }) => this.showFile(clipboardData.files[0]));
    for (const source of document.getElementsByName("source")) {
      source.addEventListener("change", () => this.turnTo(source.value));
    }
    this.acceptDrops();
  }

  acceptDrops() {
    const mark = (dragged) => document.body.classList.toggle("dragged", dragged);
    document.addEventListener("dragover", (event) => {
      event.preventDefault();
      mark(event.dataTransfer.types.includes("Files"));
    });
    document.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) mark(false); // it left the window, and not one element for another
    });
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      mark(false);
      this.showFile(event.dataTransfer.files[0]);
    });
  }

  showFile(file) {
    if (file) this.show(file, file.name || "picture.png");
  }

  /** Offer the examples of models, and draw as the first of them sees. A picture that is none of these models' is
   * replaced by one of theirs.
   * @returns {Promise<boolean>} whether there is another picture, so that the models are asked already. */
  async showFor(models) {
    await this.examples.show(models);
    if (models.length) this.pad.fit(models[0].image);
    if (this.name === DRAWING) {
      if (this.pad.send()) return true;
      this.forget();
    } else if (models.length && (!this.blob || (this.example && !this.examples.has(this.example)))) {
      if (this.examples.pick()) return true;
      this.forget();
    }
    this.examples.mark(this.example);
    return false;
  }

  /** Show no picture. */
  forget() {
    this.blob = null;
    this.name = this.example = "";
    byId("preview").hidden = byId("caption").hidden = true;
  }

  /** Show a picture of a file, and take it. */
  show(blob, name, example = "") {
    this.turn("file");
    const preview = byId("preview");
    URL.revokeObjectURL(preview.src);
    preview.onload = () => {
      const { naturalWidth: width, naturalHeight: height } = preview;
      preview.classList.toggle("pixelated", Math.max(width, height) <= PIXELATED);
      byId("about").textContent = `${name}, ${width} × ${height}, ${bytes(blob.size)}`;
    };
    preview.onerror = () => {
      preview.hidden = true; // the server says what is wrong with the file
      byId("about").textContent = `${name}, ${bytes(blob.size)}`;
    };
    preview.alt = name;
    byId("caption").hidden = false;
    preview.hidden = false;
    preview.src = URL.createObjectURL(blob);
    this.take(blob, name, example);
  }

  take(blob, name, example = "") {
    this.blob = blob;
    this.name = name;
    this.example = example;
    this.examples.mark(example);
    this.onPicture();
  }

  /** A person has chosen where the picture comes from: what is there is asked about again. */
  turnTo(source) {
    this.turn(source);
    if (source === "pad") this.pad.send();
    else if (this.name === DRAWING && !this.examples.pick()) {
      this.forget();
      this.onPicture();
    }
  }

  turn(source) {
    for (const radio of document.getElementsByName("source")) radio.checked = radio.value === source;
    byId("from-file").hidden = source !== "file";
    byId("from-pad").hidden = source !== "pad";
  }
}
