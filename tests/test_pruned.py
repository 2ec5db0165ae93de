"""What a study tells of pruned networks."""

import shutil
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import jaccard_score
from test_photo_stages import RECIPE, write_raw

from src import networks
from src.artifacts import hdf5
from src.photographs import confusion
from src.photographs.dataset import PhotoDataset
from src.studies import pruning, pruning_figures, schema, study, tables
from src.training import loop
from src.training import pruning as pruner

SETTINGS = """
question = "How far?"
base = "{base}"
protocols = ["wells"]
table = "pruning"
[[axis]]
option = [{{ name = "U-Net" }}]
[[axis]]
option = [
  {{ name = "dense", set = ['member.phase=[{phase}]'] }},
  {{ name = "agp", set = ['''member.phase=[{phase},
    {{ epochs = 1, pruning = {{ method = "agp", sparsity = 0.9 }} }}, {phase}]'''] }},
  {{ name = "few", set = ['''member.phase=[{phase},
    {{ epochs = 1, pruning = {{ method = "linear", sparsity = 0.5, steps = 1, channels = true }} }},
    {phase}]'''] }},
]
"""


def test_labels_by_hand():
    probability = np.array([[[0.4, 0.7, 0.1, 0.2]], [[0.35, 0.1, 0.2, 0.6]]])
    assert confusion.labels(probability, "softmax").tolist() == [[1, 1, 0, 2]]
    assert confusion.labels(probability, "sigmoid").tolist() == [[0, 1, 0, 2]]


def test_iou_by_hand_and_as_the_study_has_it():
    truth, predicted = np.array([0, 0, 0, 0, 1, 1, 2, 2]), np.array([0, 0, 0, 1, 1, 2, 2, 0])
    counts = confusion.confusion(truth, predicted, 3)
    assert counts.sum() == 8 and counts[2, 0] == counts[1, 2] == 1
    assert confusion.class_iou(counts).tolist() == pytest.approx([1 / 3, 1 / 3, 1])
    # true positives, false positives and misses of all labels
    assert confusion.micro_iou(counts) == pytest.approx(5 / (5 + 3 + 3))


def test_iou_sums_over_the_whole_set_and_not_over_photographs():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 2, (2, 3, 50))
    truth[0] = 0
    counts = sum(confusion.confusion(t, p, 1) for t, p in zip(truth, predicted, strict=True))
    whole = jaccard_score(truth.ravel(), predicted.ravel())
    assert confusion.class_iou(counts) == pytest.approx([whole])


def test_operations_fall_with_the_channels():
    network = networks.create({"name": "linknet", "encoder": "test_resnet"})
    scores = {name: torch.rand_like(layer.weight) for name, layer in pruner.layers(network).items()}
    dense = pruning.operations(
        networks.create({"name": "linknet", "encoder": "test_resnet"}), (1, 1, 64, 64)
    )
    *_, head = pruner.layers(network).values()
    pruner.remove_channels(network, scores, 0.5, [head], torch.randn(1, 1, 64, 64))
    assert pruning.operations(network, (1, 1, 64, 64)) < 0.4 * dense


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """A study that has run: its folder, its runs, and the numbers of the epochs that it trained."""
    folder = tmp_path_factory.mktemp("studied")
    write_raw(folder / "data/raw/blobs")
    base = (
        RECIPE[: RECIPE.index("[[member]]")]
        + RECIPE[RECIPE.index('[[member]]\nname = "segment"') :]
    )
    base = base.replace("count = 2", "count = 2\nrun = [0]").replace(
        "batch_size = 8", 'batch_size = 8\neval_every = 1\nprecision = "float32"'
    )
    (folder / "base.toml").write_text(base)
    phase = "{ epochs = 1, loss = { bce = 1.0 }, learning_rate = 3e-3 }"
    (folder / "how_far.toml").write_text(SETTINGS.format(base=folder / "base.toml", phase=phase))
    epochs, epoch = [], loop.Fit.epoch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            loop.Fit, "epoch", lambda self, *call: epochs.append(call[0]) or epoch(self, *call)
        )
        options = [
            str(folder / "how_far.toml"),
            "--data-dir",
            str(folder / "data"),
            "--device",
            "cpu",
            "--jobs",
            "1",
        ]
        study.main(study.parser().parse_args(options))
    loaded = schema.load(str(folder / "how_far.toml"))
    return folder, study.parts(loaded, [], 1, loaded.protocols, folder / "data"), epochs


