"""Splits in blocks of whole wells: everything once, in order, and never more than a block in
memory.
"""

import tracemalloc
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from src import artifacts, recipe
from src.artifacts import Paths
from src.recipe import Postprocess, Recipe, Track
from src.scoring import baselines, metrics
from src.wells import blocks, postprocessing, refinement, selection

TREE = {
    "name": "tiny",
    "competition": "corroseg",
    "member": [{"name": "a", "network": {"name": "n"}, "phase": [{"epochs": 1}]}],
}
TINY = recipe.parse(TREE | {"folds": {"count": 2}}, "tiny")


def split(sizes: list[int], seed: int = 0) -> dict[str, np.ndarray]:
    """Wells of so many patches, every third of them interleaved, and some patches that do not
    count.
    """
    rng, group = (
        np.random.default_rng(seed),
        np.repeat(np.arange(1, len(sizes) + 1), sizes).astype(np.int32),
    )
    number, twins = np.concatenate([np.arange(size) for size in sizes]), group % 3 == 0
    mask = (rng.random((len(group), 36, 36)) < 0.1).astype(np.uint8)
    return {
        "name": np.array(
            [f"well_{g}_patch_{n}" for g, n in zip(group, number, strict=True)], object
        ),
        "image": (rng.normal(size=mask.shape) - mask).astype(np.float32),
        "valid": rng.random(mask.shape) < 0.99,
        "group": group,
        "depth": np.where(twins, number // 2, number).astype(np.int32),
        "phase": np.where(twins, number % 2, 0).astype(np.int32),
        "mask": mask,
        "fold": np.where(rng.random(len(group)) < 0.1, -1, group % 2).astype(np.int8),
    }


def place(folder: Path, train: dict[str, np.ndarray], test: dict[str, np.ndarray]) -> Paths:
    """A data directory with both splits prepared and predicted, out of fold in another order
    than they are prepared in.
    """
    paths, rng = Paths(folder / "data", folder / "submissions"), np.random.default_rng(1)
    test = {name: array for name, array in test.items() if name not in ("mask", "fold")}
    artifacts.write_splits(paths.prepared(TINY), {"train": train, "test": test}, {})
    for task in TINY.tasks():
        own = rng.permutation(np.flatnonzero(train["fold"] == task.fold))
        for path, names, shape in (
            (paths.oof(TINY, task), train["name"][own], len(own)),
            (paths.test(TINY, task), test["name"], len(test["name"])),
        ):
            artifacts.write_arrays(
                path,
                {"name": names, "probability": rng.random((shape, 1, 36, 36)).astype(np.float16)},
                {},
            )
    return paths


@pytest.mark.parametrize("sizes", [[3, 5, 2, 9, 1, 1], [30], [4, 4, 4, 4]])
def test_blocks_are_whole_wells_in_order_and_no_larger_than_they_must(
    tmp_path: Path, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "PATCHES", 8)
    train = split(sizes)
    paths = place(tmp_path, train, train)
    for part, wanted in (("train", train["fold"] >= 0), ("test", train["fold"] > -2)):
        wells = blocks.prepared(TINY, paths, part, ["image", "valid"])
        found = list(wells)
        for name in ("name", "group", "depth", "image", "valid"):
            np.testing.assert_array_equal(
                np.concatenate([block[name] for block in found]), train[name][wanted]
            )
        np.testing.assert_array_equal(
            np.concatenate([block["place"] for block in found]), np.arange(len(wells))
        )
        groups = [np.unique(block["group"]).tolist() for block in found]
        assert sum(map(len, groups)) == len(sizes), "a well is torn apart"
        assert all(
            len(block["name"]) <= 8 or len(own) == 1
            for block, own in zip(found, groups, strict=True)
        )
        assert all(
            len(a["name"]) + np.sum(b["group"] == b["group"][0]) > 8 for a, b in pairwise(found)
        )
        (last,) = wells.of([len(sizes)])
        np.testing.assert_array_equal(
            last["image"], train["image"][wanted & (train["group"] == len(sizes))]
        )


def test_predictions_are_joined_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "PATCHES", 8)
    train, test = split([3, 5, 2, 9]), split([4, 6], 1)
    paths = place(tmp_path, train, test)
    selection.write(TINY, paths, "p", {})
    oof = {}
    for task in TINY.tasks():
        own = artifacts.read_arrays(paths.oof(TINY, task), ["name", "probability"])
        oof |= dict(zip(own["name"], own["probability"], strict=True))
    wells = selection.predicted(TINY, paths, "train")
    for block in wells:
        for name, probability, mask in zip(
            block["name"], block["probability"], block["mask"], strict=True
        ):
            np.testing.assert_array_equal(probability, oof[name][0])
            np.testing.assert_array_equal(mask, train["mask"][train["name"] == name][0])
    assert {name for block in wells for name in block["name"]} == set(oof)
    parts = [
        artifacts.read_arrays(paths.test(TINY, task), ["probability"])["probability"][:, 0].astype(
            float
        )
        for task in TINY.tasks()
    ]
    found = np.concatenate(
        [block["probability"] for block in selection.predicted(TINY, paths, "test")]
    )
    np.testing.assert_allclose(found, np.mean(parts, axis=0), atol=5e-4)


