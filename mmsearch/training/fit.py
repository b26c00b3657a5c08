"""`fit`: learn a TunedHead from the vectors of captioned pictures, by contrast, from the identity on. Runs on the CPU.

Symmetric InfoNCE with a learned temperature (Radford et al. 2021), AdamW, a cosine schedule, an average of the weights
(Polyak, Juditsky 1992), early stopping. Weights decay towards the identity, so that little is forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
_BETAS = 0.9, 0.999


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a head is learned. Without `epochs` there are as many as make `steps` steps, at least 10 and at most 100.

    `jitter` is the length of the noise that is added to unit rows, `noise` and `dropout` are shares that are zeroed:
    of the perceptron's input, and of its hidden units.
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

    def batches(self, pictures: int) -> int:
        """Return in how many batches an epoch goes."""
        return max(1, round(pictures / self.batch))

    def length(self, pictures: int) -> int:
        """Return how many epochs there are at most."""
        return self.epochs or min(_MOST_EPOCHS, max(_FEWEST_EPOCHS, round(self.steps / self.batches(pictures))))


@dataclass(frozen=True, slots=True)
class Fitted:
    """The best head and its epoch, how many epochs were run, and the scores of the identity and of that head."""

    head: TunedHead
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
    set_torch_threads(torch, threads=threads)
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
    return Fitted(found[0], found[1], epoch, start, best)


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
        self._optimizer = _AdamW(torch, self._learned, recipe.decay)
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
            loss.backward()
            self._optimizer.step(self._recipe.rate * _share_of_rate(self._step, self._steps))
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


class _AdamW:
    """AdamW (Loshchilov, Hutter 2019); matrices decay. torch.optim would import torch's compiler for seconds."""

    def __init__(self, torch: ModuleType, parameters: Sequence[Tensor], decay: float) -> None:
        self._torch = torch
        self._decay = decay
        self._moments = [(p, torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
        self._count = 0

    def step(self, rate: float) -> None:
        """Move the parameters by their gradients, and drop these."""
        self._count += 1
        first_share, second_share = (1.0 - beta**self._count for beta in _BETAS)
        with self._torch.no_grad():
            for parameter, first, second in self._moments:
                if parameter.ndim == 2:
                    parameter.mul_(1.0 - rate * self._decay)
                first.lerp_(parameter.grad, 1.0 - _BETAS[0])
                second.lerp_(parameter.grad.square(), 1.0 - _BETAS[1])
                parameter.addcdiv_(first, (second / second_share).sqrt() + 1e-8, value=-rate / first_share)
                parameter.grad = None


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
        linear, inner, inner_bias, outer, outer_bias = self.parameters
        normalize, gelu = self._torch.nn.functional.normalize, self._torch.nn.functional.gelu
        noise = self._torch.randn(rows.shape, generator=self._generator) / math.sqrt(rows.shape[1])
        rows = normalize(rows + self._recipe.jitter * noise, dim=1)
        standard = self._zeroed((rows - self._mean) / self._deviation, self._recipe.noise)
        bent = self._zeroed(gelu(standard @ inner + inner_bias, approximate="tanh"), self._recipe.dropout)
        mapped: Tensor = normalize(rows + rows @ linear + bent @ outer + outer_bias, dim=1)
        return mapped

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
        kept = self._torch.rand(rows.shape, generator=self._generator) >= share
        return rows * kept / (1.0 - share)


def _array(tensor: Tensor) -> Float32:
    array: Float32 = tensor.detach().numpy().astype(np.float32, copy=True)
    return array


def _share_of_rate(step: int, steps: int) -> float:
    """Return the share of the learning rate at a step: up for a twentieth of the way, then a cosine down to zero."""
    warm = min(1.0, (step + 1) / max(1.0, 0.05 * steps))
    return warm * (1.0 + math.cos(math.pi * min(1.0, step / steps))) / 2.0
