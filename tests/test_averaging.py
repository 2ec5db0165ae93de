"""Averages by name: seeds, folds and members, whatever their order and size."""

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from src import recipe
from src.artifacts import hdf5, lineage, sealed
from src.artifacts.run import Run
from src.recipe import Task
from src.scoring import averaging
from src.scoring.averaging import Average
from src.terminal.errors import UserError
from tests import tiny

NAMES = np.array([f"well_{k}" for k in range(6)], object)


def write(path: Path, names: np.ndarray, probability: np.ndarray) -> Path:
    hdf5.write(path, {"name": names, "probability": probability.astype(np.float16)}, {})
    return path


def predictions(seed: float) -> np.ndarray:
    return np.random.default_rng(int(seed)).random((6, 1, 2, 2)).astype(np.float16)


def all_of(average: Average) -> np.ndarray:
    return average.mean(np.arange(len(average)))


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
    average = Average(sources)
    assert all_of(average).dtype == np.float16
    assert sorted(average.names) == NAMES.tolist() and average.shape == (1, 2, 2)
    mean = np.mean([predictions(seed).astype(np.float64) for seed in range(3)], axis=0)
    for name, probability in zip(average.names, all_of(average), strict=True):
        expected = mean[NAMES.tolist().index(name)]
        np.testing.assert_allclose(probability, expected, atol=5e-4)
        assert average.of(name).dtype == np.float32
        np.testing.assert_array_equal(average.of(name), probability.astype(np.float32))


def test_the_deviation_is_that_of_numpy_over_the_sources(tmp_path: Path) -> None:
    every = np.stack([predictions(seed) for seed in range(5)])
    every[1:, 2], every[:, 3] = every[0, 2], [[[[0, 1]] * 2]]  # all agree
    every[:2, 4], every[2:4, 4] = 0, 1
    sources = [[write(tmp_path / f"{n}.h5", NAMES, own)] for n, own in enumerate(every)]
    apart = Average(sources).deviation(np.array([5, 3, 4, 2]))
    wanted = every.astype(np.float64).std(0)[[5, 3, 4, 2]]
    assert apart.dtype == np.float16 and not apart[1].any() and not apart[3].any()
    np.testing.assert_allclose(apart, wanted, atol=5e-4)
    one = Average(sources[:1]).of("well_0", deviation=True)
    assert one.shape == (1, 2, 2) and not one.any()


def test_some_places_are_read_in_the_order_asked_for_and_in_an_order_of_ones_own(
    tmp_path: Path,
) -> None:
    mixed = np.array([4, 0, 5, 2, 1, 3])
    parts = [
        write(tmp_path / f"{k}.h5", NAMES[rows], predictions(0)[rows])
        for k, rows in enumerate((mixed[:4], mixed[4:]))
    ]
    average = Average([parts], names=NAMES)
    assert average.names.tolist() == NAMES.tolist()
    for places in ([5], [3, 0, 4], [1, 1, 2], [0, 1, 2, 3, 4, 5]):
        found = average.mean(np.array(places))
        np.testing.assert_array_equal(found, predictions(0)[places])
    assert not average.sized
    assert average.size(np.array([0, 4])).tolist() == [[2, 2], [2, 2]]


def test_images_of_different_sizes_are_averaged_each_within_its_own(tmp_path: Path) -> None:
    """Files whose largest images differ, so that their arrays do."""
    rng, sizes = np.random.default_rng(0), [(3, 2), (5, 4), (2, 6), (5, 6), (1, 1), (4, 4)]
    images = {
        (name, source): rng.random((2, *size)).astype(np.float16)
        for name, size in zip(NAMES, sizes, strict=True)
        for source in range(3)
    }
    sources = []
    for source in range(3):
        rows, files = rng.permutation(6), []
        for fold, part in enumerate((rows[:2], rows[2:])):
            own = np.array([sizes[row] for row in part])
            array = np.zeros((len(part), 2, *own.max(0)), np.float16)
            for place, row in enumerate(part):
                height, width = sizes[row]
                array[place, :, :height, :width] = images[NAMES[row], source]
            arrays = {"name": NAMES[part], "size": own.astype(np.int32), "probability": array}
            files.append(tmp_path / f"{source}_{fold}.h5")
            hdf5.write(files[-1], arrays, {})
        sources.append(files)
    average = Average(sources)
    assert average.sized and average.shape == (2, 5, 6)
    assert {tuple(size) for size in average.size(np.arange(6)).tolist()} == set(sizes)
    for place, name in enumerate(average.names):
        size = sizes[NAMES.tolist().index(name)]
        expected = np.mean([images[name, source].astype(float) for source in range(3)], axis=0)
        assert tuple(average.size(np.array([place]))[0]) == size
        assert average.of(name).shape == (2, *size)
        np.testing.assert_allclose(average.of(name), expected, atol=5e-4)
        padded = np.zeros((2, 5, 6))
        padded[:, : size[0], : size[1]] = expected
        np.testing.assert_allclose(average.mean(np.array([place]))[0], padded, atol=5e-4)
        own = np.stack([images[name, source].astype(float) for source in range(3)]).std(0)
        mean, apart = average.mean_and_disagreement(place)
        assert (mean == average.mean(np.array([place]))).all()
        np.testing.assert_allclose(apart, own.mean((1, 2)), rtol=1e-4)


