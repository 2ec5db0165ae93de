"""Run-length code of masks."""

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from src.competitions.formats import rle

HAND_WORKED = np.array([[0, 1, 1, 0], [0, 0, 1, 0], [1, 0, 0, 1]], np.uint8)


def code_pixel_by_pixel(mask: np.ndarray, order: str) -> str:
    runs, before = [], 0
    for number, pixel in enumerate(mask.flatten("C" if order == "row" else "F"), start=1):
        if pixel and not before:
            runs.append([number, 0])
        if pixel:
            runs[-1][1] += 1
        before = pixel
    return " ".join(f"{start} {length}" for start, length in runs)


def only(row: int, column: int) -> np.ndarray:
    mask = np.zeros((3, 4), np.uint8)
    mask[row, column] = 1
    return mask


@pytest.mark.parametrize(
    ("mask", "row_code", "column_code"),
    [
        pytest.param(np.zeros((3, 4), np.uint8), "", "", id="empty"),
        pytest.param(np.ones((3, 4), np.uint8), "1 12", "1 12", id="full"),
        pytest.param(only(0, 0), "1 1", "1 1", id="first pixel"),
        pytest.param(only(2, 3), "12 1", "12 1", id="last pixel"),
        pytest.param(only(0, 3), "4 1", "10 1", id="last column"),
        pytest.param(HAND_WORKED, "2 2 7 1 9 1 12 1", "3 2 7 2 12 1", id="hand-worked"),
    ],
)
def test_code_of_a_hand_worked_mask(mask: np.ndarray, row_code: str, column_code: str) -> None:
    for order, code in (("row", row_code), ("column", column_code)):
        assert rle.encode(mask[None], order) == [code]
        np.testing.assert_array_equal(rle.decode([code], 3, 4, order), mask[None])


@pytest.mark.parametrize("order", ["row", "column"])
def test_random_masks_agree_with_a_loop_over_pixels_and_decode_to_themselves(order: str) -> None:
    rng = np.random.default_rng(0)
    share = rng.choice([0, 0.05, 0.5, 0.95, 1], size=(200, 1, 1))
    masks = (rng.random((200, 7, 5)) < share).astype(np.uint8)
    codes = rle.encode(masks, order)
    assert codes == [code_pixel_by_pixel(mask, order) for mask in masks]
    decoded = rle.decode(codes, 7, 5, order)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, masks)


def test_runs_of_neighbouring_masks_do_not_merge() -> None:
    masks = np.zeros((3, 2, 2), np.uint8)
    masks[0, 1, 1] = masks[1, 0, 0] = masks[1, 1, 1] = masks[2, 0, 0] = 1
    assert rle.encode(masks, "row") == ["4 1", "1 1 4 1", "1 1"]


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("1", id="odd count"),
        pytest.param("1 2 3", id="odd count of several"),
        pytest.param("one 2", id="word"),
        pytest.param("1.5 2", id="fraction"),
        pytest.param("nan 2", id="nan"),
        pytest.param("3 0", id="length 0"),
        pytest.param("3 -1", id="negative length"),
        pytest.param("0 1", id="start 0"),
        pytest.param("-2 3", id="negative start"),
        pytest.param("1 3 2 2", id="overlap"),
        pytest.param("5 2 1 2", id="descending"),
        pytest.param("12 2", id="beyond the mask"),
        pytest.param("13 1", id="start beyond the mask"),
        pytest.param("1 13", id="longer than the mask"),
        pytest.param("1 9223372036854775807", id="length 2^63 - 1"),
        pytest.param("9223372036854775807 1", id="start 2^63 - 1"),
        pytest.param("9223372036854775807 5", id="end wraps round 2^63"),
        pytest.param("-9223372036854775808 2", id="start wraps round -2^63"),
        pytest.param("9223372036854775808 1", id="start 2^63"),
        pytest.param("99999999999999999999999 1", id="start beyond 64 bits"),
    ],
)
def test_malformed_code_is_refused(code: str) -> None:
    with pytest.raises(ValueError, match="run-length code"):
        rle.decode(["1 12", code], 3, 4, "row")


@given(
    arrays.arrays(np.uint8, st.tuples(*[st.integers(1, 9)] * 3), elements=st.integers(0, 1)),
    st.sampled_from(["row", "column"]),
)
def test_any_masks_agree_with_a_loop_over_pixels_and_decode_to_themselves(
    masks: np.ndarray, order: str
) -> None:
    codes = rle.encode(masks, order)
    assert codes == [code_pixel_by_pixel(mask, order) for mask in masks]
    np.testing.assert_array_equal(rle.decode(codes, *masks.shape[1:], order), masks)


NUMBERS = st.lists(st.integers(-1, 14) | st.integers(), max_size=8).map(
    lambda numbers: " ".join(map(str, numbers))
)


@given(st.text() | st.text("0123456789 -.\x00٣") | NUMBERS)
def test_any_text_is_refused_or_means_the_pixels_that_a_loop_over_its_runs_marks(text: str) -> None:
    try:
        decoded = rle.decode([text], 3, 4, "row")[0]
    except ValueError as error:
        assert str(error).startswith("run-length code")
        return
    numbers = [int(word) for word in text.split()]
    pixels = [
        pixel
        for start, length in zip(numbers[::2], numbers[1::2], strict=True)
        for pixel in range(start, start + length)
    ]
    assert len(set(pixels)) == len(pixels)  # runs that overlap are refused
    assert (np.flatnonzero(decoded) + 1).tolist() == pixels


def test_a_code_too_long_for_its_mask_is_refused_before_it_is_taken_apart() -> None:
    with pytest.raises(ValueError, match="longer than that of any mask of 12 pixels: '1 1 1 1"):
        rle.decode(["1 1 " * 1000], 3, 4, "row")
    longest = " ".join(f"{start} 1" for start in range(1, 101))
    assert rle.decode([longest], 10, 10, "row").all()


def test_real_codes_of_severstal_survive_decoding_and_encoding(severstal_folder) -> None:
    with open(severstal_folder / "train_rle_1740.csv", newline="") as file:
        codes = [row["EncodedPixels"] for row in csv.DictReader(file)]
    assert len(codes) == 2169
    for start in range(0, len(codes), 32):
        part = codes[start : start + 32]
        assert rle.encode(rle.decode(part, 256, 1600, "column"), "column") == part
