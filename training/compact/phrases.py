"""Short phrases out of captions, so that short queries are seen in training too."""

from __future__ import annotations

import re

MOST_WORDS = 4
# Words at which a caption falls into phrases: articles, prepositions, auxiliaries, pronouns, conjunctions.
BREAK_WORDS = """
a an the this that these those some several many few other another one two three four his her its
their it he she they them who which what there where while as and or but in on at of to by for from
with without into onto over under near behind between through across along around down up out off
next front top side inside outside is are was were be being been has have had having do does doing
very all each both it's not no
"""
BREAKS = frozenset(BREAK_WORDS.split())


def phrases(caption: str) -> list[str]:
    """Return the runs of one to four words between BREAKS, in order: "a car in the snow" → car, snow."""
    found: list[str] = []
    run: list[str] = []
    for word in [*re.findall(r"[a-z][a-z'-]*|[.,;]", caption.lower()), "."]:
        if word[0].isalpha() and word not in BREAKS:
            run.append(word)
            continue
        if 0 < len(run) <= MOST_WORDS and len(" ".join(run)) > 2:
            found.append(" ".join(run))
        run = []
    return found
