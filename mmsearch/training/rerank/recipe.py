"""MatchRecipe: how a matcher is learned; and Pairs, what one part of a step learns from."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mmsearch.types import Float32, Int64, Mask

_MANY, _STEPS = 5000, 400
_FEWEST_EPOCHS, _MOST_EPOCHS = 6, 40


@dataclass(frozen=True, slots=True)
class MatchRecipe:
    """How a matcher is learned.

    A step takes `groups` groups of `group` pictures that the first stage holds for alike `among` so many, `at_once`
    groups at a time. `kept` is the share of the patches that words see in a step, `hidden` the share of the words that
    are left out, `longest` how many tokens of a text are read while learning. `cells` is into how many parts a side the
    patches are cut for their colours, 0 for none. `epochs` and `groups` are by the number
    of pictures where they are 0: see `sized`.
    """

    epochs: int = 0
    group: int = 8
    groups: int = 0
    at_once: int = 4
    among: int = 1500
    rate: float = 5e-4
    decay: float = 0.05
    dropout: float = 0.0
    smoothing: float = 0.05
    kept: float = 0.75
    hidden: float = 0.0
    longest: int = 20
    average: float = 0.99
    width: int = 192
    layers: int = 2
    cells: int = 3
    seed: int = 0

    def sized(self, pictures: int) -> MatchRecipe:
        """Return the recipe for so many pictures: 4 groups a step below 5,000, else 12; epochs of about 400 steps."""
        groups = self.groups or (12 if pictures >= _MANY else 4)
        steps = max(1, pictures // (self.group * groups))
        epochs = self.epochs or min(_MOST_EPOCHS, max(_FEWEST_EPOCHS, round(_STEPS / steps)))
        return replace(self, groups=groups, epochs=epochs)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pictures and a text of each: tokens (n, p, width), (n, t, width), mask (n, t).

    `also` (n, n) is True where text i fits picture j too, i ≠ j: no negative. `wrong` are texts that are like a
    picture's own and yet not of it, (m, t, width) and their mask, `wrong_of` (m,) the number of that picture.
    """

    pictures: Float32
    words: Float32
    mask: Float32
    also: Mask | None = None
    wrong: Float32 | None = None
    wrong_mask: Float32 | None = None
    wrong_of: Int64 | None = None