SETTINGS = Postprocess(
    betas=[1.0], min_sizes=[0, 4], min_in_patch=[0, 200], track=[Track()], by_scan=True
)


def stages(
    chosen: Recipe, paths: Paths
) -> tuple[refinement.Chosen, float, blocks.Blocks, blocks.Blocks]:
    """What stages 03 and 04 do with arrays."""
    selection.write(chosen, paths, "p", {})
    train, test = (selection.predicted(chosen, paths, part) for part in ("train", "test"))
    best = refinement.choose(
        train, artifacts.read_notes(paths.ensemble(chosen)), SETTINGS, metrics.patch_iou
    )
    level = baselines.fit_intensity(train, metrics.patch_iou)
    examined = [
        postprocessing.examined(own, best, level, SETTINGS, metrics.patch_iou)[0]
        for own in (train, test)
    ]
    postprocessing.expected(chosen, paths, *examined)
    return best, level, *examined


def test_results_do_not_depend_on_the_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = place(tmp_path, split([12, 10, 8, 14, 10, 6]), split([9, 12, 7], 1))
    results = []
    for patches in (1, 20, 1000):
        monkeypatch.setattr(blocks, "PATCHES", patches)
        results.append(stages(TINY, paths))
    (whole,) = results[2][2]
    levels = np.quantile(whole["image"], np.linspace(0.001, 0.3, 40))
    assert results[0][1] == max(
        levels, key=lambda level: metrics.patch_iou(whole["image"] < level, whole["mask"]).mean()
    )
    for best, level, *examined in results[:2]:
        assert (best.refinement, best.for_interleaved, best.honest) == (
            results[2][0].refinement,
            results[2][0].for_interleaved,
            results[2][0].honest,
        )
        assert level == results[2][1]
        for own, expected in zip(examined, results[2][2:], strict=True):
            assert own.index.keys() == expected.index.keys()
            for name, array in own.index.items():
                np.testing.assert_array_equal(array, expected.index[name])


def peak(do: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        do()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_four_times_the_wells_take_hardly_more_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A patch has 11 KB of arrays, of which a thousandth of a MiB may stay in memory: names,
    scores, and masks as bits.
    """
    monkeypatch.setattr(blocks, "PATCHES", 20)
    monkeypatch.setattr(
        postprocessing,
        "slices",
        lambda number: (slice(row, min(row + 20, number)) for row in range(0, number, 20)),
    )
    peaks = {}
    monkeypatch.setitem(
        globals(), "SETTINGS", Postprocess(random_walker=False, min_sizes=[0], track=[Track()])
    )
    for number in (10, 40):
        sizes = [10] * number
        paths = place(tmp_path / str(number), split(sizes), split(sizes, 1))
        stages(TINY, paths)  # once, so that what is imported late is there
        peaks[number] = peak(partial(stages, TINY, paths))
    assert (peaks[40] - peaks[10]) / (2 * 300) < 2000
