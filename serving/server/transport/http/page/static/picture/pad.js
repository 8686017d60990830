// The pad to draw on: white on black, sent as a picture of 28 x 28 pixels.

import { byId } from "../dom.js";

const SENT = 28;

export class Pad {
  /** @param {(blob: Blob, name: string) => void} onPicture called after each stroke. */
  constructor(onPicture) {
    this.onPicture = onPicture;
    this.canvas = byId("pad");
    this.context = this.canvas.getContext("2d", { alpha: false });
    this.strokes = []; // each a width and its points
    this.canvas.addEventListener("pointerdown", (event) => this.begin(event));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) this.canvas.addEventListener(end, (event) => this.end(event));
    byId("undo").addEventListener("click", () => this.change(() => this.strokes.pop()));
    byId("clear").addEventListener("click", () => this.change(() => (this.strokes = [])));
    this.draw();
  }

  begin(event) {
    if (event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.stroke = { width: Number(byId("brush").value), points: [this.point(event)] };
    this.strokes.push(this.stroke);
    this.draw();
  }

  move(event) {
    if (!this.stroke) return;
    const between = event.getCoalescedEvents?.() ?? []; // the points since the last event, in browsers that have them
    this.stroke.points.push(...(between.length ? between : [event]).map((each) => this.point(each)));
    this.draw();
  }

  end() {
    if (!this.stroke) return;
    this.stroke = null;
    this.send();
  }

  change(edit) {
    edit();
    this.draw();
    if (this.strokes.length) this.send();
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = this.canvas.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  }

  draw() {
    const { context, canvas } = this;
    context.fillStyle = "black";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.strokeStyle = "white";
    context.lineCap = context.lineJoin = "round";
    for (const { width, points } of this.strokes) {
      context.lineWidth = width;
      context.beginPath();
      context.moveTo(...points[0]);
      for (const point of points.length > 1 ? points : [points[0]]) context.lineTo(...point);
      context.stroke();
    }
    byId("pad-hint").hidden = this.strokes.length > 0;
  }

  /** Send what is drawn, if anything is. */
  send() {
    if (!this.strokes.length) return;
    const small = document.createElement("canvas");
    small.width = small.height = SENT;
    const context = small.getContext("2d", { alpha: false });
    context.imageSmoothingQuality = "high";
    context.drawImage(this.canvas, 0, 0, SENT, SENT);
    small.toBlob((blob) => this.onPicture(blob, "drawing.png"), "image/png");
  }
}
