// The pad to draw on, with a pointer or with keys: white on black, sent as a picture of 28 x 28 pixels.

import { byId, style } from "../dom.js";

const SENT = 28;
const STEP = 12; // of the pen for one key, in the canvas's pixels: one pixel of what is sent
const ARROWS = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };

export class Pad {
  /** @param {(blob: Blob, name: string) => void} onPicture called after each stroke. */
  constructor(onPicture) {
    this.onPicture = onPicture;
    this.canvas = byId("pad");
    this.context = this.canvas.getContext("2d", { alpha: false });
    this.strokes = []; // each a width and its points
    this.canvas.addEventListener("pointerdown", (event) => this.begin(event));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel", "blur"]) this.canvas.addEventListener(end, () => this.end());
    this.pen = [this.canvas.width / 2, this.canvas.height / 2]; // where keys draw
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    byId("undo").addEventListener("click", () => this.change(() => this.strokes.pop()));
    byId("clear").addEventListener("click", () => this.change(() => (this.strokes = [])));
    this.draw();
  }

  begin(event) {
    if (event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.start(this.point(event));
  }

  start(point) {
    this.stroke = { width: Number(byId("brush").value), points: [point] };
    this.strokes.push(this.stroke);
    this.draw();
  }

  /** Arrows move the pen; the space bar sets it down, and lifts it. */
  key(event) {
    const step = ARROWS[event.key];
    if (!step && event.key !== " ") return;
    event.preventDefault(); // the page would scroll
    if (!step) return this.stroke ? this.end() : this.start(this.pen);
    this.pen = this.pen.map((place, axis) => Math.min(Math.max(place + step[axis], 0), this.canvas.width));
    this.stroke?.points.push(this.pen);
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
    this.draw();
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
    const [left, top] = this.pen.map((place) => `${(100 * place) / canvas.width}%`);
    style(byId("pen"), { left, top }).classList.toggle("down", Boolean(this.stroke));
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
