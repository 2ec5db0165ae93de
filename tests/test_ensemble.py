"""Averaging by name, and choosing out of fold."""

from pathlib import Path

import numpy as np
import pytest

from src import artifacts, recipe
from src.scoring import metrics
from src.terminal.errors import UserError
from src.wells import prediction, selection

NAMES = np.array([f"well_{k}" for k in range(6)], object)


def write(path: Path, names: np.ndarray, probability: np.ndarray) -> Path:
    artifacts.write_arrays(path, {"name": names, "probability": probability.astype(np.float16)}, {})
    return path


def predictions(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((6, 1, 2, 2)).astype(np.float16)


def test_predictions_are_averaged_by_name_whatever_their_order(tmp_path: Path) -> None:
    sources, order = [], np.random.default_rng(9)
    for seed in range(3):
        rows = order.permutation(6)
        parts = (rows[:2], rows[2:])  # two folds
        sources.append(
            [
                write(tmp_path / f"{seed}_{fold}.h5", NAMES[part], predictions(seed)[part])
                for fold, part in enumerate(parts)
            ]
        )
    result = selection.average(sources)
    assert result["probability"].dtype == np.float16
    assert sorted(result["name"]) == NAMES.tolist()
    mean = np.mean([predictions(seed).astype(np.float64) for seed in range(3)], axis=0)
    for name, probability in zip(result["name"], result["probability"], strict=True):
        np.testing.assert_allclose(probability, mean[NAMES.tolist().index(name)], atol=5e-4)


def test_a_single_source_comes_back_as_it_is(tmp_path: Path) -> None:
    result = selection.average([[write(tmp_path / "a.h5", NAMES, predictions(0))]])
    assert result["name"].tolist() == NAMES.tolist()
    np.testing.assert_array_equal(result["probability"], predictions(0))


@pytest.mark.parametrize(
    ("rows", "odd"),
    [
        pytest.param([0, 1, 2, 3, 4], "well_5", id="missing"),
        pytest.param([0, 1, 2, 3, 4, 5, 6], "well_6", id="extra"),
        pytest.param([0, 1, 2, 3, 4, 6], "well_5", id="other"),
        pytest.param([0, 1, 2, 3, 4, 4], "well_5", id="twice instead of another"),
        pytest.param([0, 1, 2, 3, 4, 5, 5], "twice", id="twice"),
    ],
)
def test_other_names_than_expected_are_refused(tmp_path: Path, rows: list[int], odd: str) -> None:
    names = np.array([*NAMES, "well_6"], object)[rows]
    first = write(tmp_path / "first.h5", NAMES, predictions(0))
    second = write(tmp_path / "second.h5", names, np.zeros((len(rows), 1, 2, 2)))
    with pytest.raises(UserError, match=rf"second\.h5: holds other patches.*{odd}.*--force"):
        selection.average([[first], [second]])


def test_a_name_that_stands_in_two_folds_of_the_first_source_is_refused(tmp_path: Path) -> None:
    parts = [
        write(tmp_path / f"{k}.h5", NAMES[rows], predictions(0)[rows])
        for k, rows in enumerate(([0, 1, 2, 3], [3, 4, 5]))
    ]
    with pytest.raises(UserError, match=r"0\.h5.*twice"):
        selection.average([parts])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.h5 is missing"):
        selection.average([[tmp_path / "nowhere.h5"]])


def test_rows_by_name_finds_each_wanted_name() -> None:
    have = np.array(["c", "a", "b"], object)
    assert selection.rows_by_name(have, np.array(["a", "b", "c"], object), "x").tolist() == [
        1,
        2,
        0,
    ]


def test_scored_drops_excluded_patches_and_follows_the_predictions() -> None:
    train = {
        "name": np.array(["a", "b", "c"], object),
        "fold": np.array([0, -1, 1], np.int8),
        "mask": np.array([10, 20, 30]),
    }
    kept = selection.scored(train, np.array(["c", "a"], object), Path("oof.h5"))
    assert {name: array.tolist() for name, array in kept.items()} == {
        "name": ["c", "a"],
        "fold": [1, 0],
        "mask": [30, 10],
    }
    with pytest.raises(UserError, match=r"oof\.h5"):
        selection.scored(train, np.array(["c", "a", "b"], object), Path("oof.h5"))


def test_thresholds_are_tried_one_by_one_on_probabilities_above_them() -> None:
    probability = np.array([[[0.25, 0.5, 0.75]]], np.float16)
    truth = np.array([[[0, 0, 1]]])
    scores = selection.threshold_scores(probability, truth, metrics.patch_iou)
    assert scores.shape == (len(selection.THRESHOLDS), 1)
    by_threshold = {
        round(float(threshold), 2): score
        for threshold, score in zip(selection.THRESHOLDS, scores[:, 0], strict=True)
    }
    assert by_threshold[0.05] == by_threshold[0.24] == pytest.approx(1 / 3)
    assert by_threshold[0.25] == by_threshold[0.49] == 1 / 2
    assert by_threshold[0.5] == by_threshold[0.74] == 1
    assert by_threshold[0.75] == by_threshold[0.95] == 0


def test_scores_at_all_thresholds_are_those_of_masks_cut_one_by_one() -> None:
    """Also where a probability is a threshold itself, in float16 or float32."""
    rng = np.random.default_rng(0)
    probability = rng.choice([*selection.THRESHOLDS, *rng.random(200)], size=(20, 6, 6))
    truth = rng.random((20, 6, 6)) < 0.3
    for stored in (probability.astype(np.float16), probability.astype(np.float32)):
        scores = selection.threshold_scores(stored, truth, metrics.patch_iou)
        for number, threshold in enumerate(selection.THRESHOLDS):
            mask = stored.astype(np.float64) > threshold
            union = (mask | truth).sum((1, 2))
            expected = np.where(union, (mask & truth).sum((1, 2)) / np.maximum(union, 1), 1)
            np.testing.assert_array_equal(scores[number], expected)


def test_a_choice_for_a_fold_is_made_on_the_others() -> None:
    scores = np.array(
        [
            [1.8, 0.1, 0.3],  # of 2, 1 and 1 patches; mean .55; without fold 0: .2, 1: .7, 2: .63
            [0.6, 0.8, 0.5],  # mean .475; without fold 0: .65, 1: .37, 2: .47
            [0.0, 0.9, 0.4],  # mean .325; without fold 0: .65, a tie that the first wins
        ]
    )
    choice = selection.choose(scores, np.array([2, 1, 1]))
    assert choice.overall == 0
    assert choice.without == [1, 0, 0]
    assert choice.score == pytest.approx((0.6 + 0.1 + 0.3) / 4)


def test_a_fold_without_others_is_scored_at_one_half() -> None:
    scores = np.random.default_rng(0).random((len(selection.THRESHOLDS), 1))
    choice = selection.choose(scores, np.array([1]))
    assert selection.THRESHOLDS[choice.without].tolist() == [0.5]
    assert choice.score == scores[selection.HALF, 0]


def test_a_folds_own_score_never_changes_its_own_choice() -> None:
    rng = np.random.default_rng(0)
    scores, patches = rng.random((15, 4)), np.full(4, 10)
    choice = selection.choose(scores, patches)
    for own in range(4):
        perturbed = scores.copy()
        perturbed[:, own] = rng.random(15) * 4
        perturbed[3, own] = 10
        assert selection.choose(perturbed, patches).without[own] == choice.without[own]


def test_candidates_that_score_alike_on_every_patch_tie_to_the_last_digit() -> None:
    scores, part = (
        np.random.default_rng(0).random((1, 5000)),
        np.random.default_rng(1).integers(0, 3, 5000),
    )
    sums = selection.sums(np.repeat(scores, 9, axis=0), part, 3)
    assert (sums == sums[0]).all()
    np.testing.assert_allclose(sums[0], [scores[0, part == own].sum() for own in range(3)])


def test_thresholds_are_the_best_whatever_the_blocks() -> None:
    rng = np.random.default_rng(0)
    whole = {
        "probability": rng.random((30, 4, 4)),
        "mask": rng.random((30, 4, 4)) < 0.4,
        "fold": np.repeat([0, 2, 1], 10),
    }
    blocks = [
        {name: array[rows] for name, array in whole.items()}
        for rows in (slice(0, 13), slice(13, 14), slice(14, 30))
    ]
    told = selection.thresholds(blocks, metrics.patch_iou)
    scores = [
        metrics.patch_iou(whole["probability"] > threshold, whole["mask"])
        for threshold in selection.THRESHOLDS
    ]
    for fold in range(3):
        others = [own[whole["fold"] != fold].mean() for own in scores]
        assert told["threshold_without_fold"][str(fold)] == selection.THRESHOLDS[np.argmax(others)]
    assert told["threshold"] == selection.THRESHOLDS[np.argmax([own.mean() for own in scores])]


def test_a_choice_is_described_by_its_thresholds() -> None:
    at = {
        threshold: int(np.flatnonzero(np.isclose(selection.THRESHOLDS, threshold))[0])
        for threshold in (0.005, 0.5, 0.95)
    }
    choice = selection.Choice(overall=at[0.5], without=[at[0.005], at[0.95]], score=0.75)
    told = selection.describe_thresholds(choice, [0, 3])
    assert told == {
        "threshold": 0.5,
        "threshold_without_fold": {"0": 0.005, "3": 0.95},
        "oof_score": 0.75,
    }


def test_thresholds_rise_and_lie_alike_about_one_half() -> None:
    assert (np.diff(selection.THRESHOLDS) > 0).all()
    np.testing.assert_allclose(1 - selection.THRESHOLDS[::-1], selection.THRESHOLDS)


def test_the_ensemble_is_made_from_predictions_of_todays_weights_only(tmp_path: Path) -> None:
    tree = {
        "name": "tiny",
        "competition": "x",
        "member": [{"name": "a", "network": {"name": "n"}, "phase": [{"epochs": 1}]}],
    }
    tiny = recipe.parse(tree | {"folds": {"count": 2}, "seeds": [5]}, "tiny")
    paths = artifacts.Paths(tmp_path / "data", tmp_path)
    assert [
        [file.parent.name for file in source] for source in selection.oof_files(tiny, paths)
    ] == [["fold0_seed5", "fold1_seed5"]]
    assert [[file.name for file in source] for source in selection.test_files(tiny, paths)] == [
        ["test.h5"],
        ["test.h5"],
    ]

    def make(value: float) -> None:
        """All that stages 01 and 02 would make, with weights and predictions of one value."""
        for task in tiny.tasks():
            weights = {"w": np.full(1, value, np.float32)}
            artifacts.write_weights(
                paths.weights(tiny, task), weights, prediction.weights_from(tiny, task, "p")
            )
            inputs = prediction.predictions_from(tiny, task, paths, "p")
            for file in (paths.oof(tiny, task), paths.test(tiny, task)):
                artifacts.write_arrays(
                    file, {"name": NAMES, "probability": predictions(value)}, inputs
                )

    with pytest.raises(UserError, match=r"weights\.safetensors is missing.* 01_train_folds\.py"):
        selection.created_from(tiny, paths, "p")
    make(0)
    before = selection.created_from(tiny, paths, "p")
    assert selection.created_from(tiny, paths, "p") == before
    with pytest.raises(UserError, match="01_train_folds"):
        selection.created_from(tiny, paths, "other data")
    paths.test(tiny, tiny.tasks()[1]).unlink()
    with pytest.raises(UserError, match=r"test\.h5 is missing .* 02_predict\.py"):
        selection.created_from(tiny, paths, "p")
    make(1)
    assert selection.created_from(tiny, paths, "p") != before
