"""Draw a small data set of traffic signs for docs/tutorial.md: a folder of PNG files for each kind of sign.

    python examples/signs.py signs

The pictures differ in size, position, rotation, light and background, and some are blurred or noisy, so that a network
has something to learn.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

RED, BLUE, YELLOW, WHITE, GREY = (190, 25, 35), (30, 80, 170), (240, 190, 30), (240, 240, 235), (110, 110, 115)
SIGNS = {
    "no-entry": (0, [(1.0, RED)], "bar"),
    "parking": (4, [(1.0, BLUE)], "P"),
    "priority": (4, [(1.0, WHITE), (0.75, YELLOW)], ""),
    "speed-limit": (0, [(1.0, RED), (0.75, WHITE)], "30"),
    "yield": (3, [(1.0, RED), (0.6, WHITE)], ""),
}
"""The kind of a sign -> the number of its corners (0 for a circle), its rings (each a share of the radius and a
colour), and the symbol on it."""
_FINE = 4  # signs are drawn this many times larger and then scaled down, so that edges are smooth


def main() -> None:
    """Read the arguments, and draw."""
    parser = argparse.ArgumentParser(description="Draw pictures of traffic signs, a folder for each kind.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--each", type=int, default=120, help="the number of pictures of each kind (default: 120)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = np.random.default_rng(arguments.seed)
    for kind in SIGNS:
        folder = arguments.folder / kind
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(arguments.each):
            draw(kind, chance).save(folder / f"{number:03}.png")


def draw(kind: str, chance: np.random.Generator) -> Image.Image:
    """Draw one picture of a sign, with random details."""
    corners, rings, symbol = SIGNS[kind]
    width, height = (int(chance.integers(40, 73)) for _ in range(2))
    ground = tuple(chance.integers(40, 200, 3).tolist())
    picture = Image.new("RGB", (_FINE * width, _FINE * height), ground)
    pen = ImageDraw.Draw(picture)
    radius = float(chance.uniform(0.34, 0.48)) * min(picture.size)
    x, y = (float(chance.uniform(radius, edge - radius)) for edge in picture.size)
    pen.rectangle([x - radius / 12, y, x + radius / 12, picture.height], GREY)
    for part, colour in rings:
        if corners == 0:
            edge = part * radius
            pen.ellipse([x - edge, y - edge, x + edge, y + edge], colour)
        else:
            pen.regular_polygon((x, y, part * radius), corners, _rotation(kind), colour)
    if symbol == "bar":
        pen.rectangle([x - 0.65 * radius, y - 0.18 * radius, x + 0.65 * radius, y + 0.18 * radius], WHITE)
    elif symbol:
        pen.text((x, y), symbol, WHITE if symbol == "P" else "black", font_size=0.9 * radius, anchor="mm")
    picture = picture.rotate(float(chance.uniform(-12, 12)), Image.Resampling.BILINEAR, fillcolor=ground)
    picture = picture.resize((width, height), Image.Resampling.BOX)
    picture = picture.filter(ImageFilter.GaussianBlur(float(chance.uniform(0, 1.2))))
    light, noise = chance.uniform(0.5, 1.1), chance.normal(0, chance.uniform(2, 15), (height, width, 1))
    return Image.fromarray((light * np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))


def _rotation(kind: str) -> float:
    """Return the angle, in degrees, by which to rotate a sign. By default, Pillow draws squares with horizontal and
    vertical sides, and triangles that point upwards."""
    return {"priority": 45, "yield": 180}.get(kind, 0)


if __name__ == "__main__":
    main()
