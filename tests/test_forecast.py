"""The forecast holds what it promises on simulated wells; and the trial that shows it on
generated ones.
"""

import json
import re

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from src import recipe
from src.modality import open_run
from src.scoring import forecast
from src.studies import trial
from src.terminal.errors import UserError
from src.wells import submission
from src.wells.blocks import Blocks

TRAIN_PATCHES = np.array([129, 100, 83, 65, 54, 48, 36, 30, 6, 2])
TEST_PATCHES = np.array([70, 55, 41, 30])
RECIPE = """
competition = "demo"
[generate]
train_patches = 60
test_patches = 8
[folds]
count = 2
[[member]]
name = "net"
network = { name = "ring_unet", channels = [4, 8] }
[[member.phase]]
epochs = 1
learning_rate = 0.01
[postprocess]
random_walker = false
"""


def wells_of(patches: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(len(patches)), patches)


def simulate(rng: np.random.Generator, patches: np.ndarray) -> np.ndarray:
    """Scores of patches: wells differ by a skewed distribution, and stretches of 6 patches
    within a well alike.
    """
    level = np.repeat(rng.beta(5, 2, len(patches)), patches)
    stretches = np.concatenate(
        [np.repeat(rng.normal(0, 0.15, size // 6 + 1), 6)[:size] for size in patches]
    )
    return (level + stretches + rng.normal(0, 0.15, len(level))).clip(0, 1)


def test_nine_in_ten_simulated_test_scores_fall_inside_and_the_forecast_is_not_off_on_average():
    rng, inside, by_patch, off = np.random.default_rng(0), [], [], []
    for challenge in range(400):
        score, truth = simulate(rng, TRAIN_PATCHES), simulate(rng, TEST_PATCHES).mean()
        told = forecast.expect(score, wells_of(TRAIN_PATCHES), TEST_PATCHES)
        inside.append(told.low <= truth <= told.high)
        off.append(told.score - truth)
        # what resampling patches instead of wells comes to: every patch a well of its own
        if challenge < 100:
            told = forecast.expect(score, np.arange(len(score)), np.ones(TEST_PATCHES.sum(), int))
            by_patch.append(told.low <= truth <= told.high)
    assert 0.87 <= np.mean(inside) <= 0.94
    assert abs(np.mean(off)) < 0.015
    assert np.mean(by_patch) < 0.6


def test_wells_without_chance_within_them_give_students_t():
    """The closed form for a flat distribution of the spread: k - 2 degrees of freedom, the sum
    of squares shared out among them.
    """
    mean = np.random.default_rng(0).normal(0.6, 0.05, 10)
    told = forecast.expect(np.repeat(mean, 40), np.repeat(np.arange(10), 40), TEST_PATCHES)
    share = TEST_PATCHES / TEST_PATCHES.sum()
    half = student.ppf(0.95, 8) * np.sqrt(
        ((mean - mean.mean()) ** 2).sum() / 8 * (1 / 10 + (share**2).sum())
    )
    assert told.score == pytest.approx(mean.mean())
    assert [told.low, told.high] == pytest.approx(
        [mean.mean() - half, mean.mean() + half], abs=0.002
    )


def test_wells_that_differ_by_chance_alone_are_as_sure_as_their_patches():
    score = np.random.default_rng(0).normal(0.5, 0.1, 20000)
    told = forecast.expect(score, np.repeat(np.arange(20), 1000), np.array([50, 50]))
    assert told.high - told.low == pytest.approx(2 * 1.645 * 0.1 / 10, rel=0.2)


def test_the_forecast_is_the_mean_over_patches_and_always_the_same():
    score, well = simulate(np.random.default_rng(0), TRAIN_PATCHES), wells_of(TRAIN_PATCHES)
    told = forecast.expect(score, well, TEST_PATCHES)
    assert told.score == pytest.approx(score.mean())
    assert 0 <= told.low < told.score < told.high <= 1
    assert forecast.expect(score, well, TEST_PATCHES) == told
    renamed = forecast.expect(score, 9 - well, TEST_PATCHES[::-1])
    assert [renamed.score, renamed.low, renamed.high] == pytest.approx(
        [told.score, told.low, told.high]
    )


def test_one_huge_test_well_is_less_certain_than_many_alike():
    score, well = simulate(np.random.default_rng(0), TRAIN_PATCHES), wells_of(TRAIN_PATCHES)
    huge, alike, small = (
        forecast.expect(score, well, np.array(patches))
        for patches in ([185, 5, 5, 5], [50] * 4, [2] * 4)
    )
    assert huge.high - huge.low > 1.3 * (alike.high - alike.low)
    # the same number of wells, but chance within them
    assert small.high - small.low > 1.05 * (alike.high - alike.low)


@pytest.mark.parametrize("patches", [1, 40])
def test_one_well_says_next_to_nothing_about_others(patches):
    told = forecast.expect(np.full(patches, 0.6), np.zeros(patches), np.array([30]))
    assert told.score == pytest.approx(0.6)
    assert told.low < 0.1 and told.high == 1


def test_chance_knows_that_neighbours_resemble_each_other():
    rng = np.random.default_rng(0)
    apart, alike = [rng.normal(size=1600)] * 5, [np.repeat(rng.normal(size=400), 4)] * 5
    assert forecast.chance(apart, 64) == pytest.approx(1 / 64, rel=0.25)
    assert forecast.chance(alike, 64) == pytest.approx(1 / 16, rel=0.25)
    assert forecast.chance(alike, 2) == pytest.approx(1, rel=0.25)
    assert forecast.chance([np.array([0.3]), np.array([0.9])], 5) == 0  # nothing to tell it from


def test_averaging_removes_the_variance_among_the_networks_from_their_squared_error():
    rng = np.random.default_rng(0)
    truth = rng.random((40, 6, 6)) < 0.3
    folds = (truth * 0.5 + 0.2 + rng.normal(0, 0.2, (5, 40, 6, 6))).clip(0, 1)
    alone, together = np.mean((folds - truth) ** 2), np.mean((folds.mean(0) - truth) ** 2)
    oof = np.concatenate(folds)  # as if the training patches were as hard as those of the test
    true = np.concatenate([truth] * 5)
    removed = forecast.removed_by_averaging(
        [folds[:, :7], folds[:, 7:]], [(oof[:50], true[:50]), (oof[50:], true[50:])]
    )
    assert removed == pytest.approx(1 - together / alone)
    assert forecast.removed_by_averaging([folds[:1]], [(oof, true)]) == 0
    # no error, nothing to remove
    assert forecast.removed_by_averaging([folds], [(truth.astype(float), truth)]) == 0


def test_what_averaging_removes_is_taken_off_what_the_score_lacks():
    score, well = simulate(np.random.default_rng(0), TRAIN_PATCHES), wells_of(TRAIN_PATCHES)
    told = forecast.expect(score, well, TEST_PATCHES, removed=0.25)
    assert told.score == pytest.approx(1 - 0.75 * (1 - score.mean()))
    assert told.low < told.score < told.high


def test_a_random_split_gives_no_forecast(tmp_path):
    (tmp_path / "tiny.toml").write_text(RECIPE)
    by_patch = recipe.load(str(tmp_path / "tiny.toml"), ['folds={ scheme = "random", count = 2 }'])
    nothing = Blocks({}, lambda place: {})
    run = open_run(by_patch, tmp_path, tmp_path)
    assert submission.expected(run, nothing, nothing) == {}


def run(folder, *more: str) -> pd.DataFrame:
    (folder / "tiny.toml").write_text(RECIPE)
    options = [
        str(folder / "tiny.toml"),
        "--data-dir",
        str(folder / "data"),
        "--device",
        "cpu",
        "--jobs",
        "1",
        *more,
    ]
    trial.main(trial.parser().parse_args(options))
    return pd.read_csv(folder / "data/trials/tiny/table.csv")


def test_a_trial_keeps_what_it_measured_and_does_not_measure_it_again(tmp_path, monkeypatch):
    logs, promise = [], trial.promise
    monkeypatch.setattr(
        trial,
        "promise",
        lambda run: logs.append((run.data / "log.txt").read_text()) or promise(run),
    )
    asked = ["--challenges", "2", "--first-seed", "3", "--set", "generate.train_patches=50"]
    table = run(tmp_path, *asked)
    folder = tmp_path / "data/trials/tiny"
    assert {path.name for path in folder.iterdir() if path.suffix != ".lock"} == {
        "seed3.json",
        "seed4.json",
        "table.csv",
        "table.md",
    }
    assert list(table["seed"]) == [3, 4]
    measured = json.loads((folder / "seed3.json").read_text())
    assert (
        sum(map(len, measured["train"].values())) <= 50
        and len(measured["train"]) == len(measured["fold"]) == 10
    )
    weighted = sum(well["patches"] * well["score"] for well in measured["test"].values()) / 8
    assert table["truth"][0] == pytest.approx(measured["test_score"]) == pytest.approx(weighted)
    out_of_fold = np.mean(np.concatenate(list(measured["train"].values())))
    assert 0 < measured["removed_by_averaging"] < 1
    assert table["forecast"][0] == pytest.approx(
        1 - (1 - out_of_fold) * (1 - measured["removed_by_averaging"])
    )
    assert table["random split promised"][0] == pytest.approx(measured["promise"])
    assert ((table["inside"] == "yes") == table["truth"].between(table["low"], table["high"])).all()

    text = (folder / "table.md").read_text()
    assert "generate.train_patches=50" in text and "of 2 challenges" in text and "promise" in text

    told = re.search(
        r"score to expect on the test wells (\S+), 90 % interval (\S+) to (\S+)", logs[0]
    )
    assert [float(number) for number in told.groups()] == pytest.approx(
        [*table.loc[0, ["forecast", "low", "high"]]], abs=0.006
    )

    ran = []
    monkeypatch.setattr(trial, "prepare", lambda run: ran.append(run.recipe.name))
    pd.testing.assert_frame_equal(run(tmp_path, *asked), table)
    assert not ran
    # another recipe has to be run, and here nothing is
    with pytest.raises(UserError, match="missing"):
        run(tmp_path, *asked, "--set", "member.phase.epochs=2")
    assert ran == ["trial_3"]


def test_a_trial_needs_challenges_with_a_known_truth(tmp_path):
    with pytest.raises(UserError, match="not generated"):
        run(tmp_path, "--set", "competition=corroseg")
