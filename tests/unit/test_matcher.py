"""Learning to tell texts from those of pictures that look alike: groups, the matcher, its learner and its files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmsearch.training import MatchRecipe
from mmsearch.training.rerank.feed import Feed, Said, look_alikes
from mmsearch.training.rerank.recipe import Pairs
from tests.support import random_units

torch = pytest.importorskip("torch", reason="needs the extra [train]")
pytest.importorskip("onnx", reason="needs the extra [train]")
export_matchers = pytest.importorskip("mmsearch.training.rerank.export").export_matchers
learning = pytest.importorskip("mmsearch.training.rerank.learner")
Learner, shape_of = learning.Learner, learning.shape_of
matching = pytest.importorskip("mmsearch.training.rerank.matcher")
Matcher, Shape = matching.Matcher, matching.Shape

SMALL = MatchRecipe(group=4, groups=4, at_once=2, width=32, layers=1, rate=3e-3, dropout=0.0, epochs=1, cells=0)
SIDE, WIDTH, THINGS = 3, 24, 12


# --- groups ---------------------------------------------------------------------------------------------------------


def test_groups_are_of_pictures_that_look_alike() -> None:
    rows = random_units(400, 16)
    rng = np.random.default_rng(0)
    groups = list(look_alikes(rows, among=200, group=8, rng=rng))
    every = np.concatenate(groups)
    assert len(set(every.tolist())) == len(every), "no picture is in two groups"
    assert len(every) > 300
    within = np.mean([(rows[g] @ rows[g].T).mean() for g in groups])
    at_random = np.mean([(rows[g] @ rows[g].T).mean() for g in rng.permutation(400).reshape(-1, 8)])
    assert within > 2 * at_random


def test_an_epoch_depends_on_its_number_alone() -> None:
    rows, kinds = random_units(200, 8), np.repeat([0, 1], 100)

    def draw(which: np.ndarray, _rng: np.random.Generator) -> Pairs:
        return Pairs(which[:, None, None].astype(np.float32), np.empty(0), np.empty(0))

    def seen(number: int) -> list[list[list[int]]]:
        feed = Feed(rows, kinds, draw, SMALL)
        return [[part.pictures.ravel().astype(int).tolist() for part in parts] for parts, _ in feed.epoch(number)]

    assert seen(3) == seen(3)
    assert seen(3) != seen(4)
    assert all(len({kinds[i] for i in part[:4]}) == 1 for parts in seen(3) for part in parts), "groups are of one kind"
    assert len(seen(3)) == Feed(rows, kinds, draw, SMALL).steps() == 12
    assert all(sum(map(len, parts)) == 16 for parts in seen(3)), "what makes no whole step is left for another epoch"
    few = Feed(rows[:9], kinds[:9], draw, SMALL)
    assert (few.steps(), len(list(few.epoch(0)))) == (1, 1)


def test_a_text_that_fits_two_pictures_is_no_negative() -> None:
    said = Said(["A dog.", "a cat", "a  DOG", "a bird"], np.array([0, 0, 1, 2]), 3)
    also = said.also(np.array([0, 1, 2]), np.array([0, 2, 3]))
    assert also.tolist() == [[False, True, False], [True, False, False], [False, False, False]]
    rng = np.random.default_rng(0)
    some = drawn(rng, 2)
    whole = replace(some, also=~np.eye(8, dtype=np.bool_))
    assert learner(1).step([whole], rng) == pytest.approx(0.0, abs=1e-5), (
        "nothing is left to tell a picture's text from"
    )
    assert learner(1).step([some], rng) > 1.0


def test_a_recipe_is_sized_by_the_pictures() -> None:
    few, many, given = (
        recipe.sized(count)
        for recipe, count in ((MatchRecipe(), 400), (MatchRecipe(), 30_000), (MatchRecipe(epochs=3, groups=2), 400))
    )
    assert (few.groups, few.epochs) == (4, 33)
    assert (many.groups, many.epochs) == (12, 6)
    assert (given.groups, given.epochs) == (2, 3)


# --- the matcher ----------------------------------------------------------------------------------------------------


def things() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((THINGS, WIDTH)).astype(np.float32)


def drawn(rng: np.random.Generator, groups: int, *, with_wrong: bool = False, cells: int = 0) -> Pairs:
    """Return groups of four pictures of two things, one in the upper and one in the lower half, and their texts.

    All four hold the same things: which is above tells two from the others, and a third word tells these apart.
    """
    known, size = things(), SIDE**2
    pictures = rng.normal(0, 0.1, (groups * 4, size, WIDTH)).astype(np.float32)
    words = np.zeros((groups * 4, 4, WIDTH), np.float32)
    for group in range(groups):
        one, other, third, fourth = rng.permutation(THINGS)[:4]
        for row, (above, below, beside) in enumerate(
            [(one, other, third), (other, one, third), (one, other, fourth), (other, one, fourth)]
        ):
            number = 4 * group + row
            for thing, places in ((above, [0, 1]), (below, [6, 7]), (beside, [5])):
                pictures[number, places] += known[thing]
            words[number, :3] = known[[above, below, beside]] + 0.5 * np.eye(3, WIDTH, dtype=np.float32)
    mask = np.tile(np.float32([1, 1, 1, 0]), (groups * 4, 1))
    colours = rng.uniform(-1, 1, (groups * 4, size, 3 * cells**2)).astype(np.float32)
    pictures = np.concatenate([pictures, colours], axis=2)
    if not with_wrong:
        return Pairs(pictures, words, mask)
    wrong = np.arange(0, groups * 4, 4)
    exchanged = words[wrong][:, [2, 1, 0, 3]]
    return Pairs(pictures, words, mask, wrong=exchanged, wrong_mask=mask[wrong], wrong_of=wrong)


def learner(steps: int, *, seed: int = 0, dropout: float = 0.0, cells: int = 0) -> Learner:
    begin = drawn(np.random.default_rng(9), 30, cells=cells)
    recipe = replace(SMALL, seed=seed, kept=1.0, dropout=dropout, cells=cells)
    return Learner(shape_of(begin, recipe), recipe, [begin], steps=steps)


def test_it_learns_what_stands_where() -> None:
    rng = np.random.default_rng(0)
    one = learner(150)
    losses = [one.step([drawn(rng, 2), drawn(rng, 2, with_wrong=True)], rng) for _ in range(150)]
    assert losses[0] == pytest.approx(np.log(4), abs=0.3)
    assert np.mean(losses[-20:]) < 0.6, "smoothing leaves 0.25"
    test = drawn(rng, 40)
    matcher = one.averaged()
    with torch.no_grad():
        parts = (torch.from_numpy(part).unflatten(0, (40, 4)) for part in (test.pictures, test.words, test.mask))
        images, texts, mask = parts
        scores = matcher(matcher.picture_states(images), matcher.text_states(texts), mask)
    assert float((scores.argmax(2) == torch.arange(4)).float().mean()) > 0.8, "a quarter is chance"


def test_a_run_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    def steps(some: Learner, first: int, last: int) -> list[float]:
        found = []
        for number in range(first, last):
            rng = np.random.default_rng(number)
            found.append(some.step([drawn(rng, 2)], rng))
        return found

    whole = learner(8, dropout=0.1)
    steps(whole, 0, 4)
    torch.save(whole.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    kept = learner(8, dropout=0.1)
    kept.load_state_dict(state)
    before = torch.random.get_rng_state()
    assert steps(kept, 4, 8) == pytest.approx(steps(whole, 4, 8), abs=1e-4)
    assert torch.equal(torch.random.get_rng_state(), before), "what is drawn elsewhere is left alone"
    with pytest.raises(ValueError, match="has 8 steps, and this one 9"):
        learner(9).load_state_dict(state)
    with pytest.raises(ValueError, match="another recipe"):
        learner(8, dropout=0.2).load_state_dict(state)


def test_a_pair_scores_the_same_in_every_company() -> None:
    torch.manual_seed(0)
    matcher = Matcher(Shape(WIDTH, WIDTH, SIDE, width=32, layers=2)).eval()
    some = drawn(np.random.default_rng(3), 1)
    images, texts, mask = (torch.from_numpy(part)[None] for part in (some.pictures, some.words, some.mask))
    with torch.no_grad():
        states, read = matcher.picture_states(images), matcher.text_states(texts)
        scores = matcher(states, read, mask)
        alone = matcher(states[:, 2:3], read[:, 1:2, :3], mask[:, 1:2, :3])
        padded = matcher(
            states[:, 2:3],
            torch.cat([read[:, 1:2], 9 * read[:, 1:2]], 2),
            torch.cat([mask[:, 1:2], 0 * mask[:, 1:2]], 2),
        )
    assert float(alone) == pytest.approx(float(scores[0, 1, 2]), abs=1e-4)
    assert float(padded) == pytest.approx(float(scores[0, 1, 2]), abs=1e-4)


@pytest.mark.parametrize("cells", [(0,), (2,), (2, 0)])
def test_the_files_score_as_the_matchers_do_in_the_mean(cells: tuple[int, ...]) -> None:
    import onnxruntime

    rng = np.random.default_rng(0)
    learners = [learner(3, seed=number, cells=some) for number, some in enumerate(cells)]
    for one in learners:
        for _ in range(3):
            one.step([drawn(rng, 2, cells=one.recipe.cells)], rng)
    matchers, some = [one.averaged() for one in learners], drawn(rng, 3, cells=max(cells))
    graphs = export_matchers(matchers, mean=0.5)
    sessions = {name: onnxruntime.InferenceSession(data) for name, data in graphs.items()}
    (states,) = sessions["picture.onnx"].run(["states"], {"tokens": some.pictures})
    feeds = {"states": states, "words": some.words, "mask": some.mask}
    scores, attention = sessions["match.onnx"].run(["score", "attention"], feeds)
    assert states.shape == (12, SIDE**2, SMALL.width * len(cells))
    with torch.no_grad():
        images, texts, mask = (torch.from_numpy(part)[:, None] for part in (some.pictures, some.words, some.mask))
        exact = [
            matcher(matcher.picture_states(images), matcher.text_states(texts), mask)[:, 0, 0].numpy() - 0.5
            for matcher in matchers
        ]
    np.testing.assert_allclose(scores, np.mean(exact, axis=0), atol=1e-4)
    assert attention.shape == (12, 4, SIDE**2)
    np.testing.assert_allclose(attention.sum(axis=2), 1.0, atol=1e-4)
    assert matchers[0].outer.bias.item() == learners[0].average.outer.bias.item(), "it is left as it was"


def test_matchers_of_patches_that_are_cut_in_two_ways_make_no_files() -> None:
    matchers = [learner(1, cells=cells).averaged() for cells in (1, 2)]
    with pytest.raises(ValueError, match="cut in different ways"):
        export_matchers(matchers, mean=0.0)


def test_colours_of_patches_are_learned_from() -> None:
    """Pictures whose tokens are all alike, and texts that tell the colour that only the cells show."""
    rng = np.random.default_rng(0)
    known = things()[:4]
    colours = np.repeat(np.float32([[-1, -1, 1], [-1, 1, -1], [1, -1, -1], [1, 1, 1]])[:, None], SIDE**2, axis=1)

    def seen(groups: int) -> Pairs:
        order = np.concatenate([rng.permutation(4) for _ in range(groups)])
        tokens = rng.normal(0, 0.1, (len(order), SIDE**2, WIDTH)).astype(np.float32)
        words = np.stack([known[order], rng.normal(0, 0.1, (len(order), WIDTH)).astype(np.float32)], axis=1)
        return Pairs(np.concatenate([tokens, colours[order]], axis=2), words, np.ones((len(order), 2), np.float32))

    recipe = replace(SMALL, cells=1, kept=1.0)
    begin = seen(30)
    shape = shape_of(begin, recipe)
    assert (shape.image_width, shape.colours) == (WIDTH, 3)
    one = Learner(shape, recipe, [begin], steps=60)
    losses = [one.step([seen(2), seen(2)], rng) for _ in range(60)]
    assert losses[0] == pytest.approx(np.log(4), abs=0.3)
    assert np.mean(losses[-10:]) < 0.4, "smoothing leaves 0.25"


def test_tokens_narrower_than_the_matcher_are_read() -> None:
    begin = drawn(np.random.default_rng(0), 30)
    recipe = replace(SMALL, width=64)
    assert np.isfinite(
        Learner(shape_of(begin, recipe), recipe, [begin], steps=2).step(
            [drawn(np.random.default_rng(1), 2)], np.random.default_rng(0)
        )
    )
