"""The five scripts on photographs, end to end on a tiny set, as a user runs them."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import browser
import h5py
import numpy as np
import pandas as pd
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from src import recipe
from src.artifacts import hdf5, lineage, sealed
from src.artifacts.run import Run
from src.competitions import folder as folder_competition
from src.competitions.formats import rle
from src.competitions.metrics import Metric
from src.modality import open_run
from src.networks.loading import load_network
from src.photographs import decoding, selection, submission
from src.photographs import page as photographs_page
from src.photographs.batches import PhotoTrainingSet
from src.photographs.confusion import labels
from src.photographs.dataset import PhotoDataset
from src.photographs.selection import Counted, Decisions
from src.report.checks import Check
from src.scoring import averaging
from src.scoring.metrics import image_iou
from src.stages.ensemble import ensemble
from src.stages.predict import predict
from src.stages.submit import submit
from src.studies import backbones
from src.tasks.parallel import Options
from tests.markup import Balanced
from tests.oracles import dice as dice_of
from tests.workplace import STAGES, Workplace

RECIPE = """
competition = "folder"
[data]
folder = "blobs"
[folds]
count = 2
[[member]]
name = "any_defect"
role = "classify"
network = { name = "classifier", encoder = "test_resnet" }
batch_size = 8
[[member.phase]]
epochs = 1
loss = { bce = 1.0 }
[[member]]
name = "segment"
network = { name = "unet", encoder = "test_resnet" }
batch_size = 8
photograph = { crops = [[32, 32], [32, 48]], balanced = true, rotate = 5.0, brightness = 0.1 }
[[member.phase]]
epochs = 3
loss = { bce = 1.0, dice = 1.0 }
learning_rate = 3e-3
schedule = "plateau"
[inference]
flips = false
[postprocess]
min_sizes = [0, 4]
"""
SIZES = [(40, 56), (48, 64)]


def photograph(
    rng: np.random.Generator, size: tuple[int, int], classes: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a bright block for class 1 and a dark one for class 2."""
    image, labels = rng.normal(110, 12, size), np.zeros(size, np.uint8)
    for label in classes:
        top, left = rng.integers(2, size[0] - 14), rng.integers(2, size[1] - 16)
        block = np.s_[top : top + 12, left : left + 14]
        image[block], labels[block] = image[block] + (90 if label == 1 else -90), label
    return image.clip(0, 255).astype(np.uint8), labels


def write_raw(folder: Path) -> dict[str, np.ndarray]:
    """24 training and 7 test photographs of two sizes; returns the truth of the test
    photographs, label maps by name.
    """
    rng, truth = np.random.default_rng(0), {}
    for place in ("train/images", "train/masks", "test/images"):
        (folder / place).mkdir(parents=True)
    for number in range(24):
        image, labels = photograph(rng, SIZES[number % 2], [[], [1], [2]][number % 3])
        Image.fromarray(image).save(folder / f"train/images/p{number}.png")
        Image.fromarray(labels).save(folder / f"train/masks/p{number}.png")
    for number in range(7):
        image, truth[f"t{number}.png"] = photograph(
            rng, SIZES[number % 2], [[], [1], [2]][number % 3]
        )
        Image.fromarray(image).save(folder / f"test/images/t{number}.png")
    lines = [f"p{number}.png,{number // 2}" for number in range(24)]
    (folder / "groups.csv").write_text("\n".join(["name,group", *lines, ""]))
    return truth


