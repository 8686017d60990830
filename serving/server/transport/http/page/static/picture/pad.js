// The pad to draw on, with a pointer or with keys. The drawing is sent in the size of the model's pictures.

import { byId, style } from "../dom.js";

const LONGEST = 336; // the canvas's longer edge
const STEP = 12; // of the pen for one key, in the canvas's pixels
const ARROWS = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
export const DRAWING = "drawing.png";
const BLACK = "#000000";
const WHITE = "#ffffff";

export class Pad {
  /** @param {(blob: Blob, name: string) => void} onPicture called after each stroke. */
  constructor(onPicture) {
    this.onPicture = onPicture;
    this.canvas = byId("pad");
    this.context = this.canvas.getContext("2d", { alpha: false });
    this.canvas.addEventListener("pointerdown", (event) => this.begin(event));
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel", "blur"]) this.canvas.addEventListener(end, () => this.end());
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    byId("undo").addEventListener("click", () => this.change(() => this.strokes.pop()));
    byId("clear").addEventListener("click", () => this.change(() => (this.strokes = [])));
    this.fit({ width: 28, height: 28, channels: 1, isDark: true });
  }

  /** Take the form of a model's pictures. A drawing of another form, or on other paper, is given up. */
  fit(image) {
    const { width, height, channels, isDark } = image;
    if (JSON.stringify(image) === this.form) return;
    this.form = JSON.stringify(image);
    const scale = LONGEST / Math.max(width, height);
    const paper = isDark ? BLACK : WHITE;
    const [wide, high] = [Math.round(width * scale), Math.round(height * scale)];
    const isSame = this.paper === paper && this.canvas.width === wide && this.canvas.height === high;
    if (!isSame) {
      [this.canvas.width, this.canvas.height] = [wide, high];
      this.strokes = []; // each a colour, a width and its points
      this.pen = [wide / 2, high / 2]; // where keys draw
      byId("ink").value = isDark ? WHITE : BLACK;
    }
    [this.paper, this.width, this.height, this.isColour] = [paper, width, height, channels === 3];
    style(byId("paper"), { width: `${(100 * wide) / LONGEST}%`, height: `${(100 * high) / LONGEST}%` });
    byId("ink").hidden = !this.isColour;
    const tones = this.isColour ? "in colour" : isDark ? "white on black" : "black on white";
    byId("pad-about").textContent = `Sent as a picture of ${width} × ${height} pixels, ${tones}.`;
    this.draw();
  }

  begin(event) {
    if (event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.start(this.point(event));
  }

  start(point) {
    const colour = this.isColour ? byId("ink").value : this.paper === BLACK ? WHITE : BLACK;
    this.stroke = { colour, width: Number(byId("brush").value), points: [point] };
    this.strokes.push(this.stroke);
    this.draw();
  }

  /** Arrows move the pen; the space bar sets it down, and lifts it. */
  key(event) {
    const step = ARROWS[event.key];
    if (!step && event.key !== " ") return;
    event.preventDefault(); // the page would scroll
    if (!step) return this.stroke ? this.end() : this.start(this.pen);
    const ends = [this.canvas.width, this.canvas.height];
    this.pen = this.pen.map((place, axis) => Math.min(Math.max(place + step[axis], 0), ends[axis]));
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
    context.fillStyle = this.paper;
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.lineCap = context.lineJoin = "round";
    for (const { colour, width, points } of this.strokes) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.beginPath();
      context.moveTo(...points[0]);
      for (const point of points.length > 1 ? points : [points[0]]) context.lineTo(...point);
      context.stroke();
    }
    const [x, y] = this.pen;
    const place = { left: `${(100 * x) / canvas.width}%`, top: `${(100 * y) / canvas.height}%` };
    style(byId("pen"), place).classList.toggle("down", Boolean(this.stroke));
    byId("pad-hint").hidden = this.strokes.length > 0;
  }

  /** Send what is drawn; false where nothing is. */
  send() {
    if (!this.strokes.length) return false;
    const small = document.createElement("canvas");
    [small.width, small.height] = [this.width, this.height];
    const context = small.getContext("2d", { alpha: false });
    context.imageSmoothingQuality = "high";
    context.drawImage(this.canvas, 0, 0, this.width, this.height);
    small.toBlob((blob) => this.onPicture(blob, DRAWING), "image/png");
    return true;
  }
}
