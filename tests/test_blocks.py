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

from src import recipe
from src.artifacts import hdf5, lineage, sealed
from src.artifacts.run import Run
from src.competitions.formats.masks import slices
from src.recipe import Recipe
from src.scoring import averaging, baselines
from src.stages import submit
from src.wells import blocks, submission
from src.wells.blocks import Blocks
from src.wells.postprocess import selection
from src.wells.postprocess.selection import Selection
from tests.tiny import Arrays, patch_iou, run_of

TREE = {
    "name": "tiny",
    "competition": "corroseg",
    "folds": {"count": 2},
    "member": [{"name": "a", "network": {"name": "ring_unet"}, "phase": [{"epochs": 1}]}],
    "postprocess": {
        "betas": [1.0],
        "min_sizes": [0, 4],
        "min_in_patch": [0, 200],
        "hmm": [{}],
        "by_scan": True,
    },
}
TINY = recipe.parse(TREE, "tiny")


def split(sizes: list[int], seed: int = 0) -> Arrays:
    """Wells of so many patches, every third of them interleaved, and some patches that do not
    count.
    """
    rng, group = (
        np.random.default_rng(seed),
        np.repeat(np.arange(1, len(sizes) + 1), sizes).astype(np.int32),
    )
    number, interleaved = np.concatenate([np.arange(size) for size in sizes]), group % 3 == 0
    mask = (rng.random((len(group), 36, 36)) < 0.1).astype(np.uint8)
    return {
        "name": np.array(
            [f"well_{g}_patch_{n}" for g, n in zip(group, number, strict=True)], object
        ),
        "image": (rng.normal(size=mask.shape) - mask).astype(np.float32),
        "valid": rng.random(mask.shape) < 0.99,
        "group": group,
        "depth": np.where(interleaved, number // 2, number).astype(np.int32),
        "parity": np.where(interleaved, number % 2, 0).astype(np.int32),
        "mask": mask,
        "fold": np.where(rng.random(len(group)) < 0.1, -1, group % 2).astype(np.int8),
    }


def place(folder: Path, train: Arrays, test: Arrays, chosen: Recipe = TINY) -> Run:
    """A run with both splits prepared and predicted, out of fold in another order than they are
    prepared in.
    """
    test = {name: array for name, array in test.items() if name not in ("mask", "fold")}
    run, rng = run_of(folder, chosen, train, test), np.random.default_rng(1)
    for task in run.tasks():
        weights = {"w": np.full(1, task.fold, np.float32)}
        sealed.write_weights(run.weights(task), weights, lineage.weights(run, task))
        own = rng.permutation(np.flatnonzero(train["fold"] == task.fold))
        for path, names, inputs in (
            (run.oof(task), train["name"][own], lineage.oof(run, task)),
            (run.test(task), test["name"], lineage.test(run, task)),
        ):
            probability = rng.random((len(names), 1, 36, 36)).astype(np.float16)
            hdf5.write(path, {"name": names, "probability": probability}, inputs)
    return run


@pytest.mark.parametrize("sizes", [[3, 5, 2, 9, 1, 1], [30], [4, 4, 4, 4]])
def test_blocks_are_whole_wells_in_order_and_no_larger_than_they_must(
    tmp_path: Path, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "PATCHES", 8)
    train = split(sizes)
    run = place(tmp_path, train, train)
    for part, wanted in (("train", train["fold"] >= 0), ("test", train["fold"] > -2)):
        wells = blocks.prepared(run, part, "image", "valid")
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
    run, oof = place(tmp_path, train, test), {}
    for task in run.tasks():
        own = hdf5.read(run.oof(task), "name", "probability")
        oof |= dict(zip(own["name"], own["probability"], strict=True))
    wells = selection.predicted(run, "train", averaging.oof(run), "mask")
    for block in wells:
        for name, probability, mask in zip(
            block["name"], block["probability"], block["mask"], strict=True
        ):
            np.testing.assert_array_equal(probability, oof[name][0])
            np.testing.assert_array_equal(mask, train["mask"][train["name"] == name][0])
    assert {name for block in wells for name in block["name"]} == set(oof)
    parts = [hdf5.read(run.test(task), "probability")["probability"][:, 0] for task in run.tasks()]
    found = [b["probability"] for b in selection.predicted(run, "test", averaging.test(run))]
    mean = np.mean([part.astype(float) for part in parts], axis=0)
    np.testing.assert_allclose(np.concatenate(found), mean, atol=5e-4)


Found = tuple[Selection, float, Blocks, Blocks]


def stages(run: Run) -> Found:
    """What stages 03 and 04 do with arrays."""
    selection.write(run)
    averaging.write(run, lineage.ensemble(run))
    submit.write_masks(run)
    train, test = (submission.masked(run, part) for part in ("train", "test"))
    level = baselines.fit_intensity(train, patch_iou)
    evaluated = [submission.evaluated(own, level, patch_iou) for own in (train, test)]
    submission.expected(run, *evaluated)
    return selection.read(run), level, *evaluated


def test_results_do_not_depend_on_the_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = place(tmp_path, split([12, 10, 8, 14, 10, 6]), split([9, 12, 7], 1))
    results, files = [], []
    for patches in (1, 20, 1000):
        monkeypatch.setattr(blocks, "PATCHES", patches)
        results.append(stages(run))
        files.append(run.ensemble.read_bytes())
    assert files[0] == files[1] == files[2]
    (whole,) = results[2][2]
    levels = np.quantile(whole["image"], np.linspace(0.001, 0.3, 40))
    assert results[0][1] == max(
        levels, key=lambda level: patch_iou(whole["image"] < level, whole["mask"]).mean()
    )
    for own, level, *evaluated in results[:2]:
        for name in ("final", "without", "plain", "threshold"):
            assert getattr(own, name) == getattr(results[2][0], name)
        assert level == results[2][1]
        for some, expected in zip(evaluated, results[2][2:], strict=True):
            assert some.index.keys() == expected.index.keys()
            for name, array in some.index.items():
                np.testing.assert_array_equal(array, expected.index[name])


def test_the_score_is_that_of_the_masks_in_the_ensembles_file(tmp_path: Path) -> None:
    """As a reader computes it who knows the file and the truth alone."""
    train = split([12, 10, 8, 14])
    run = place(tmp_path, train, split([9, 7], 1))
    own, _, evaluated, _ = stages(run)
    found = hdf5.read(run.ensemble, "oof/name", "oof/mask")
    truth = dict(zip(train["name"], train["mask"], strict=True))
    assert set(found["oof/name"]) == set(train["name"][train["fold"] >= 0])
    scores = []
    for name, (mask,) in zip(found["oof/name"], found["oof/mask"], strict=True):
        union = np.count_nonzero(mask | truth[name])
        scores.append(np.count_nonzero(mask & truth[name]) / union if union else 1)
    assert np.mean(scores) == pytest.approx(evaluated.index["score"].mean(), abs=1e-12)
    assert np.mean(scores) == pytest.approx(own.score, abs=1e-12)


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
    monkeypatch.setattr(averaging, "BATCH", 20 * 4 * 36 * 36)
    monkeypatch.setattr(submission, "slices", partial(slices, rows=20))
    few = {"random_walker": False, "min_sizes": [0], "hmm": [{}]}
    chosen, peaks = recipe.parse(TREE | {"postprocess": few}, "tiny"), {}
    for number in (10, 40):
        sizes = [10] * number
        run = place(tmp_path / str(number), split(sizes), split(sizes, 1), chosen)
        stages(run)  # once, so that what is imported late is there
        peaks[number] = peak(partial(stages, run))
    assert (peaks[40] - peaks[10]) / (2 * 300) < 2000
