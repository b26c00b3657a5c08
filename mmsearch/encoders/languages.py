"""What an encoder cannot read, told by the letters of a text."""

from __future__ import annotations

import unicodedata

MULTILINGUAL_ADVICE = (
    "other languages need a multilingual OpenCLIP model such as xlm-roberta-base-ViT-B-32 (laion5b_s13b_b90k)."
)


def is_foreign(text: str) -> bool:
    """Return True when a text has letters and none of them is Latin."""
    letters = [char for char in text if char.isalpha()]
    return bool(letters) and not any(_is_latin(char) for char in letters)


def foreign_share(text: str) -> float:
    """Return the share of the letters of a text that are of another script than the Latin one; 0 without letters."""
    letters = [char for char in text if char.isalpha()]
    return sum(not _is_latin(char) for char in letters) / len(letters) if letters else 0.0


def _is_latin(char: str) -> bool:
    return unicodedata.name(char, "").startswith("LATIN")
