"""What a study tells of pruned networks."""

import numpy as np
import pandas as pd
import pytest
import torch
from test_photo_stages import RECIPE, write_raw

from src import metrics, networks, pruning, study, training
from src.photographs import confusion, pruned

SETTINGS = """
question = "How far?"
base = "{base}"
[[axis]]
option = [{{ name = "U-Net" }}]
[[axis]]
option = [
  {{ name = "dense", set = ['member.phase=[{phase}]'] }},
  {{ name = "agp", set = ['member.phase=[{phase}, {{ epochs = 1, pruning = {{ method = "agp", sparsity = 0.9 }} }}, {phase}]'] }},
  {{ name = "few", set = [
    'member.phase=[{phase}, {{ epochs = 1, pruning = {{ method = "linear", sparsity = 0.5, steps = 1, channels = true }} }}, {phase}]'] }},
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
    assert confusion.micro_iou(counts) == pytest.approx(5 / (5 + 3 + 3))  # true positives, false positives and misses of all labels


def test_iou_sums_over_the_whole_set_and_not_over_photographs():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 2, (2, 3, 50))
    truth[0] = 0
    counts = sum(confusion.confusion(t, p, 1) for t, p in zip(truth, predicted, strict=True))
    whole = metrics.iou(predicted.reshape(1, 1, 1, -1), truth.reshape(1, 1, 1, -1))
    assert confusion.class_iou(counts) == pytest.approx(whole[0])


def test_operations_fall_with_the_channels():
    network = networks.create({"name": "linknet", "encoder": "test_resnet"})
    scores = {name: torch.rand_like(layer.weight) for name, layer in pruning.layers(network).items()}
    dense = pruned.operations(networks.create({"name": "linknet", "encoder": "test_resnet"}), (1, 1, 64, 64))
    *_, head = pruning.layers(network).values()
    pruning.remove_channels(network, scores, 0.5, [head], torch.randn(1, 1, 64, 64))
    assert pruned.operations(network, (1, 1, 64, 64)) < 0.4 * dense


def test_a_study_of_pruning_tells_scores_and_costs_and_trains_what_is_common_once(tmp_path, monkeypatch):
    write_raw(tmp_path / "data/raw/blobs")
    base = RECIPE[: RECIPE.index("[[member]]")] + RECIPE[RECIPE.index('[[member]]\nname = "segment"') :]
    (tmp_path / "base.toml").write_text(
        base.replace("count = 2", "count = 2\nrun = [0]").replace("batch_size = 8", "batch_size = 8\nwatch = 1")
    )
    phase = "{ epochs = 1, loss = { bce = 1.0 }, learning_rate = 3e-3 }"
    (tmp_path / "how_far.toml").write_text(SETTINGS.format(base=tmp_path / "base.toml", phase=phase))
    epochs, epoch = [], training.Fit.epoch
    monkeypatch.setattr(training.Fit, "epoch", lambda self, *call: epochs.append(call[3]) or epoch(self, *call))
    options = [str(tmp_path / "how_far.toml"), "--data-dir", str(tmp_path / "data"), "--device", "cpu", "--jobs", "1"]
    study.main(study.parser().parse_args(options))
    assert epochs == [0, 1, 2, 1, 2]
    table = pd.read_csv(tmp_path / "data/studies/how_far/table.csv").set_index("pruner")
    assert list(table.index) == ["dense", "agp", "linear, channels"] and list(table["sparsity"]) == [0, 0.9, 0.5]
    assert {"IoU 1", "IoU 2", pruned.MICRO, pruned.MEAN} <= set(table.columns)
    dense, agp, few = (table.loc[name] for name in table.index)
    assert agp["parameters (M)"] == dense["parameters (M)"] and agp["not zero (M)"] < 0.2 * dense["not zero (M)"]
    assert agp["gzip (MB)"] < 0.5 * agp["file (MB)"] and few["file (MB)"] < 0.5 * dense["file (MB)"]
    assert few["operations for 256x256 (G)"] < 0.5 * dense["operations for 256x256 (G)"]
    assert not any(column.startswith("test ") for column in table)  # the truth of this set's test photographs is not known
    files = {path.name for path in (tmp_path / "data/studies/how_far").glob("*.png")}
    assert files == {"plot.png", "curves.png", "masks_unet_test_resnet.png"}
