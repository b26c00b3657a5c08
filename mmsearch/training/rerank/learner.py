"""Learner: a Matcher learns to tell a picture's text from those of pictures that look alike. Needs torch; CPU.

Image–text matching with hard negatives of the first stage (ALBEF, Li et al. 2021): cross-entropy in both directions
over all pairs of a group of look-alikes. AdamW, one cycle of the learning rate, an average of the weights.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmsearch.runtime.devices import may_have_fast_bfloat16
from mmsearch.training.rerank.matcher import Matcher, Shape
from mmsearch.training.rerank.recipe import MatchRecipe, Pairs

_CLIP = 2.0


def shape_of(pairs: Pairs, recipe: MatchRecipe) -> Shape:
    """Return the shape of a matcher for such tokens, whose patches are a square grid."""
    patches, width = pairs.pictures.shape[1:]
    shape = Shape(width, pairs.words.shape[2], math.isqrt(patches), recipe.width, recipe.layers, recipe.cells)
    return replace(shape, image_width=width - shape.colours)


class Learner:
    """A matcher on its way, and its average."""

    def __init__(self, shape: Shape, recipe: MatchRecipe, begin: Iterable[Pairs], *, steps: int) -> None:
        """Begin from some pairs, which come in parts; `steps` is how many there are to be."""
        self.recipe, self._steps = recipe, steps
        self._bfloat16 = may_have_fast_bfloat16()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            self.matcher = Matcher(shape, dropout=recipe.dropout)
        self.matcher.begin(
            tuple(torch.from_numpy(some) for some in (part.pictures, part.words, part.mask)) for part in begin
        )
        self.average = copy.deepcopy(self.matcher).eval()
        learned = list(self.matcher.parameters())
        groups = [
            {"params": [p for p in learned if p.ndim > 1], "weight_decay": recipe.decay},
            {"params": [p for p in learned if p.ndim < 2], "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=recipe.rate, fused=True)
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(
            self._optimizer, recipe.rate, total_steps=steps + 1, pct_start=0.06
        )
        self._step = 0

    def step(self, parts: Sequence[Pairs], rng: np.random.Generator) -> float:
        """Learn from parts of `at_once` groups (or fewer in the last), and return the mean loss."""
        self.matcher.train()
        self._optimizer.zero_grad()
        patches = self.matcher.shape.side**2
        kept = torch.from_numpy(rng.permutation(patches)[: max(1, round(self.recipe.kept * patches))])
        pictures = sum(len(part.pictures) for part in parts)
        losses: list[float] = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**62)))  # of dropout
            for part in parts:
                loss = self._loss(part, kept) * (len(part.pictures) / pictures)
                loss.backward()
                losses.append(loss.item())
        nn.utils.clip_grad_norm_(self.matcher.parameters(), _CLIP)
        self._optimizer.step()
        self._schedule.step()
        self._step += 1
        share = 1.0 - min(self.recipe.average, (1 + self._step) / (10 + self._step))
        with torch.no_grad():
            for slow, fast in zip(self.average.parameters(), self.matcher.parameters(), strict=True):
                slow.lerp_(fast, share)
        return sum(losses)

    def averaged(self) -> Matcher:
        """Return a copy of the average."""
        matcher: Matcher = copy.deepcopy(self.average)
        return matcher

    def state_dict(self) -> dict[str, Any]:
        """Return all that a run needs to go on."""
        numbers = {"step": self._step, "steps": self._steps, "recipe": asdict(self.recipe)}
        return {**{name: part.state_dict() for name, part in self._parts().items()}, **numbers}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned; raise ValueError for a run of another length or another recipe."""
        if state["steps"] != self._steps:
            raise ValueError(f"the run that was stopped has {state['steps']} steps, and this one {self._steps}")
        if state["recipe"] != asdict(self.recipe):
            raise ValueError(f"the run that was stopped has another recipe than this one: {state['recipe']}")
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self._step = state["step"]

    def _parts(self) -> dict[str, Any]:
        return {
            "matcher": self.matcher,
            "average": self.average,
            "optimizer": self._optimizer,
            "schedule": self._schedule,
        }

    def _loss(self, part: Pairs, kept: Tensor) -> Tensor:
        size, longest = self.recipe.group, self.recipe.longest
        count = len(part.pictures) // size
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bfloat16):
            images = self.matcher.picture_states(torch.from_numpy(part.pictures))
            texts = self.matcher.text_states(torch.from_numpy(part.words[:, :longest]))
            mask = self._shown(torch.from_numpy(part.mask[:, :longest]))
            grouped = (some.unflatten(0, (count, size)) for some in (images, texts, mask))
            scores = self.matcher(*grouped, kept=kept).float()  # (g, texts, pictures)
            wrong = self._wrong(part, images, kept)
        if part.also is not None:
            also = torch.from_numpy(part.also).view(count, size, count, size)
            scores = scores.masked_fill(also[torch.arange(count), :, torch.arange(count)], -torch.inf)
        target = torch.arange(size).expand(count, size).flatten()
        by_picture = torch.cat([scores.transpose(1, 2).flatten(0, 1), wrong], dim=1)
        return (self._entropy(scores.flatten(0, 1), target) + self._entropy(by_picture, target)) / 2

    def _entropy(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy of logits (n, group or more), its targets smoothed among the group alone.

        What stands behind the group, a caption with two words exchanged, is not even a little right.
        """
        own = logits.gather(1, target[:, None])[:, 0]
        group = logits[:, : self.recipe.group]
        known = group > -torch.inf
        others = torch.where(known, group, 0.0).sum(1) / known.sum(1)
        smoothing = self.recipe.smoothing
        return (logits.logsumexp(1) - (1.0 - smoothing) * own - smoothing * others).mean()

    def _shown(self, mask: Tensor) -> Tensor:
        """Return the mask (n, t) without a share of the words; the first token, which stands for the text, stays."""
        left = torch.rand(mask.shape) >= self.recipe.hidden
        left[:, 0] = True
        return mask * left

    def _wrong(self, part: Pairs, images: Tensor, kept: Tensor) -> Tensor:
        """Return the score of each picture with the wrong text that it has, (n, 1); (n, 0) where no picture has one."""
        if part.wrong is None or part.wrong_mask is None or part.wrong_of is None or not len(part.wrong_of):
            return images.new_zeros((len(images), 0), dtype=torch.float32)
        of = torch.from_numpy(part.wrong_of)
        texts = self.matcher.text_states(torch.from_numpy(part.wrong[:, : self.recipe.longest]))
        # No word of it is hidden: it is told by a word that was exchanged.
        mask = torch.from_numpy(part.wrong_mask[:, : self.recipe.longest])
        scores = self.matcher(images[of, None], texts[:, None], mask[:, None], kept=kept)[:, 0, 0].float()
        column = torch.full((len(images),), -torch.inf)
        return column.index_put((of,), scores)[:, None]