@pytest.mark.parametrize("sources", [1, 2])
@pytest.mark.parametrize("wide", [False, True])
def test_what_is_written_of_images_that_differ_in_size(tmp_path, sources, wide) -> None:
    """A single source is taken over as it is packed, unless its files have less room."""
    rng, size = np.random.default_rng(1), np.array([(3, 2), (5, 4), (4, 6), (5, 1)], np.int32)
    names, truth = NAMES[:4], np.zeros((sources, 4, 2, 5, 6), np.float16)
    files = []
    for source in range(sources):
        files.append([])
        for row, (height, width) in enumerate(size.tolist()):
            truth[source, row, :, :height, :width] = rng.random((2, height, width))
        for fold, rows in enumerate(([2, 0], [1, 3])):
            room = (5, 6) if wide else size[rows].max(0)
            own = truth[source, rows][..., : room[0], : room[1]]
            files[-1].append(tmp_path / f"{source}_{fold}.h5")
            with hdf5.writing(files[-1][-1], {}) as file:
                file.put("name", names[rows])
                file.put("size", size[rows])
                file.create("probability", own.shape, np.float16, compressed=True)
                for row in range(2):
                    file.write("probability", row, own[row : row + 1])
    average = Average(files, names=names)
    assert average.alike((2, 5, 6)) == wide
    with hdf5.writing(tmp_path / "ensemble.h5", {}) as file:
        averaging._write_sized(file, "oof", average)
    found = hdf5.read(tmp_path / "ensemble.h5", "oof/probability", "oof/size")
    expected = truth.astype(np.float32).mean(0).astype(np.float16)
    np.testing.assert_array_equal(found["oof/probability"], expected)
    assert (found["oof/size"] == size).all()
    assert hdf5.holds(tmp_path / "ensemble.h5", "oof/disagreement") == (sources > 1)


def test_a_single_source_comes_back_as_it_is(tmp_path: Path) -> None:
    average = Average([[write(tmp_path / "a.h5", NAMES, predictions(0))]])
    assert average.names.tolist() == NAMES.tolist()
    np.testing.assert_array_equal(all_of(average), predictions(0))


def test_batches_of_places_are_as_many_as_memory_is_to_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    average = Average([[write(tmp_path / "a.h5", NAMES, predictions(0))]])
    monkeypatch.setattr(averaging, "BATCH", 4 * 4 * 4)  # four images of four pixels in float32
    assert [own.tolist() for own in averaging.batches(average)] == [[0, 1, 2, 3], [4, 5]]
    monkeypatch.setattr(averaging, "BATCH", 1)
    assert [own.tolist() for own in averaging.batches(average)] == [[k] for k in range(6)]


def test_an_average_travels_to_another_process_without_its_open_files(tmp_path: Path) -> None:
    average = Average([[write(tmp_path / "a.h5", NAMES, predictions(0))]])
    np.testing.assert_array_equal(all_of(pickle.loads(pickle.dumps(average))), predictions(0))


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
    with pytest.raises(UserError, match=rf"second\.h5: holds other images.*{odd}.*--force"):
        Average([[first], [second]])
    with pytest.raises(UserError, match=rf"second\.h5: holds other images.*{odd}.*--force"):
        Average([[second]], names=NAMES)


def test_a_name_that_stands_in_two_folds_of_the_first_source_is_refused(tmp_path: Path) -> None:
    parts = [
        write(tmp_path / f"{k}.h5", NAMES[rows], predictions(0)[rows])
        for k, rows in enumerate(([0, 1, 2, 3], [3, 4, 5]))
    ]
    with pytest.raises(UserError, match=r"0\.h5.*twice"):
        Average([parts])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.h5 is missing"):
        Average([[tmp_path / "nowhere.h5"]])


def test_rows_by_name_finds_each_wanted_name() -> None:
    have = np.array(["c", "a", "b"], object)
    assert averaging.rows_by_name(have, np.array(["a", "b", "c"]), "x").tolist() == [1, 2, 0]
    assert averaging.rows_by_name(have, np.array(["b", "c"]), "x", subset=True).tolist() == [2, 0]
    with pytest.raises(UserError, match=r"x: holds other images than expected \(d\)"):
        averaging.rows_by_name(have, np.array(["b", "d"]), "x", subset=True)


def run_of_two_members(folder: Path) -> Run:
    """Members "net" and "other", seeds 5 and 6, folds 0 and 1, the last patch in none."""
    member = tiny.tiny().model_dump(by_alias=True, exclude_unset=True)["member"][0]
    chosen = recipe.parse(
        {
            "name": "tiny",
            "competition": "demo",
            "folds": {"count": 2},
            "seeds": [5, 6],
            "member": [member, {**member, "name": "other"}],
        },
        "test",
    )
    train = tiny.wells(3, 2)
    train["name"], train["fold"] = NAMES, np.array([1, 0, 0, 1, 1, -1], np.int8)
    return tiny.run_of(folder, chosen, train, tiny.wells(2, 2))


