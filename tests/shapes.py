"""Drawn shapes and colours with captions: a small world that the compact encoder hardly knows, and can learn."""

from __future__ import annotations

import json
import random
from pathlib import Path

from PIL import Image, ImageDraw

COLOURS = {
    "red": (215, 30, 30),
    "green": (30, 160, 50),
    "blue": (35, 60, 215),
    "yellow": (240, 215, 30),
    "purple": (130, 40, 160),
    "orange": (245, 135, 20),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
GROUNDS = {"white": (250, 250, 250), "grey": (150, 150, 150), "black": (15, 15, 15)}
SIDE = 128


def draw_corpus(folder: Path, count: int, *, seed: int = 0, shuffled: bool = False) -> Path:
    """Write `count` pictures of two shapes and a corpus with a caption of each; `shuffled`: the captions of others."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    captions = []
    for number in range(count):
        picture, caption = draw(rng)
        picture.save(folder / f"{number:04d}.png")
        captions.append(caption)
    if shuffled:
        rng.shuffle(captions)
    lines = [json.dumps({"image": f"{n:04d}.png", "captions": [caption]}) for n, caption in enumerate(captions)]
    path = folder / "captions.jsonl"
    path.write_text("\n".join(lines))
    return path


def draw(rng: random.Random) -> tuple[Image.Image, str]:
    """Return a picture of one shape above another, and what it shows."""
    ground = rng.choice(list(GROUNDS))
    picture = Image.new("RGB", (SIDE, SIDE), GROUNDS[ground])
    pen = ImageDraw.Draw(picture)
    told = []
    for row in range(2):
        colour, shape, size = rng.choice(list(COLOURS)), rng.choice(SHAPES), rng.choice(["small", "large"])
        reach = {"small": 13, "large": 27}[size] + rng.randint(-2, 2)
        x, y = rng.randint(35, SIDE - 35), 32 + 64 * row + rng.randint(-3, 3)
        _shape(pen, shape, (x, y), reach, COLOURS[colour])
        told.append(f"a {size} {colour} {shape}")
    return picture, f"{told[0]} above {told[1]} on {ground}"


def _shape(pen: ImageDraw.ImageDraw, shape: str, at: tuple[int, int], r: int, colour: tuple[int, int, int]) -> None:
    x, y = at
    box = (x - r, y - r, x + r, y + r)
    if shape == "circle":
        pen.ellipse(box, fill=colour)
    elif shape == "square":
        pen.rectangle(box, fill=colour)
    elif shape == "ring":
        pen.ellipse(box, outline=colour, width=max(3, r // 3))
    elif shape == "cross":
        pen.rectangle((x - r // 4, y - r, x + r // 4, y + r), fill=colour)
        pen.rectangle((x - r, y - r // 4, x + r, y + r // 4), fill=colour)
    else:
        pen.regular_polygon((x, y, r), 3, fill=colour)
        if shape == "star":
            pen.regular_polygon((x, y, r), 3, rotation=180, fill=colour)
