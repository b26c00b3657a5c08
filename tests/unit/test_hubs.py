"""Hubs: two coordinates that take from a cosine what pictures and texts have with everything."""

from __future__ import annotations

import numpy as np
import pytest

from mmsearch.encoders.hubs import Hubs
from training.compact.hubs import Settings, find_hubs

DIM = 64
SETTINGS = Settings(axes=DIM - 2, sharpness=10.0, limit=0.6)
Rows = np.ndarray[tuple[int, int], np.dtype[np.float32]]


def unit(rows: np.ndarray) -> Rows:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def sets() -> tuple[Rows, Rows]:
    """Pictures and texts of one subject each, with more in common than they should have: in two directions nothing."""
    rng = np.random.default_rng(0)
    subjects = rng.normal(size=(400, DIM))
    common = rng.normal(size=DIM)
    pictures, texts = (
        subjects + 1.5 * rng.normal(size=(400, DIM)) + np.outer(rng.gamma(1.0, 0.5, 400), common) for _ in range(2)
    )
    for rows in (pictures, texts):
        rows[:, [3, 17]] *= 1e-3
    return unit(pictures), unit(texts)


@pytest.fixture(scope="module")
def hubs(sets: tuple[Rows, Rows]) -> Hubs:
    return find_hubs(sets[0][:200], sets[1][:200], SETTINGS)


def test_vectors_keep_their_length_and_type(hubs: Hubs, sets: tuple[Rows, Rows]) -> None:
    for made in (hubs.pictures(sets[0]), hubs.texts(sets[1])):
        assert made.dtype == np.float32 and made.shape == (400, DIM)
        np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1.0, atol=1e-6)
    assert hubs.pictures(sets[0][:0]).shape == (0, DIM)


def test_a_cosine_loses_what_both_have_with_everything(hubs: Hubs, sets: tuple[Rows, Rows]) -> None:
    pictures, texts = (rows[200:] for rows in sets)
    ours = hubs.texts(texts) @ hubs.pictures(pictures).T
    exact = []
    for rows, bank in ((texts, sets[0][:200]), (pictures, sets[1][:200])):
        hubness = np.log(np.exp(SETTINGS.sharpness * rows @ bank.T).mean(axis=1)) / SETTINGS.sharpness
        exact.append(SETTINGS.share * hubness)
    wanted = texts @ pictures.T - exact[0][:, np.newaxis] - exact[1]
    scale, _ = np.polyfit(wanted.ravel(), ours.ravel(), 1)
    assert scale == pytest.approx(1.0 - SETTINGS.beta**2, abs=0.05)
    assert np.corrcoef(wanted.ravel(), ours.ravel())[0, 1] > 0.98


def test_more_is_found_and_no_row_comes_first_too_often(hubs: Hubs, sets: tuple[Rows, Rows]) -> None:
    pictures, texts = (rows[200:] for rows in sets)
    plain = (texts @ pictures.T).argmax(axis=1)
    made = (hubs.texts(texts) @ hubs.pictures(pictures).T).argmax(axis=1)
    right = np.arange(len(texts))
    assert (made == right).mean() > (plain == right).mean() + 0.02
    assert np.bincount(made).max() < np.bincount(plain).max()


def test_pictures_among_themselves_stay_as_near(hubs: Hubs, sets: tuple[Rows, Rows]) -> None:
    before, after = (rows @ rows.T for rows in (sets[0], hubs.pictures(sets[0])))
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.98


def test_one_row_is_what_many_are(hubs: Hubs, sets: tuple[Rows, Rows]) -> None:
    many = hubs.pictures(sets[0])
    np.testing.assert_allclose(np.concatenate([hubs.pictures(row[np.newaxis]) for row in sets[0]]), many, atol=1e-6)


def test_files_hold_the_same(hubs: Hubs, sets: tuple[Rows, Rows]) -> None:
    again = Hubs.from_bytes(hubs.to_bytes())
    np.testing.assert_array_equal(again.pictures(sets[0]), hubs.pictures(sets[0]))
    np.testing.assert_array_equal(again.texts(sets[1]), hubs.texts(sets[1]))


def test_the_directions_of_least_variance_are_left_out(hubs: Hubs, sets: tuple[Rows, Rows]) -> None:
    turned = sets[0]
    for turn in hubs.turns:
        turned = turned - np.outer(turned @ turn, 2.0 * turn)
    assert np.abs(turned[:, -2:]).max() < 5e-3
    np.testing.assert_allclose(turned @ turned.T, sets[0] @ sets[0].T, atol=1e-5)