def shared(run: Run) -> dict[Task, np.ndarray]:
    """What each task says of all patches, in files as stages 01 and 02 would write them."""
    fold = hdf5.read(run.prepared("train"), "fold")["fold"]
    test = hdf5.read(run.prepared("test"), "name")["name"]
    told = {}
    for number, task in enumerate(run.tasks()):
        weights = {"w": np.full(1, number, np.float32)}
        sealed.write_weights(run.weights(task), weights, lineage.weights(run, task))
        rng = np.random.default_rng(number)
        told[task] = rng.random((len(fold) + len(test), 1, 3, 3)).astype(np.float16)
        own = rng.permutation(np.flatnonzero(fold == task.fold))
        arrays = {"name": NAMES[own], "probability": told[task][own]}
        hdf5.write(run.oof(task), arrays, lineage.oof(run, task))
        arrays = {"name": test, "probability": told[task][len(fold) :]}
        hdf5.write(run.test(task), arrays, lineage.test(run, task))
    return told


def test_out_of_fold_each_patch_is_averaged_over_members_and_seeds(tmp_path: Path) -> None:
    run = run_of_two_members(tmp_path)
    told = shared(run)
    assert averaging.scored_names(run).tolist() == NAMES[:5].tolist()
    average = averaging.oof(run)
    assert average.names.tolist() == NAMES[:5].tolist()
    for place, fold in enumerate([1, 0, 0, 1, 1]):
        own = [p[place].astype(float) for task, p in told.items() if task.fold == fold]
        assert len(own) == 4
        np.testing.assert_allclose(all_of(average)[place], np.mean(own, axis=0), atol=5e-4)


def test_the_test_set_is_averaged_over_all_tasks_or_those_of_a_fold(tmp_path: Path) -> None:
    run = run_of_two_members(tmp_path)
    told = shared(run)
    for fold, number in ((None, 8), (0, 4), (1, 4)):
        own = [p[6:].astype(float) for task, p in told.items() if fold in (None, task.fold)]
        assert len(own) == number
        found = all_of(averaging.test(run, fold=fold))
        np.testing.assert_allclose(found, np.mean(own, axis=0), atol=5e-4)


def test_the_ensembles_file_holds_both_averages(tmp_path: Path) -> None:
    run = run_of_two_members(tmp_path)
    shared(run)
    assert averaging.write(run, {"from": "x"}) == {"oof": 5, "test": 4}
    for part, expected in (("oof", averaging.oof(run)), ("test", averaging.test(run))):
        found = averaging.of_ensemble(run, part)
        assert found.names.tolist() == expected.names.tolist() and not found.sized
        np.testing.assert_array_equal(all_of(found), all_of(expected))
    with h5py.File(run.ensemble) as file:
        assert {f"{group}/{name}" for group in file for name in file[group]} == {
            f"{part}/{name}" for part in ("oof", "test") for name in ("name", "probability")
        }
    assert sealed.up_to_date(run.ensemble, {"from": "x"})


def test_the_ensemble_is_made_from_predictions_of_todays_weights_only(tmp_path: Path) -> None:
    train = tiny.wells(3, 2)
    run = tiny.run_of(tmp_path, train=train, test=tiny.wells(2, 1))

    def make(value: float) -> None:
        """All that stages 01 and 02 would make, with weights and predictions of one value."""
        for task in run.tasks():
            weights = {"w": np.full(1, value, np.float32)}
            sealed.write_weights(run.weights(task), weights, lineage.weights(run, task))
            arrays = {"name": NAMES, "probability": predictions(value)}
            hdf5.write(run.oof(task), arrays, lineage.oof(run, task))
            hdf5.write(run.test(task), arrays, lineage.test(run, task))

    with pytest.raises(UserError, match=r"weights\.safetensors is missing.* 01_train_folds\.py"):
        lineage.ensemble(run)
    make(0)
    before = lineage.ensemble(run)
    assert lineage.ensemble(run) == before
    run.test(run.tasks()[1]).unlink()
    with pytest.raises(UserError, match=r"test\.h5 is missing.* 02_predict\.py"):
        lineage.ensemble(run)
    make(1)
    after = lineage.ensemble(run)
    assert after.keys() == before.keys() and all(after[key] != before[key] for key in after)
    hdf5.write(run.prepared("test"), tiny.wells(2, 1, seed=1), {})
    with pytest.raises(UserError, match=r"test\.h5 is missing.* 02_predict\.py"):
        lineage.ensemble(run)
    hdf5.write(run.prepared("train"), tiny.wells(3, 2, seed=1), {})
    with pytest.raises(UserError, match=r"weights\.safetensors is missing.* 01_train_folds\.py"):
        lineage.ensemble(run)
