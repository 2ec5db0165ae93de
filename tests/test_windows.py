"""Averages along depth, against a loop over pixels; the canvas of what is trained on, which stays
on disk, against a canvas laid out row by row.
"""

import numpy as np
import pytest
import torch

from src.artifacts import hdf5
from src.networks import devices
from src.recipe import Task
from src.recipe.schema import Data
from src.training.data import Batch
from src.wells import blocks, geometry, windows
from src.wells.batches import WellTrainingSet
from src.wells.windows import Windows, averaged
from tests import tiny
from tests.tiny import CPU


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


HEIGHT = 8
AUGMENTED = {"texture": 0.5, "gain": 0.1, "cutmix": 0.5}


def prepared() -> dict[str, np.ndarray]:
    """`split` and a third well to train on: some pixels and patches do not count, and well 1 is in
    two folds.
    """
    arrays, rng = split(), np.random.default_rng(1)
    for name, more in (("group", [3] * 4), ("depth", [0, 1, 2, 4]), ("parity", [0] * 4)):
        arrays[name] = np.append(arrays[name], more).astype(np.int32)
    arrays["image"] = rng.normal(2, 3, (11, 6, 5)).astype(np.float32)
    arrays["mask"] = (rng.random((11, 6, 5)) < 0.3).astype(np.uint8)
    arrays["mask"][7:9] = 0
    arrays["valid"] = rng.random((11, 6, 5)) < 0.9
    arrays["valid"][7:9] = True
    fold = np.array([0, 1, -1, 0, 0, 0, 0, 1, 1, 1, 1], np.int8)
    return arrays | {"fold": fold, "name": np.array([f"patch {row}" for row in range(11)])}


def training_set(folder, fold=1, per_pixel=False, **member) -> WellTrainingSet:
    scaling = Data(scaling="per_pixel" if per_pixel else "global")
    chosen = tiny.tiny(height=HEIGHT, **member).model_copy(update={"data": scaling})
    task, run = Task("net", fold, 0), tiny.run_of(folder, chosen)
    if not run.prepared("train").exists():
        hdf5.write(run.prepared("train"), prepared(), {})
    return WellTrainingSet.of(run, task, blocks.read_split(run, "train"), CPU)


def by_hand(source: WellTrainingSet) -> list[np.ndarray]:
    """Image, mask and weight (R, W) of the canvas, each row looked for among all patches."""
    arrays, fold, laid = prepared(), source.task.fold, [[], [], []]
    counts = (arrays["fold"] >= 0) & (arrays["fold"] != fold)
    scaled = source.scaling.apply(arrays["image"])
    keys = list(zip(arrays["group"], arrays["parity"], arrays["depth"], strict=True))
    for well, parity in sorted({key[:2] for key in keys}):
        if not counts[arrays["group"] == well].any():
            continue
        rows = {
            6 * key[2] + row: (patch, row)
            for patch, key in enumerate(keys)
            if key[:2] == (well, parity)
            for row in range(6)
        }
        first, last = min(rows), max(rows)
        for place in range(first - HEIGHT, last + HEIGHT + 1):
            inside = min(max(place, first), last)
            # of two as near, the one below
            at = rows[min(rows, key=lambda row: (abs(row - inside), -row))]
            laid[0].append(scaled[at])
            laid[1].append(arrays["mask"][at])
            laid[2].append(arrays["valid"][at] & counts[at[0]] & (place in rows))
    return [np.array(layer).astype(np.float32) for layer in laid]


@pytest.mark.parametrize("per_pixel", [False, True])
@pytest.mark.parametrize("fold", [0, 1])
def test_the_canvas_on_disk_is_the_one_laid_out_by_hand(tmp_path, monkeypatch, fold, per_pixel):
    monkeypatch.setattr(windows, "ROWS", 7)
    source = training_set(tmp_path, fold, per_pixel)
    own, expected = source.windows, by_hand(source)
    every, weight = torch.arange(len(expected[0])), expected[2]
    for layer, by_row in zip((own.image, own.mask, own.weight), expected, strict=True):
        assert isinstance(layer, windows.Stored) and layer.shape == by_row.shape
        np.testing.assert_array_equal(layer[every].numpy(), by_row)
        np.testing.assert_array_equal(layer[every.flip(0)[None]].numpy(), by_row[None, ::-1])
    for tensor, by_row in zip(
        (own.loaded().image, own.loaded().mask, own.loaded().weight), expected, strict=True
    ):
        np.testing.assert_array_equal(tensor.numpy(), by_row)
    tiles = [
        start
        for first, length in zip(own.canvas.first, own.canvas.length, strict=True)
        for start in range(first, first + length, HEIGHT)
        if weight[start : start + HEIGHT].any()
    ]
    assert sorted(own.shuffled(False, torch.Generator().manual_seed(0)).tolist()) == tiles
    assert own.defect_free.tolist() == [
        start
        for start in range(len(weight) - HEIGHT + 1)
        if weight[start : start + HEIGHT].all() and not expected[1][start : start + HEIGHT].any()
    ]
    assert (len(own.defect_free) > 0) == (fold == 0)


def test_averages_of_what_is_trained_on_stay_on_disk_and_are_those_of_scaled_images(tmp_path):
    network = {"name": "ring_unet", "channels": [4, 8], "inputs": 3}
    source = training_set(tmp_path, 1, True, depth_averages=[5, 9], network=network)
    arrays = prepared()
    near = blocks.rows_of(arrays, np.isin(arrays["group"], [1, 2]))
    scaled = near | {"image": source.scaling.apply(near["image"])}
    expected, starts = Windows.of(scaled, HEIGHT, CPU, averages=[5, 9]), torch.arange(0, 70, 3)
    assert all(isinstance(layer, windows.Stored) for layer in source.windows.further)
    assert torch.equal(source.windows.inputs(starts), expected.inputs(starts))
    assert not list(tmp_path.glob("runs/**/*.*")), "a file is left"


def epoch(source: WellTrainingSet) -> list[Batch]:
    return list(source.epoch(0, seed=3)[1])


def test_two_tasks_share_the_prepared_file_and_leave_nothing_beside_it(tmp_path):
    first, second = (training_set(tmp_path, fold, augment=AUGMENTED) for fold in (0, 0))
    other = training_set(tmp_path, 1)
    batches = zip(first.epoch(0, 3)[1], second.epoch(0, 3)[1], strict=True)
    alone = epoch(training_set(tmp_path / "alone", 0, augment=AUGMENTED))
    for (mine, theirs), expected in zip(batches, alone, strict=True):
        assert all(map(torch.equal, mine, expected)) and all(map(torch.equal, theirs, expected))
    expected = by_hand(other)[0]
    np.testing.assert_array_equal(other.windows.image[torch.arange(len(expected))], expected)
    folder = first.run.prepared("train").parent
    assert [path.name for path in folder.iterdir()] == ["train.h5"]


def test_what_a_device_has_room_for_is_loaded_and_gives_the_same_batches(tmp_path, monkeypatch):
    on_disk = training_set(tmp_path, 0, augment=AUGMENTED)
    layers = (on_disk.windows.image, on_disk.windows.mask, on_disk.windows.weight)
    size = sum(4 * len(layer.whole().flatten()) for layer in layers)
    for room, kind in ((size - 1, windows.Stored), (size, torch.Tensor)):
        monkeypatch.setattr(devices, "room", lambda device, room=room: room)
        source = training_set(tmp_path, 0, augment=AUGMENTED)
        assert isinstance(source.windows.image, kind)
        for got, expected in zip(epoch(source), epoch(on_disk), strict=True):
            assert all(map(torch.equal, got, expected))
