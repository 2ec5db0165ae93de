"""Averages along depth, against a loop over pixels."""

import numpy as np
import pytest
import torch

from src.wells import geometry
from src.wells.windows import Windows, averaged

CPU = torch.device("cpu")


def split() -> dict[str, np.ndarray]:
    """Well 1 in four patches of which one is missing; well 2 interleaved, two patches deep."""
    rng = np.random.default_rng(0)
    group = np.array([1, 1, 1, 2, 2, 2, 2], np.int32)
    depth, parity = (
        np.array([3, 0, 1, 0, 1, 0, 1], np.int32),
        np.array([0, 0, 0, 0, 0, 1, 1], np.int32),
    )
    image = rng.normal(0, 1, (7, 6, 5)).astype(np.float32) + rng.normal(0, 5, (7, 6, 1)).astype(
        np.float32
    )
    return {"image": image, "group": group, "depth": depth, "parity": parity}


def strips(arrays):
    return geometry.strips(arrays["group"], arrays["depth"], arrays["parity"])


@pytest.mark.parametrize("rows", [1, 5, 9, 101])
def test_averages_along_depth_equal_a_loop(rows):
    arrays = split()
    place = {}  # row of pipe -> its values, less their median
    for patch, key in enumerate(
        zip(arrays["group"], arrays["parity"], arrays["depth"], strict=True)
    ):
        for row in range(6):
            values = arrays["image"][patch, row]
            place[(key[0], key[1], 6 * key[2] + row)] = values - sorted(values)[2]
    got = averaged(arrays["image"], strips(arrays), rows)
    for patch, (well, parity, depth) in enumerate(
        zip(arrays["group"], arrays["parity"], arrays["depth"], strict=True)
    ):
        for row in range(6):
            at = 6 * depth + row
            near = [
                place[key]
                for other in range(at - rows // 2, at + rows // 2 + 1)
                if (key := (well, parity, other)) in place
            ]
            np.testing.assert_allclose(got[patch, row], np.mean(near, axis=0), atol=1e-5)


def test_a_well_has_no_say_in_the_averages_of_another():
    clean, poisoned = split(), split()
    poisoned["image"][clean["group"] == 2] *= 1e6
    before, after = (averaged(arrays["image"], strips(arrays), 9) for arrays in (clean, poisoned))
    np.testing.assert_array_equal(before[:3], after[:3])
    assert not np.array_equal(before[3:], after[3:])


def test_a_window_shows_the_pipe_and_its_averages_as_channels():
    arrays = split()
    windows = Windows.of(arrays, 6, CPU, averages=[5, 9])
    starts = torch.from_numpy(windows.canvas.position[::6])  # the patches by themselves
    expected = np.stack(
        [
            arrays["image"],
            *(averaged(arrays["image"], strips(arrays), rows) for rows in (5, 9)),
        ],
        axis=1,
    )
    np.testing.assert_array_equal(windows.inputs(starts).numpy(), expected)
    assert Windows.of(arrays, 6, CPU).inputs(starts).shape == (7, 1, 6, 5)