def test_a_study_of_pruning_tells_scores_and_costs_and_trains_what_is_common_once(studied):
    folder, _, epochs = studied
    assert epochs == [0, 1, 2, 1, 2]
    table = pd.read_csv(folder / "data/studies/how_far/table.csv").set_index("pruner")
    assert list(table.index) == ["dense", "agp", "linear, channels"] and list(
        table["sparsity"]
    ) == [0, 0.9, 0.5]
    assert {"IoU 1", "IoU 2", pruning.MICRO, pruning.MEAN} <= set(table.columns)
    # the truth of this set's test photographs is not known
    assert not any(column.startswith("test ") for column in table)
    dense, agp, few = (table.loc[name] for name in table.index)
    assert (
        agp["parameters (M)"] == dense["parameters (M)"]
        and agp["not zero (M)"] < 0.2 * dense["not zero (M)"]
    )
    assert agp["gzip (MB)"] < 0.5 * agp["file (MB)"] and few["file (MB)"] < 0.5 * dense["file (MB)"]
    assert few["operations for 256x256 (G)"] < 0.5 * dense["operations for 256x256 (G)"]


def test_curves_and_masks_are_drawn(studied):
    folder, parts, _ = studied
    files = {path.name for path in (folder / "data/studies/how_far").glob("*.png")}
    assert files == {"plot.png", "curves.png", "masks_unet_test_resnet.png"}
    table = pd.read_csv(folder / "data/studies/how_far/table.csv")
    runs = {part.variation: part.run for part in parts}
    histories = {name: tables.history(run) for name, run in runs.items()}
    curves = pruning_figures.through_phases(table, histories, runs)
    for variation, panel in zip(("U-Net, agp", "U-Net, few"), curves.axes, strict=True):
        drawn = {line.get_label(): line.get_ydata() for line in panel.lines}
        assert (
            len(drawn["U-Net, dense"]) == 1
            and list(drawn[variation]) == histories[variation]["held_out_iou"].tolist()
        )
        assert {
            line.get_xdata()[0] for line in panel.lines if not line.get_label().startswith("U-Net")
        } == {1, 2}
    unscored = {name: history.drop(columns="held_out_iou") for name, history in histories.items()}
    assert pruning_figures.through_phases(table, unscored, runs) is None
    masks = pruning_figures.masks(table, "unet, test_resnet", runs)
    titles = [axis.get_title() for axis in masks.axes]
    assert (
        titles[:4] == ["photograph", "truth", "U-Net, dense", "U-Net, agp"]
        and titles[-1] == "U-Net, few"
    )
    plt.close("all")


def test_what_the_history_says_of_the_last_epoch_is_the_score_out_of_fold(studied):
    folder, parts, _ = studied
    table = pd.read_csv(folder / "data/studies/how_far/table.csv")
    for part, (_, line) in zip(parts, table.iterrows(), strict=True):
        last = tables.history(part.run).iloc[-1]
        assert (last["held_out_iou"], last["held_out_micro_iou"]) == pytest.approx(
            (line[pruning.MEAN], line[pruning.MICRO]), abs=2e-3
        )


def test_test_photographs_are_scored_as_held_out_ones_are(studied, tmp_path):
    """With the held-out photographs in the place of the test set."""
    folder, (_, part, _), _ = studied
    shutil.copytree(folder / "data", tmp_path / "data")
    run, device = replace(part.run, data=tmp_path / "data"), torch.device("cpu")
    assert confusion.on_test(run, device) is None
    path = run.prepared("train")
    rows = np.flatnonzero(PhotoDataset.open(run, "train").fold == 0)
    arrays = hdf5.read(path, "name", "size", "group", "moments", "image", "mask")
    held_out = {name: array[rows] for name, array in arrays.items()}
    hdf5.write(run.prepared("test"), held_out, {}, **hdf5.metadata(path))
    expected = confusion.out_of_fold(run)
    np.testing.assert_array_equal(confusion.on_test(run, device), expected)
    assert expected.sum() == 12 * (40 * 56 + 48 * 64) // 2