def workplace(folder: Path) -> Workplace:
    (folder / "tiny.toml").write_text(RECIPE)
    return Workplace(folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    place = workplace(folder)
    place.truth = write_raw(folder / "data/raw/blobs")
    place.output = {stage: place.run(stage) for stage in STAGES}
    return place


def opened(place: Workplace) -> Run:
    chosen = recipe.load(str(place.recipe))
    return open_run(chosen, place.folder / "data", place.folder / "submissions")


def truth_of(run: Run, name: str) -> np.ndarray:
    """The masks (2, H, W) of a training photograph as they were drawn."""
    labels = np.array(Image.open(run.raw / "train/masks" / name))
    return np.stack([labels == 1, labels == 2])


def masks_in(run: Run, part: str) -> dict[str, np.ndarray]:
    """The masks (2, H, W) in the ensemble's file by name, read as anyone reads HDF5."""
    with h5py.File(run.ensemble) as file:
        own = file[part]
        return {
            name.decode(): own["mask"][row, :, :height, :width]
            for row, (name, (height, width)) in enumerate(
                zip(own["name"], own["size"], strict=True)
            )
        }


def test_the_prepared_file_holds_every_photograph_as_it_was(finished):
    run = opened(finished)
    train, raw = PhotoDataset.open(run, "train"), run.raw / "train"
    assert len(train.name) == 24 and train.classes == ["1", "2"]
    for row, name in enumerate(train.name):
        image, labels = (np.array(Image.open(raw / place / name)) for place in ("images", "masks"))
        np.testing.assert_array_equal(train.image(row)[:, :, 0], image)
        np.testing.assert_array_equal(train.mask(row), [labels == 1, labels == 2])
    pixels = np.concatenate([train.image(row).ravel() for row in range(24)]) / 255
    scaling = train.scaling(np.arange(24))
    np.testing.assert_allclose(
        [scaling.center[0], scaling.scale[0]], [pixels.mean(), pixels.std()], rtol=1e-4
    )


def test_groups_stay_together_and_each_photograph_is_predicted_by_networks_that_did_not_see_it(
    finished,
):
    run = opened(finished)
    train = PhotoDataset.open(run, "train")
    assert all(
        len(np.unique(train.fold[train.group == group])) == 1 for group in np.unique(train.group)
    )
    for task in run.tasks():
        names = hdf5.read(run.oof(task), "name")["name"]
        assert set(names) == set(train.name[train.fold == task.fold])


def counted_of(run: Run, rows: np.ndarray, classified: bool = True) -> Counted:
    """What selection counts of some training photographs, from the probabilities on disk."""
    train, average = PhotoDataset.open(run, "train"), averaging.oof(run)
    verdicts = averaging.oof(run, "classify")
    told = np.array([verdicts.of(name)[0, 0, 0] for name in train.name[rows]])
    truth = [truth_of(run, name) for name in train.name[rows]]
    pixels = [
        decoding.overlaps(average.of(name), own, [0, 4])
        for name, own in zip(train.name[rows], truth, strict=True)
    ]
    true = np.array([own.sum((1, 2)) for own in truth])
    folds, place = np.unique(train.fold[rows], return_inverse=True)
    return Counted(np.stack(pixels, 3), true, folds, place, told if classified else None)


def test_out_of_fold_score_is_the_dice_of_the_masks_that_are_selected_on_the_other_folds(finished):
    """What scores a fold is selected anew, with that fold left out, from the probabilities on
    disk; masks are made, and scored by the definition.
    """
    run = opened(finished)
    train, average = PhotoDataset.open(run, "train"), averaging.oof(run)
    verdicts, metric = averaging.oof(run, "classify"), run.competition.metric
    scores, half = [], []
    for fold in (0, 1):
        others = counted_of(run, np.flatnonzero(train.fold != fold))
        decisions = Decisions.of(others.select(metric).final, [0, 4])
        for name in train.name[train.fold == fold]:
            truth = truth_of(run, name)
            half.append(dice_of(average.of(name) > 0.5, truth).mean())
            mask = decisions.mask(average.of(name))
            mask *= verdicts.of(name)[0, 0, 0] >= decisions.classifier
            scores.append(dice_of(mask, truth).mean())
    result = json.loads(run.submission(".json").read_text())
    assert result["oof_score"] == pytest.approx(np.mean(scores), abs=1e-6)
    assert result["table"][0]["how"] == "segmentation alone, at one half"
    assert result["table"][0]["dice"] == pytest.approx(np.mean(half), abs=1e-6)


def test_with_expected_dice_masks_are_what_was_counted(finished):
    """Masks made by what is selected, and scored by the definition, beside the counted pixels."""
    run = opened(finished)
    more = run.recipe.postprocess.model_copy(update={"expected_dice": True})
    run = run.with_recipe(run.recipe.model_copy(update={"postprocess": more}))
    counted, train, rows = selection.count(run)
    average, metric = averaging.oof(run), run.competition.metric
    count = len(decoding.THRESHOLDS)
    assert counted.pixels.shape[1] == 2 * count
    # of expected Dice alone, so that it is selected
    own = replace(counted, pixels=counted.pixels[:, count:], verdict=None)
    pixels, _ = own.under(own.select(metric))
    for fold in (0, 1):
        choice = own.select(metric).without[fold]
        moved = [candidate + 2 * count for candidate in choice.candidates]  # of two sizes each
        decisions = Decisions.of(replace(choice, candidates=tuple(moved)), [0, 4])
        assert decisions.expected_dice == [True, True]
        for place in np.flatnonzero(counted.place == fold):
            name = train.name[rows[place]]
            mask = decisions.mask(average.of(name))
            expected = dice_of(mask, truth_of(run, name))
            np.testing.assert_allclose(metric.of(*pixels[:, place]), expected)


@pytest.mark.parametrize("expected_dice", [False, True])
def test_the_chart_marks_a_threshold_only_where_it_makes_the_masks(finished, expected_dice):
    selected = selection.arrays_of(opened(finished))
    told = {"min_size": [0, 4], "threshold": [0.3, 0.3], "expected_dice": [expected_dice, False]}
    at = selected["score_at_thresholds"]
    first, second = photographs_page._class_charts(["1", "2"], at, [0, 4], told)
    assert ("chosen 0.30" in str(first["chart"])) != expected_dice
    assert "chosen 0.30" in str(second["chart"])


def test_photographs_are_scaled_as_pretrained_weights_were_trained(finished, tmp_path):
    run = opened(finished)
    weights = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    task = next(task for task in run.tasks() if task.member == "segment")
    member = run.recipe.member("segment")
    by_data = PhotoTrainingSet.of(run, task, torch.device("cpu"), 1).scaling
    network = {**member.network, "pretrained": str(weights)}
    loaded = member.model_copy(update={"network": network})
    members = [loaded if own.name == "segment" else own for own in run.recipe.members]
    run = run.with_recipe(run.recipe.model_copy(update={"members": members}))
    scaling = PhotoTrainingSet.of(run, task, torch.device("cpu"), 1).scaling
    assert scaling.center.tolist() == scaling.scale.tolist() == [0.5]
    assert by_data.scale[0] < 0.3


def test_the_masks_out_of_fold_are_those_of_the_score(finished):
    """With nothing known but the contract: names, masks, and the organisers' drawings."""
    run = opened(finished)
    made = masks_in(run, "oof")
    assert len(made) == 24
    scores = [dice_of(mask, truth_of(run, name)).mean() for name, mask in made.items()]
    result = json.loads(run.submission(".json").read_text())
    assert result["oof_score"] == pytest.approx(np.mean(scores), abs=1e-9)


def smooth(shared: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Dice with a hundred pixels added, so that an empty mask scores something everywhere."""
    return (2 * shared + 100) / (predicted + true + 100)


def test_a_competition_may_bring_a_metric_of_its_own(finished, tmp_path):
    """What it selects, what it reports and what stands out of fold follow that metric alone."""
    shutil.copytree(finished.folder, tmp_path / "copy")
    by_dice = opened(Workplace(tmp_path / "copy"))
    assert by_dice.competition is folder_competition.COMPETITION
    own = replace(by_dice.competition, metric=Metric("smooth Dice", smooth))
    run, options = replace(by_dice, competition=own), Options(device="cpu", jobs=1)
    before = run.submission(".json").read_text()
    predict(run, options)
    ensemble(run)
    result = submit(run)
    assert result["metric"] == "smooth Dice"
    scores, empty = [], []
    for name, mask in masks_in(run, "oof").items():
        for own, true in zip(mask > 0, truth_of(run, name), strict=True):
            scores.append((2 * (own & true).sum() + 100) / (own.sum() + true.sum() + 100))
            empty.append(100 / (true.sum() + 100))
    assert len(scores) == 2 * 24
    assert result["oof_score"] == pytest.approx(np.mean(scores), abs=1e-9)
    assert result["all_empty"] == pytest.approx(np.mean(empty), abs=1e-9)
    train, at = PhotoDataset.open(run, "train"), selection.arrays_of(run)["score_at_thresholds"]
    average = averaging.oof(run)
    for t in (2, 5, 11):
        told = [
            smooth((mask & true).sum((1, 2)), mask.sum((1, 2)), true.sum((1, 2)))
            for name in train.name
            for mask, true in [(average.of(name) > decoding.THRESHOLDS[t], truth_of(run, name))]
        ]
        np.testing.assert_allclose(at[t, 0], np.mean(told, axis=0))
    page = Balanced(run.submission(".html").read_text())
    shown = {float(element["value"]) for element in page.all("data") if "value" in element}
    assert {result["oof_score"], result["all_empty"]} <= shown
    # what empty masks score by Dice, of a class that eight of the 24 show
    assert not any(value == pytest.approx(16 / 24) for value in shown)
    assert before != run.submission(".json").read_text()


def test_the_submission_is_what_the_ensemble_says(finished):
    run = opened(finished)
    final, _ = selection.read(run)
    with h5py.File(run.ensemble) as file:
        names, masks = [name.decode() for name in file["test/name"]], {}
        for row, name in enumerate(names):
            height, width = file["test/size"][row]
            probability = file["test/probability"][row, :, :height, :width]
            masks[name] = decoding.mask_of(probability, final.threshold, final.min_size)
        known = (name.decode() for name in file["classifier/name"])
        told = dict(zip(known, file["classifier/probability"][:], strict=True))
    assert set(names) == {name for name, p in told.items() if p >= final.classifier}
    for name, mask in masks_in(run, "test").items():
        np.testing.assert_array_equal(mask, masks[name])
    table = pd.read_csv(finished.folder / "submissions/tiny.csv", dtype=str, keep_default_na=False)
    official = pd.read_csv(
        finished.folder / "submissions/tiny_official.csv", dtype=str, keep_default_na=False
    )
    assert (
        table["name"].tolist()
        == [name for name in finished.truth for _ in range(2)]
        == official["ImageId"].tolist()
    )
    assert table["rle"].tolist() == official["EncodedPixels"].tolist()
    for (name, label), code in table.set_index(["name", "class"])["rle"].items():
        shape = finished.truth[name].shape
        wanted = masks[name][int(label) - 1] if name in masks else np.zeros(shape)
        np.testing.assert_array_equal(rle.decode([code], *shape, "column")[0], wanted)


def test_everything_is_up_to_date_the_second_time_and_nothing_is_selected_anew(
    finished, monkeypatch
):
    monkeypatch.delattr(selection, "count")
    before = finished.files("**/*.h5")
    for stage in STAGES:
        assert "up to date" in finished.run(stage)
    assert finished.files("**/*.h5") == before


def test_other_masks_make_everything_anew(finished, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "copy")
    place = Workplace(tmp_path / "copy")
    Image.fromarray(np.zeros(SIZES[1], np.uint8)).save(
        place.folder / "data/raw/blobs/train/masks/p1.png"
    )
    assert "prepared" in place.run(STAGES[0])
    assert "run 01_train_folds.py" in place.refused(
        STAGES[1].replace("01_train_folds", "02_predict")
    )


def test_a_killed_training_goes_on_to_the_same_weights(finished, tmp_path):
    """The checkpoint after the second epoch is what a run killed in the third leaves behind."""
    folders = [tmp_path / "whole", tmp_path / "killed"]
    for folder in folders:
        shutil.copytree(finished.folder / "data/raw", folder / "data/raw")
        workplace(folder).run(STAGES[0])
    whole, killed = (Workplace(folder) for folder in folders)
    whole.run(STAGES[1])
    with pytest.MonkeyPatch.context() as patch:
        from src.training import loop

        save = loop.Fit.save_checkpoint

        def save_and_die(self, epoch):
            save(self, epoch)
            raise KeyboardInterrupt

        patch.setattr(loop.Fit, "save_checkpoint", save_and_die)
        for _ in range(2):
            assert killed.call(STAGES[1])[0] == 130
    killed.run(STAGES[1])
    assert killed.files("data/runs/**/weights.safetensors") == whole.files(
        "data/runs/**/weights.safetensors"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("member.margin=4", "member.0.margin is for wells; folder has photographs: remove it"),
        ("member.1.height=72", "member.1.height is for wells"),
        ("postprocess.random_walker=false", "postprocess.random_walker is for wells"),
        ('member.role="classify"', "an image classifier alone segments nothing"),
        ("member.eval_every=1", "eval_every is for members that segment"),
        ('member.network={ name = "ring_unet" }', "is for pipes, not for photographs"),
        ('member.network={ name = "unet", encoder = "nonsense" }', "nonsense"),
        ('member.activation="softmax"', "use cross_entropy"),
    ],
)
def test_what_photographs_cannot_have_is_refused_before_training(finished, change, said):
    assert said in finished.refused(STAGES[1], "--set", change)


def test_what_pipes_cannot_have_is_refused_before_training(tmp_path):
    place = Workplace(tmp_path)
    settings = ["--set", "generate.train_patches=60", "--set", "generate.test_patches=16"]
    place.run(STAGES[0], *settings)
    assert "member.0.photograph is for photographs; demo has wells" in place.refused(
        STAGES[1], *settings, "--set", "member.photograph.flips=false"
    )


def test_a_study_scores_segmentation_alone_as_stage_04_does_and_label_maps_by_argmax(finished):
    """mIoU by a loop over pixels: the likeliest class, if it is likelier than not."""
    run = opened(finished)
    average = averaging.oof(run)
    dice, iou, with_defects = backbones.scores(run)
    result = json.loads(run.submission(".json").read_text())
    assert dice == pytest.approx(result["oof_score_without_classifier"])
    single, shown = [], []
    for name in average.names:
        truth, agree, either = truth_of(run, name), 0, 0
        for likely, own in zip(
            average.of(name).reshape(2, -1).T, truth.reshape(2, -1).T, strict=True
        ):
            marked = likely.argmax() + 1 if likely.max() > 0.5 else 0
            label = 1 if own[0] else 2 if own[1] else 0
            agree, either = agree + (marked == label > 0), either + bool(marked or label)
        single.append(agree / either if either else 1.0)
        shown.append(truth.any())
    assert iou == pytest.approx(np.mean(single))
    assert with_defects == pytest.approx(np.mean(np.array(single)[shown]))


def test_a_fold_for_evaluation_is_neither_trained_nor_tested_on(tmp_path):
    place = workplace(tmp_path)
    write_raw(tmp_path / "data/raw/blobs")
    split = ["--set", "folds={ count = 3, run = [0], evaluation = 1 }"]
    more = ["--set", "member.1.eval_every=2", "--set", "member.phase.epochs=2"]
    for stage in STAGES[:2]:
        place.run(stage, *split, *more)
    run = open_run(
        recipe.load(str(place.recipe), [split[1], *more[1::2]]), tmp_path / "data", tmp_path
    )
    train = PhotoDataset.open(run, "train")
    known = hdf5.read(run.prepared("train"), "excluded", "group")
    evaluated = train.evaluated(0)
    assert 0 < len(evaluated) < 24
    assert (known["excluded"][evaluated] == "held out for evaluation").all()
    trained, tested = np.flatnonzero(train.fold > 0), np.flatnonzero(train.fold == 0)
    groups = [set(known["group"][rows]) for rows in (trained, evaluated, tested)]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 12
    (task,) = run.tasks("segment")
    assert sorted(run.modality.training_set(run, task, torch.device("cpu"), 1).rows) == [*trained]
    assert sorted(averaging.oof(run).names) == sorted(train.name[tested])
    network, scaling = load_network(run, task, torch.device("cpu"))
    single = []
    for row in evaluated:  # whole photographs, without flips
        image = scaling.apply(train.image(row).astype(np.float32) / train.white)
        with torch.inference_mode():
            p = network(torch.from_numpy(image).permute(2, 0, 1)[None]).sigmoid()[0].numpy()
        truth = labels(truth_of(run, train.name[row]), "sigmoid")
        single.append(image_iou(labels(p, "sigmoid"), truth))
    history = pd.read_csv(run.history(task))["held_out_image_iou"]
    assert history.iloc[-1] == pytest.approx(np.mean(single), abs=0.05)


def test_what_the_classifier_calls_clean_is_not_segmented_and_gets_empty_masks(
    finished, tmp_path, monkeypatch
):
    """The tiny classifier may let everything pass; here its threshold is put where it rejects
    three of the seven.
    """
    shutil.copytree(finished.folder, tmp_path / "copy")
    place = Workplace(tmp_path / "copy")
    run = opened(place)
    verdicts = averaging.test(run, "classify")
    told = {name: verdicts.of(name)[0, 0, 0] for name in finished.truth}
    rejected = sorted(told, key=told.get)[:3]
    level, of = float(told[rejected[-1]]) + 1e-6, Decisions.of
    monkeypatch.setattr(Decisions, "of", lambda *own: replace(of(*own), classifier=level))
    run.selection.unlink()
    for stage in STAGES[2:]:
        place.run(stage)
    for task in run.tasks():
        names = hdf5.read(run.test(task), "name")["name"]
        kept = set(told) if task.member == "any_defect" else set(told) - set(rejected)
        assert set(names) == kept
    table = pd.read_csv(run.submission(), dtype=str, keep_default_na=False)
    assert (table["rle"][table["name"].isin(rejected)] == "").all()
    assert json.loads(run.submission(".json").read_text())["classifier"]["test_passes_saved"] == 3


def test_the_page_shows_the_test_photographs_that_the_networks_disagree_on_most(finished):
    """In the order of the standard deviations that NumPy finds in the tasks' files."""
    run, each = opened(finished), {}
    for task in run.tasks("segment"):
        with h5py.File(run.test(task)) as file:
            for row, name in enumerate(file["name"].asstr()[:]):
                height, width = file["size"][row]
                own = file["probability"][row, :, :height, :width].astype(float)
                each.setdefault(name, []).append(own)
    apart = {name: np.std(own, axis=0).mean((1, 2)).max() for name, own in each.items()}
    text = run.submission(".html").read_text().partition("networks disagree most</h3>")[2]
    told = re.findall(
        r'<strong>(t\d\.png)</strong>, mean disagreement <data value="([^"]*)">', text
    )
    assert [name for name, _ in told] == sorted(apart, key=lambda name: -apart[name])[
        : photographs_page.SHOWN
    ]
    assert 1 < len(told) == text.partition("</section>")[0].count(">disagreement</div>")
    for name, value in told:
        assert float(value) == pytest.approx(apart[name], abs=1e-3)


def sealed_anew(path: Path) -> None:
    """The record of an artifact whose arrays were changed by hand, so that it is undamaged."""
    inputs = sealed.inputs_of(path)
    with open(path, "rb+") as file:
        file.write(sealed.record(inputs).ljust(hdf5.RECORD))
    sealed.seal(path)


HOSTILE = "<img src=x onerror=alert(1)>.png"


def test_the_page_is_whole_true_to_the_scores_and_takes_names_for_names(
    finished, tmp_path, monkeypatch
):
    """Every photograph is renamed in the files that stage 04 reads, and the page made anew."""
    shutil.copytree(finished.folder, tmp_path / "copy")
    run = opened(Workplace(tmp_path / "copy"))
    for path, keys in (
        (run.prepared("train"), ["name"]),
        (run.prepared("test"), ["name"]),
        (run.selection, ["name"]),
        (run.ensemble, ["oof/name", "test/name"]),
        *((run.oof(task), ["name"]) for task in run.tasks()),
        *((run.test(task), ["name"]) for task in run.tasks()),
    ):
        with h5py.File(path, "a") as file:
            for key in keys:
                names = [name + HOSTILE for name in file[key].asstr()[:]]
                del file[key]
                file[key] = np.array(names, object)
        sealed_anew(path)
    result = json.loads((finished.folder / "submissions/tiny.json").read_text())
    checks = [Check("Read back", HOSTILE, True)]
    train, selected = PhotoDataset.open(run, "train"), selection.arrays_of(run)
    monkeypatch.setattr(lineage, "submission", lambda run: {"oof": "a1"})
    parts = submission.tallies(train, selected)
    text = photographs_page.page(run, result, train, selected, checks, parts)
    page = Balanced(text)
    assert HOSTILE not in text and not any(
        key.startswith("on") for _, attributes in page.elements for key in attributes
    )
    assert sum(HOSTILE in part for part in page.text) >= 8
    shown = {float(element["value"]) for element in page.all("data") if "value" in element}
    told = [row["dice"] for row in result["table"]] + [
        fold["score"] for fold in result["oof_by_fold"].values()
    ]
    assert {result["oof_score"], result["expected_score"], result["all_empty"], *told} <= shown
    confusion = result["classifier"]["confusion"]
    assert {
        f"{confusion['defects missed']} missed",
        f"{confusion['false alarms']} false alarms",
    } <= set(page.text)
    assert all(image["src"].startswith("data:image/") and image["alt"] for image in page.all("img"))


@pytest.mark.skipif(
    browser.FOUND is None,
    reason="needs Chromium (chromium, chromium-browser or google-chrome on the PATH)",
)
def test_a_browser_shows_the_page_and_its_zoom_enlarges_all_panels_together(finished):
    with browser.browser() as one:
        one.open(browser.url(finished.folder / "submissions/tiny.html", "zoom=3"))
        assert one.value(
            "[...document.images].every((image) => image.complete && image.naturalWidth > 8)"
        )
        wide = (
            "document.querySelector('.photo img').clientWidth / document.querySelector('.photo "
            ".window').clientWidth"
        )
        assert one.value(wide) == pytest.approx(3, abs=0.1)
        one.value("document.querySelector('.photo .window').scrollLeft = 40")
        one.settle()
        assert (
            one.value(
                "[...document.querySelector('.photo').querySelectorAll('.window')].map((own) => "
                "own.scrollLeft)"
            )
            == [40] * 4
        )
        assert one.troubles == []


def test_the_scores_at_thresholds_are_means_over_all_photographs(finished):
    run = opened(finished)
    train, average = PhotoDataset.open(run, "train"), averaging.oof(run)
    at = selection.arrays_of(run)["score_at_thresholds"]
    for t in (2, 5, 11):
        masks = [average.of(name) > decoding.THRESHOLDS[t] for name in train.name]
        scores = [
            dice_of(mask, truth_of(run, name)) for name, mask in zip(train.name, masks, strict=True)
        ]
        np.testing.assert_allclose(at[t, 0], np.mean(scores, axis=0))


def test_the_share_of_test_photographs_that_a_class_is_marked_on_is_that_of_the_masks(finished):
    run = opened(finished)
    train, selected = PhotoDataset.open(run, "train"), selection.arrays_of(run)
    result = sealed.read_json(run.submission(".json"))
    score = run.competition.metric.of(*selected["selected"])
    lines = photographs_page._classes(run, train.classes, selected, score, result)
    masks = masks_in(run, "test")  # without those that the classifier rejects
    test = PhotoDataset.open(run, "test")
    marked = np.sum([mask.any((1, 2)) for mask in masks.values()], axis=0) / len(test.name)
    assert marked.any()
    assert [line["marked"] for line in lines] == pytest.approx(marked.tolist())
