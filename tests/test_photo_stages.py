"""The five scripts on photographs, end to end on a tiny set, as a user runs them."""

import json
import shutil
from pathlib import Path

import browser
import h5py
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_page import Balanced

from src import artifacts, recipe
from src.artifacts import Paths
from src.competitions.formats import rle
from src.photographs import page as photographs_page
from src.photographs import selection
from src.photographs.dataset import Gallery
from src.scoring import metrics
from src.studies import comparing
from tests.workplace import STAGES, Workplace

RECIPE = """
competition = "folder"
[data]
folder = "blobs"
[folds]
count = 2
[[member]]
name = "gate"
role = "gate"
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


def opened(place: Workplace) -> tuple[recipe.Recipe, Paths]:
    return recipe.load(str(place.recipe)), Paths(
        place.folder / "data", place.folder / "submissions"
    )


def test_the_prepared_file_holds_every_photograph_as_it_was(finished):
    chosen, paths = opened(finished)
    train, raw = Gallery.open(paths, chosen, "train"), finished.folder / "data/raw/blobs/train"
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
    chosen, paths = opened(finished)
    train = Gallery.open(paths, chosen, "train")
    assert all(
        len(np.unique(train.fold[train.group == group])) == 1 for group in np.unique(train.group)
    )
    for task in chosen.tasks():
        names = artifacts.read_arrays(paths.oof(chosen, task), ["name"])["name"]
        assert set(names) == set(train.name[train.fold == task.fold])


def test_out_of_fold_score_is_the_dice_of_the_masks_that_the_rules_make(finished):
    """Thresholds, sizes and gate of each fold chosen anew from the stored probabilities, masks
    made, and scored by src.scoring.metrics.
    """
    chosen, paths = opened(finished)
    train = Gallery.open(paths, chosen, "train")
    average, gate = (selection.oof_average(chosen, paths, role) for role in ("segment", "gate"))
    told = np.array([gate.of(name)[0, 0, 0] for name in train.name])
    dice = np.stack(
        [
            selection.overlaps(average.of(n), train.mask(r), [0, 4])
            for r, n in enumerate(train.name)
        ],
        axis=2,
    )
    scores, half = [], []
    for row, name in enumerate(train.name):
        others = train.fold != train.fold[row]
        half.append(metrics.dice((average.of(name) > 0.5)[None], train.mask(row)[None])[0].mean())
        rule = selection.best_rule(dice[:, :, others], train.shows[others], told[others])
        mask = selection.mask_of(
            average.of(name),
            selection.THRESHOLDS[list(rule.threshold)],
            [[0, 4][s] for s in rule.size],
        )
        mask = mask * (told[row] >= selection.GATES[rule.gate])
        scores.append(metrics.dice(mask[None], train.mask(row)[None])[0].mean())
    result = json.loads((finished.folder / "submissions/tiny.json").read_text())
    assert result["oof_score"] == pytest.approx(np.mean(scores), abs=1e-6)
    assert result["table"][0]["how"] == "segmentation alone, at one half"
    assert result["table"][0]["dice"] == pytest.approx(np.mean(half), abs=1e-6)


def test_the_submission_is_what_the_ensemble_says(finished):
    with h5py.File(finished.folder / "data/ensembles/tiny.h5") as file:
        notes = json.loads(file.attrs["notes"])
        names = [name.decode() for name in file["test/name"]]
        masks = {}
        for row, name in enumerate(names):
            height, width = file["test/size"][row]
            masks[name] = selection.mask_of(
                file["test/probability"][row, :, :height, :width],
                notes["threshold"],
                notes["min_size"],
            )
        told = dict(
            zip(
                (name.decode() for name in file["gate/name"]),
                file["gate/probability"][:],
                strict=True,
            )
        )
    assert set(names) == {name for name, p in told.items() if p >= notes["gate"]}
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


def test_everything_is_up_to_date_the_second_time_and_nothing_is_chosen_anew(finished, monkeypatch):
    monkeypatch.delattr(selection, "score_rows")
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

        def save_and_die(self, network, optimiser, state, epoch):
            save(self, network, optimiser, state, epoch)
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
        ("member.margin=4", "is for pipes; photographs have"),
        ('member.selection="best_on_held_out"', "is not offered for photographs"),
        ('member.role="gate"', "a gate alone segments nothing"),
        ("member.watch=1", "watch is for networks that segment"),
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
    assert "for photographs; demo has pipes" in place.refused(
        STAGES[1], *settings, "--set", "member.photograph.flips=false"
    )


def test_a_study_scores_segmentation_alone_as_stage_04_does_and_counts_pixels_that_agree(finished):
    chosen, paths = opened(finished)
    train, average = (
        Gallery.open(paths, chosen, "train"),
        selection.oof_average(chosen, paths, "segment"),
    )
    dice, iou = comparing.scores(chosen, paths, [0])
    assert dice == pytest.approx(
        json.loads((finished.folder / "submissions/tiny.json").read_text())[
            "oof_score_without_gate"
        ]
    )
    all_dice = np.stack(
        [
            selection.overlaps(average.of(n), train.mask(r), [0, 4])
            for r, n in enumerate(train.name)
        ],
        axis=2,
    )
    single = []
    for row, name in enumerate(train.name):
        others = train.fold != train.fold[row]
        rule = selection.best_rule(all_dice[:, :, others], train.shows[others], None)
        mask = (
            selection.mask_of(
                average.of(name),
                selection.THRESHOLDS[list(rule.threshold)],
                [[0, 4][s] for s in rule.size],
            )
            > 0
        )
        truth = train.mask(row) > 0
        agree, either = (mask & truth).any(0).sum(), (mask | truth).any(0).sum()
        single.append(agree / either if either else 1.0)
    assert iou == pytest.approx(np.mean(single))


def test_what_the_gate_calls_clean_is_not_segmented_and_gets_empty_masks(
    finished, tmp_path, monkeypatch
):
    """The tiny gate may let everything pass; here its threshold is put where it closes three of
    the seven.
    """
    shutil.copytree(finished.folder, tmp_path / "copy")
    place = Workplace(tmp_path / "copy")
    chosen, paths = opened(place)
    told = {
        name: selection.test_average(chosen, paths, "gate").of(name)[0, 0, 0]
        for name in finished.truth
    }
    closed = sorted(told, key=told.get)[:3]
    make = selection.make
    monkeypatch.setattr(
        selection, "make", lambda *given: make(*given) | {"gate": float(told[closed[-1]]) + 1e-6}
    )
    for stage in STAGES[2:]:
        place.run(stage)
    for task in chosen.tasks():
        names = artifacts.read_arrays(paths.test(chosen, task), ["name"])["name"]
        assert set(names) == (set(told) if task.member == "gate" else set(told) - set(closed))
    table = pd.read_csv(place.folder / "submissions/tiny.csv", dtype=str, keep_default_na=False)
    assert (table["rle"][table["name"].isin(closed)] == "").all()
    assert (
        json.loads((place.folder / "submissions/tiny.json").read_text())["gate"][
            "test_passes_saved"
        ]
        == 3
    )


HOSTILE = "<img src=x onerror=alert(1)>.png"


def test_the_page_is_whole_true_to_the_scores_and_takes_names_for_names(finished, tmp_path):
    """Every photograph is renamed in the files that stage 04 reads, and the page made anew."""
    shutil.copytree(finished.folder, tmp_path / "copy")
    chosen, paths = opened(Workplace(tmp_path / "copy"))
    for path, keys in (
        (paths.prepared(chosen), ["train/name", "test/name"]),
        (paths.choice(chosen), ["name"]),
        (paths.ensemble(chosen), ["oof/name", "test/name"]),
    ):
        with h5py.File(path, "a") as file:
            for key in keys:
                names = [name + HOSTILE for name in file[key].asstr()[:]]
                del file[key]
                file[key] = np.array(names, object)
    result = json.loads((finished.folder / "submissions/tiny.json").read_text())
    text = photographs_page.page(chosen, paths, result, {"prepared": "a1"})
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
    confusion = result["gate"]["confusion"]
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


def test_the_curve_of_a_choice_is_the_mean_over_all_photographs(finished):
    chosen, paths = opened(finished)
    train, average = (
        Gallery.open(paths, chosen, "train"),
        selection.oof_average(chosen, paths, "segment"),
    )
    curve = artifacts.read_arrays(paths.choice(chosen), ["curve"])["curve"]
    for t in (2, 5, 11):
        masks = [average.of(name) > selection.THRESHOLDS[t] for name in train.name]
        scores = [
            metrics.dice(mask[None], train.mask(row)[None])[0] for row, mask in enumerate(masks)
        ]
        np.testing.assert_allclose(curve[t, 0], np.mean(scores, axis=0))
