"""Captions with two words exchanged: negatives that hold the same words (NegCLIP, Yuksekgonul et al. 2023).

No list of nouns is needed: what stands at the end of a run between articles, prepositions and verb forms is one, and
what stands before it in the run qualifies it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from ..compact.phrases import BREAKS

COLOURS = ("black", "white", "red", "blue", "green", "yellow", "brown", "pink", "orange", "purple", "grey", "gray")
VERB_FORMS = ("ing", "ed")
ENDS_LIKE_A_VERB = "red bed shed sled building ceiling clothing king ring string wing"
NO_VERBS = frozenset(ENDS_LIKE_A_VERB.split())


@dataclass(frozen=True)
class Words:
    """A caption in pieces, and which of them are nouns and what qualifies them, by number."""

    pieces: list[str]
    nouns: list[int]
    qualifiers: list[int]

    @classmethod
    def of(cls, caption: str) -> Words:
        """Read a caption: "a brown dog on the wet grass" has the nouns dog, grass and the qualifiers brown, wet."""
        words = cls(re.findall(r"[A-Za-z][A-Za-z'-]*|[^A-Za-z]+", caption), [], [])
        run: list[int] = []
        for number, piece in enumerate([*words.pieces, "."]):
            if not piece[0].isalpha() and piece.isspace():
                continue
            word = piece.lower()
            is_verb = word.endswith(VERB_FORMS) and word not in NO_VERBS
            if piece[0].isalpha() and word not in BREAKS and not is_verb:
                run.append(number)
                continue
            words.nouns.extend(run[-1:])
            words.qualifiers.extend(run[:-1])
            run = []
        return words

    def exchanged(self, first: int, second: int) -> str:
        """Return the caption with two of its pieces exchanged."""
        pieces = list(self.pieces)
        pieces[first], pieces[second] = pieces[second], pieces[first]
        return "".join(pieces)


def swapped(caption: str, rng: np.random.Generator) -> dict[str, str]:
    """Return the caption with two "nouns" exchanged, with two "qualifiers" exchanged, and with another "colour".

    Those that it has the words for.
    """
    words = Words.of(caption)
    pieces = [piece.lower() for piece in words.pieces]
    found = {}
    for kind, some in (("nouns", words.nouns), ("qualifiers", words.qualifiers)):
        options = [
            (first, second)
            for place, first in enumerate(some)
            for second in some[place + 1 :]
            # "a cat and a dog" says what "a dog and a cat" says
            if pieces[first] != pieces[second]
            and "".join(pieces[first + 1 : second]).split() not in (["and"], ["and", "a"])
        ]
        if options:
            found[kind] = words.exchanged(*options[int(rng.integers(0, len(options)))])
    colours = [number for number in words.qualifiers if pieces[number] in COLOURS]
    if colours:
        number = int(rng.choice(colours))
        same = (pieces[number], *({"grey", "gray"} if pieces[number] in ("grey", "gray") else ()))
        other = rng.choice([colour for colour in COLOURS if colour not in same])
        found["colour"] = "".join([*words.pieces[:number], str(other), *words.pieces[number + 1 :]])
    return found
