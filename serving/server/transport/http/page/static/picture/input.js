// Where the picture comes from: a file that is chosen, dropped or pasted, an example, or the pad.

import { byId, bytes } from "../dom.js";
import { Examples } from "./examples.js";
import { Pad } from "./pad.js";

const PIXELATED = 96; // pixels: a smaller picture is shown with sharp pixels

export class PictureInput {
  /** @param {() => void} onPicture called when there is another picture. */
  constructor(onPicture) {
    this.onPicture = onPicture;
    this.blob = null;
    this.name = "";
    this.examples = new Examples((blob, name) => this.show(blob, name));
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

  /** Show a picture of a file, and take it. */
  show(blob, name) {
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
    this.take(blob, name);
  }

  take(blob, name) {
    this.blob = blob;
    this.name = name;
    this.examples.mark(name);
    this.onPicture();
  }

  /** A person has chosen where the picture comes from: what is there is asked about again. */
  turnTo(source) {
    this.turn(source);
    if (source === "pad") this.pad.send();
    else if (this.name === "drawing.png") this.examples.pick();
  }

  turn(source) {
    for (const radio of document.getElementsByName("source")) radio.checked = radio.value === source;
    byId("from-file").hidden = source !== "file";
    byId("from-pad").hidden = source !== "pad";
  }
}
