"""`fit`: learn a TunedHead from the vectors of captioned pictures, by contrast, from the identity on. Runs on the CPU.

Symmetric InfoNCE with a learned temperature (Radford et al. 2021), AdamW, a cosine schedule, an average of the weights
(Polyak, Juditsky 1992), early stopping. So that little is forgotten, random vectors are to stay where they are, and of
the way from the identity only what most of the gain needs is gone (Wortsman et al. 2022, WiSE-FT).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from mmsearch.encoders.tuned_head import TowerMap, TunedHead
from mmsearch.evaluation.embed import EmbeddedSet
from mmsearch.runtime.threads import set_torch_threads
from mmsearch.training.negatives import Draw
from mmsearch.types import Float32

if TYPE_CHECKING:
    from torch import Generator, Tensor

_FEWEST_EPOCHS, _MOST_EPOCHS = 10, 100
_LEAST_DEVIATION = 0.1
"""Of the mean one: a column that hardly varies here may well do so elsewhere."""
_ANCHORS = 128
_WIDE = 768
"""From this width on a step is long enough to be shared among threads; a shorter one waits for the slowest of them."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a head is learned. Without `epochs` there are as many as make `steps` steps, at least 10 and at most 100.

    `jitter` is the length of the noise that is added to unit rows, `noise` and `dropout` are shares that are zeroed:
    of the perceptron's input, and of its hidden units. `faith` weighs how far random vectors move; `gain` is the share
    of what was gained on the validation part that a weaker head must keep to be taken.
    """

    epochs: int | None = None
    batch: int = 256
    seed: int = 0
    steps: int = 400
    rate: float = 1e-3
    decay: float = 0.1
    hidden: int = 512
    jitter: float = 0.5
    noise: float = 0.1
    dropout: float = 0.5
    average: float = 0.98
    scale: float = 20.0
    faith: float = 5.0
    gain: float = 0.95

    def batches(self, pictures: int) -> int:
        """Return in how many batches an epoch goes."""
        return max(1, round(pictures / self.batch))

    def length(self, pictures: int) -> int:
        """Return how many epochs there are at most."""
        return self.epochs or min(_MOST_EPOCHS, max(_FEWEST_EPOCHS, round(self.steps / self.batches(pictures))))


@dataclass(frozen=True, slots=True)
class Fitted:
    """The head, the share of the way from the identity that it goes, the epoch that it is of, and of how many.

    `start` and `best` are the scores of the identity and of the head.
    """

    head: TunedHead
    share: float
    epoch: int
    epochs: int
    start: float
    best: float

    @property
    def helped(self) -> bool:
        """True when the head scores better than the identity."""
        return self.best > self.start


def fit(
    torch: ModuleType,
    training: EmbeddedSet,
    score: Callable[[TunedHead | None], float],
    recipe: Recipe,
    *,
    threads: int,
    progress: Callable[[int, int], None] = lambda epoch, epochs: None,
) -> Fitted:
    """Return the head that scores best of all epochs; None is the identity. The same seed gives the same head.

    It stops when a quarter of the epochs, at least five, brought nothing better.
    """
    set_torch_threads(torch, threads=threads if training.images.shape[1] >= _WIDE else 1)
    epochs = recipe.length(len(training.images))
    learner = _Learner(torch, training, recipe, epochs)
    start = best = score(None)
    found: tuple[TunedHead, int] | None = None
    epoch = 0
    while epoch < epochs:
        learner.run_epoch()
        epoch += 1
        head = learner.averaged()
        reached = score(head)
        if found is None or reached > best:
            found, best = (head, epoch), reached
        progress(epoch, epochs)
        if epoch - found[1] >= max(5, epochs // 4):
            break
    if found is None:
        raise ValueError("there must be an epoch at least")
    fitted = Fitted(found[0], 1.0, found[1], epoch, start, best)
    return _weakened(fitted, score, recipe.gain) if fitted.helped else fitted


def _weakened(fitted: Fitted, score: Callable[[TunedHead | None], float], gain: float) -> Fitted:
    """Return the least of ten shares of the way to the head that keeps a share of its gain."""
    for share in np.linspace(0.1, 0.9, 9).tolist():
        head = fitted.head.weaker(share)
        reached = score(head)
        if reached >= fitted.start + gain * (fitted.best - fitted.start):
            return replace(fitted, head=head, share=round(share, 1), best=reached)
    return fitted


class _Learner:
    """Both maps on their way, and all that is drawn at random."""

    def __init__(self, torch: ModuleType, training: EmbeddedSet, recipe: Recipe, epochs: int) -> None:
        self._torch = torch
        self._recipe = recipe
        self._draw = Draw(training.data.captions, training.data.owners, len(training.images), seed=recipe.seed)
        self._rows = tuple(torch.from_numpy(np.ascontiguousarray(rows)) for rows in (training.images, training.texts))
        generator = torch.Generator().manual_seed(recipe.seed)
        self._towers = tuple(_Tower(torch, rows, recipe, generator) for rows in self._rows)
        self._scale = torch.tensor(math.log(recipe.scale), requires_grad=True)
        self._learned = [p for tower in self._towers for p in tower.parameters] + [self._scale]
        self._average = [p.detach().clone() for p in self._learned]
        matrices, others = ([p for p in self._learned if (p.ndim == 2) is wanted] for wanted in (True, False))
        groups = [{"params": matrices, "weight_decay": recipe.decay}, {"params": others, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(groups, lr=recipe.rate)
        self._steps, self._step = epochs * recipe.batches(len(training.images)), 0

    def run_epoch(self) -> None:
        """Go once through the pictures, each with one of its captions."""
        torch = self._torch
        images, texts = self._rows
        for batch in self._draw.epoch(self._recipe.batches(len(images))):
            mapped = [
                tower.map(rows[torch.from_numpy(chosen)])
                for tower, rows, chosen in zip(
                    self._towers, (images, texts), (batch.pictures, batch.captions), strict=True
                )
            ]
            logits = self._scale.exp() * mapped[0] @ mapped[1].T
            logits = logits.masked_fill(torch.from_numpy(batch.no_negatives), -torch.inf)
            target = torch.arange(len(logits))
            entropy = torch.nn.functional.cross_entropy
            loss = (entropy(logits, target) + entropy(logits.T, target)) / 2.0
            loss = loss + self._recipe.faith * sum(tower.drift() for tower in self._towers)
            self._optimizer.zero_grad()
            loss.backward()
            for group in self._optimizer.param_groups:
                group["lr"] = self._recipe.rate * _share_of_rate(self._step, self._steps)
            self._optimizer.step()
            self._step += 1
            with torch.no_grad():
                for slow, fast in zip(self._average, self._learned, strict=True):
                    slow.lerp_(fast, 1.0 - self._recipe.average)

    def averaged(self) -> TunedHead:
        """Return the average of the weights as a head."""
        count = len(self._towers[0].parameters)
        image, text = (
            tower.exported(self._average[number * count : (number + 1) * count])
            for number, tower in enumerate(self._towers)
        )
        return TunedHead(image, text)


class _Tower:
    """A TowerMap being learned: its input standardised, `linear` held as the difference from the identity."""

    def __init__(self, torch: ModuleType, rows: Tensor, recipe: Recipe, generator: Generator) -> None:
        self._torch = torch
        self._recipe = recipe
        self._generator = generator
        dim, hidden = rows.shape[1], recipe.hidden
        deviation = rows.std(0)
        self._mean, self._deviation = rows.mean(0), deviation.clamp_min(_LEAST_DEVIATION * float(deviation.mean()))
        inner = torch.randn(dim, hidden, generator=generator) / math.sqrt(dim)
        zeros = [(dim, dim), (hidden,), (hidden, dim), (dim,)]
        linear, inner_bias, outer, outer_bias = (torch.zeros(shape) for shape in zeros)
        self.parameters: Sequence[Tensor] = [
            tensor.requires_grad_() for tensor in (linear, inner, inner_bias, outer, outer_bias)
        ]

    def map(self, rows: Tensor) -> Tensor:
        """Return unit rows (n, dim) for unit rows, with all the noise of training."""
        near = rows + self._recipe.jitter * self._random(len(rows))
        near = self._torch.nn.functional.normalize(near, dim=1)
        return self._mapped(near, noise=self._recipe.noise, dropout=self._recipe.dropout)

    def drift(self) -> Tensor:
        """Return how far random vectors move, as 1 − cosine: half of them anywhere, half about the mean of the rows."""
        anywhere = self._random(2 * _ANCHORS)
        about = self._mean + (1.0 - self._mean.square().sum()).sqrt() * anywhere[_ANCHORS:]
        rows = self._torch.nn.functional.normalize(self._torch.cat([anywhere[:_ANCHORS], about]), dim=1)
        drift: Tensor = 1.0 - (self._mapped(rows, noise=0.0, dropout=0.0) * rows).sum(1).mean()
        return drift

    def _mapped(self, rows: Tensor, *, noise: float, dropout: float) -> Tensor:
        linear, inner, inner_bias, outer, outer_bias = self.parameters
        standard = self._zeroed((rows - self._mean) / self._deviation, noise)
        gelu = self._torch.nn.functional.gelu
        bent = self._zeroed(gelu(standard @ inner + inner_bias, approximate="tanh"), dropout)
        mapped = rows + rows @ linear + bent @ outer + outer_bias
        units: Tensor = self._torch.nn.functional.normalize(mapped, dim=1)
        return units

    def _random(self, count: int) -> Tensor:
        """Return rows (count, dim) of about length 1 in all directions."""
        dim = len(self._mean)
        rows: Tensor = self._torch.randn((count, dim), generator=self._generator) / math.sqrt(dim)
        return rows

    def exported(self, values: Sequence[Tensor]) -> TowerMap:
        """Return the map with other values of its parameters, the standardising worked into them."""
        linear, inner, inner_bias, outer, outer_bias = values
        scaled = inner / self._deviation[:, None]
        arrays = (
            linear + self._torch.eye(len(linear)),
            scaled,
            inner_bias - self._mean @ scaled,
            outer,
            outer_bias,
        )
        return TowerMap(*(_array(tensor) for tensor in arrays))

    def _zeroed(self, rows: Tensor, share: float) -> Tensor:
        """Return rows with a share of their numbers zeroed, and the others larger by as much."""
        if not share:
            return rows
        kept = self._torch.rand(rows.shape, generator=self._generator) >= share
        return rows * kept / (1.0 - share)


def _array(tensor: Tensor) -> Float32:
    array: Float32 = tensor.detach().numpy().astype(np.float32, copy=True)
    return array


def _share_of_rate(step: int, steps: int) -> float:
    """Return the share of the learning rate at a step: up for a twentieth of the way, then a cosine down to zero."""
    warm = min(1.0, (step + 1) / max(1.0, 0.05 * steps))
    return warm * (1.0 + math.cos(math.pi * min(1.0, step / steps))) / 2.0
