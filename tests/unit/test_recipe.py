"""The recipe of the encoder, as far as it needs no torch: teachers, pictures nobody captioned, texts to learn from."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from training.compact.common import joined, padded, unit
from training.compact.nearest import FIRST_WORD, LEAST, MASK, MOST, Bank, Nearest, phrases_of, refined, without_some
from training.compact.unlabelled import LONGEST, scaled


def encoded(size: tuple[int, int], kind: str = "PNG", mode: str = "RGB") -> bytes:
    stream = io.BytesIO()
    Image.new(mode, size, 77).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_committee_has_its_share_of_a_cosine(share: float) -> None:
    rng = np.random.default_rng(0)
    images, texts = ([unit(rng.normal(size=(n, 8)).astype(np.float32)) for _ in range(3)] for n in (5, 4))
    first, *rest = (a @ b.T for a, b in zip(images, texts, strict=True))

    found = joined(images[0], images[1:], share) @ joined(texts[0], texts[1:], share).T

    np.testing.assert_allclose(found, (1.0 - share) * first + share * np.mean(rest, axis=0), atol=1e-6)
    assert found.dtype == np.float32


def test_without_a_committee_the_teacher_stands_alone() -> None:
    rows = np.eye(3, dtype=np.float32)
    assert joined(rows, [], 0.4) is rows


def test_pictures_are_scaled_down_and_never_up() -> None:
    for size, wanted in (((1000, 500), (LONGEST, 160)), ((200, 150), (200, 150))):
        content = scaled(encoded(size))
        assert content is not None
        image = Image.open(io.BytesIO(content))
        assert (image.format, image.size, image.mode) == ("JPEG", wanted, "RGB")


@pytest.mark.parametrize(
    "content", [encoded((127, 500)), b"", b"no picture", encoded((400, 300), "JPEG")[:300]], ids=str
)
def test_small_and_broken_pictures_are_left_out(content: bytes) -> None:
    assert scaled(content) is None


def small_bank() -> Bank:
    """Two captions of each of three pictures, all in directions of their own."""
    rows = np.eye(12, dtype=np.float32)
    return Bank(rows[:6], rows[6:9].repeat(2, axis=0), np.repeat(np.arange(3), 2))


def test_a_text_moves_towards_the_pictures_of_the_captions_nearest_to_it() -> None:
    bank, how = small_bank(), Nearest(count=2, temperature=0.1, share=0.5)
    asked = unit(bank.texts[:1] + bank.texts[1:2])

    (found,) = refined(asked, bank, how)

    wanted = unit(asked + 0.5 * bank.pictures[:1])[0]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    np.testing.assert_allclose(refined(asked, bank, Nearest(share=0.0)), asked, atol=1e-6)


def test_what_is_learned_of_a_caption_does_not_come_from_its_own_picture() -> None:
    bank = small_bank()

    found = refined(bank.texts, bank, Nearest(count=4, share=0.5), bank.owner)

    own = (found * bank.pictures).sum(axis=1)
    assert (own == 0.0).all(), own
    assert (found @ bank.pictures.T > 0.1).sum(axis=1).tolist() == [4] * 6, "the pictures of the four other captions"


def test_a_softer_temperature_weighs_the_nearest_less() -> None:
    bank = small_bank()
    asked = unit(bank.texts[:1] + np.float32(0.2) * bank.texts[2:3])
    own = [refined(asked, bank, Nearest(5, heat, 0.5))[0] @ bank.pictures[0] for heat in (0.05, 0.5, 5.0)]
    assert own[0] > own[1] > own[2] > 0.1


@pytest.mark.parametrize("masked", [True, False])
def test_some_words_are_hidden_and_never_what_begins_and_ends_a_text(masked: bool) -> None:
    text = np.array([101, *range(FIRST_WORD + 1, FIRST_WORD + 101), 102])

    found = without_some([text] * 200, np.random.default_rng(0), masked=masked)

    for pieces in found:
        assert (pieces[0], pieces[-1]) == (101, 102)
        assert (len(pieces) == len(text)) is masked
    gone = np.array([100 - np.isin(pieces, text[1:-1]).sum() for pieces in found]) / 100
    assert gone.mean() == pytest.approx((LEAST + MOST) / 2, abs=0.03)
    assert gone.std() > 0.1, "of each text another share"
    assert {int(piece) for pieces in found for piece in pieces} - set(text.tolist()) == ({MASK} if masked else set())


def test_every_phrase_stands_once_and_with_one_of_its_pictures() -> None:
    captions = ["a red car in the snow", "the red car", "snow on a dog"]
    drawn = [phrases_of(captions, np.array([0, 1, 2]), seed) for seed in range(20)]
    assert all(said == ["dog", "red car", "snow"] for said, _ in drawn)
    assert {tuple(owner.tolist()) for _, owner in drawn} == {(2, 0, 0), (2, 0, 2), (2, 1, 0), (2, 1, 2)}


def test_texts_are_padded_to_the_longest() -> None:
    found = padded([np.array([101, 7, 102]), np.array([101, 102])])
    assert found["input_ids"].tolist() == [[101, 7, 102], [101, 102, 0]]
    assert found["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
