"""What a study tells of pruned networks."""

import shutil
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import segmentation_models_pytorch as smp
import torch
from sklearn.metrics import jaccard_score
from test_photo_stages import RECIPE, write_raw
from torch import nn

from src import networks
from src.artifacts import hdf5
from src.photographs import confusion
from src.photographs.dataset import PhotoDataset
from src.photographs.decoding import STEPS
from src.recipe import Pruning
from src.studies import pruning, pruning_figures, schema, study, tables
from src.training import loop
from src.training import pruning as pruner

FILTERS = (
    '{ method = "movement", sparsity = 0.5, regrow = true, granularity = "channel", head = true }'
)
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
  {{ name = "best", set = ['member.phase=[{phase}, {phase}]',
    'member.selection="best_on_held_out"'] }},
  {{ name = "agp", set = ['''member.phase=[{phase},
    {{ epochs = 1, pruning = {{ method = "agp", sparsity = 0.9 }} }}, {phase}]'''] }},
  {{ name = "few", set = ['''member.phase=[{phase},
    {{ epochs = 1, pruning = {{ method = "linear", sparsity = 0.5, steps = 1, channels = true }} }},
    {phase}]'''] }},
  {{ name = "filters", set = [
    'member.phase=[{phase}, {phase}, {phase}]', 'member.phase.1.pruning={filters}'
  ] }},
]
"""


def test_labels_by_hand():
    probability = np.array([[[0.4, 0.7, 0.1, 0.2]], [[0.35, 0.1, 0.2, 0.6]]])
    assert confusion.labels(probability, "softmax").tolist() == [[1, 1, 0, 2]]
    assert confusion.labels(probability, "sigmoid").tolist() == [[0, 1, 0, 2]]


def test_labels_whose_filters_are_pruned_lose_to_the_background_whatever_is_rounded():
    """Logits of three labels and the background: that of the first label as drawn, the others 0."""
    logits = torch.zeros(4, 1, 5000)
    logits[1] = torch.randn(1, 5000, generator=torch.Generator().manual_seed(0))
    logits[1][logits[1].abs() < 0.02] = 0.5  # nearer than rounding tells
    likely = logits.softmax(0)[1:].mul(STEPS).round().div(STEPS).half().numpy()
    assert (confusion.labels(likely, "softmax") == logits.argmax(0).numpy()).all()


def test_iou_by_hand_and_as_the_study_has_it():
    truth, predicted = np.array([0, 0, 0, 0, 1, 1, 2, 2]), np.array([0, 0, 0, 1, 1, 2, 2, 0])
    counts = confusion.confusion(truth, predicted, 3)
    assert counts.sum() == 8 and counts[2, 0] == counts[1, 2] == 1
    assert confusion.class_iou(counts[None]).tolist() == pytest.approx([1 / 3, 1 / 3, 1])
    # true positives, false positives and misses of all labels
    assert confusion.micro_iou(counts[None]) == pytest.approx(5 / (5 + 3 + 3))


def test_iou_of_each_image_by_hand_and_as_the_library_has_it():
    """Of the first image 7 of 8 pixels are right, of the second, which is larger, 3 of 12."""
    truth = [np.array([0, 0, 0, 0, 1, 1, 2, 2]), np.array([0] * 6 + [1] * 6)]
    predicted = [np.array([0, 0, 0, 0, 1, 1, 2, 1]), np.array([0] * 3 + [2] * 9)]
    pairs = list(zip(truth, predicted, strict=True))
    counts = np.stack([confusion.confusion(*pair, 2) for pair in pairs])
    # 7 / (7 + 1 + 1) and 3 / (3 + 9 + 9)
    assert confusion.iou_by_image(counts) == pytest.approx((7 / 9 + 1 / 7) / 2)
    # pooled: 10 of 20 right
    assert confusion.micro_iou(counts) == pytest.approx(10 / 30)
    stats = [
        smp.metrics.get_stats(
            torch.tensor(p)[None, None], torch.tensor(t)[None, None], "multiclass", num_classes=3
        )
        for t, p in pairs
    ]
    library = smp.metrics.iou_score(*map(torch.cat, zip(*stats, strict=True)), "micro-imagewise")
    assert confusion.iou_by_image(counts) == pytest.approx(library.item())


def test_iou_sums_over_the_whole_set_and_not_over_photographs():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 2, (2, 3, 50))
    truth[0] = 0
    counts = np.stack([confusion.confusion(t, p, 1) for t, p in zip(truth, predicted, strict=True)])
    whole = jaccard_score(truth.ravel(), predicted.ravel())
    assert confusion.class_iou(counts) == pytest.approx([whole])


def test_sparsity_as_the_studys_logs_tell_it():
    network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 3, 1), nn.Linear(2, 2))
    with torch.no_grad():
        network[0].weight[1:] = 0
        network[2].weight[:] = 0
    assert pruning.mean_sparsity(network) == pytest.approx((3 / 4 + 0) / 2)


def test_half_of_the_filters_of_fpn_is_what_the_studys_log_shows():
    """Its mean sparsity at .5, of FPN on ResNet-101 with three labels: .4986, where single weights
    would give .5.
    """
    network = networks.sketch({"name": "fpn", "encoder": "resnet101", "classes": 3, "channels": 3})
    half = Pruning(method="agp", sparsity=0.5, granularity="channel", head=True)
    pruned = pruner.Pruner(network, half).layers
    shares = [
        1 - pruner.least(torch.rand(n), torch.ones(n), 0.5).mean().item()
        for n in (layer.out_channels for layer in pruned.values())
    ]
    assert np.mean(shares) == pytest.approx(0.4986, abs=5e-5)


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
    (folder / "how_far.toml").write_text(
        SETTINGS.format(base=folder / "base.toml", phase=phase, filters=FILTERS)
    )
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
    folder, parts, epochs = studied
    (member,) = parts[-1].run.recipe.members
    assert epochs == [0, 1, 2, 0, 1, 1, 2, 1, 2]
    table = pd.read_csv(folder / "data/studies/how_far/table.csv")
    pruners = ["dense", "dense", "agp", "linear, channels", "movement, filters"]
    assert list(table["pruner"]) == pruners and list(table["sparsity"]) == [0, 0, 0.9, 0.5, 0.5]
    told = {"IoU 1", "IoU 2", pruning.BY_IMAGE, pruning.MICRO, pruning.MEAN}
    assert told <= set(table.columns)
    # the truth of this set's test photographs is not known
    assert not any(column.startswith("test ") for column in table)
    dense, _, agp, few, filters = (line for _, line in table.iterrows())
    assert (
        agp["parameters (M)"] == dense["parameters (M)"]
        and agp["not zero (M)"] < 0.2 * dense["not zero (M)"]
    )
    assert agp["gzip (MB)"] < 0.5 * agp["file (MB)"] and few["file (MB)"] < 0.5 * dense["file (MB)"]
    assert filters["file (MB)"] == agp["file (MB)"]
    network = networks.create(parts[-1].run.modality.network_options(parts[-1].run, member))
    outputs = [x.out_channels for x in network.modules() if isinstance(x, nn.Conv2d)]
    shares = [int(n / 2) / n for n in outputs]
    assert filters["zero, mean of convolutions"] == pytest.approx(np.mean(shares), abs=1e-6)
    assert few["operations for 256x256 (G)"] < 0.5 * dense["operations for 256x256 (G)"]


def test_curves_and_masks_are_drawn(studied):
    folder, parts, _ = studied
    files = {path.name for path in (folder / "data/studies/how_far").glob("*.png")}
    curves = {"first_stage.png", "curves.png", "curves_classes.png"}
    assert files == curves | {"plot.png", "labels.png", "masks_unet_test_resnet.png"}
    table = pd.read_csv(folder / "data/studies/how_far/table.csv")
    runs = {part.variation: part.run for part in parts}
    histories = {name: tables.history(run) for name, run in runs.items()}
    score = "held_out_iou_by_image"
    curves = pruning_figures.through_phases(table, histories, runs)
    pruned = ("U-Net, agp", "U-Net, few", "U-Net, filters")
    for variation, panel in zip(pruned, curves.axes, strict=True):
        drawn = {line.get_label(): line.get_ydata() for line in panel.lines}
        assert len(drawn["U-Net, dense"]) == 1 and "U-Net, best" not in drawn
        first, second, third = measured = histories[variation][score].tolist()
        smooth = [first, 0.9 * first + 0.1 * second]
        smooth.append(0.9 * smooth[1] + 0.1 * third)
        assert list(drawn[variation]) == pytest.approx(smooth)
        lines = [list(line.get_ydata()) for line in panel.lines]
        assert lines[lines.index(list(drawn[variation])) + 1] == measured
        begins = {x for line in panel.lines for x in line.get_xdata() if line.get_ydata()[-1] == 1}
        assert begins >= {1, 2}
    (panel,) = pruning_figures.first_stage(table, histories, runs).axes
    assert [line.get_xdata().tolist() for line in panel.lines] == [[1], [1]]
    unscored = {name: history.drop(columns=score) for name, history in histories.items()}
    assert pruning_figures.first_stage(table, unscored, runs) is None
    assert pruning_figures.through_phases(table, unscored, runs) is None
    masks = pruning_figures.masks(table, "unet, test_resnet", runs)
    titles = [axis.get_title() for axis in masks.axes]
    assert (
        titles[:5] == ["photograph", "truth", "U-Net, dense", "U-Net, best", "U-Net, agp"]
        and titles[-1] == "U-Net, filters"
    )
    plt.close("all")


def test_what_the_history_says_of_the_epoch_that_is_kept_is_the_score_out_of_fold(studied):
    """The last epoch, or with "best_on_held_out" the one of the best IoU of each image."""
    folder, parts, _ = studied
    table = pd.read_csv(folder / "data/studies/how_far/table.csv")
    for part, (_, line) in zip(parts, table.iterrows(), strict=True):
        history = tables.history(part.run)
        best = history["held_out_iou_by_image"].idxmax()
        kept = history.loc[best if part.variation == "U-Net, best" else len(history) - 1]
        told = (kept["held_out_iou"], kept["held_out_micro_iou"], kept["held_out_iou_by_image"])
        names = (pruning.MEAN, pruning.MICRO, pruning.BY_IMAGE)
        assert told == pytest.approx([line[name] for name in names], abs=2e-3)


def test_pixels_of_labels_are_counted_over_all_photographs(studied):
    _, (part, *_), _ = studied
    train = PhotoDataset.open(part.run, "train")
    known = [confusion.labels(train.mask(row), "sigmoid") for row in range(len(train.name))]
    counted = {k: sum(int((label == k).sum()) for label in known) for k in range(3)}
    assert list(pruning.label_pixels(part.run).values()) == list(counted.values())
    bars = pruning_figures.label_shares({"background": 75, "1": 24, "2": 1}).axes[0]
    assert [text.get_text() for text in bars.texts] == ["75.00 %", "24.00 %", "1.00 %"]
    plt.close("all")


def test_test_photographs_are_scored_as_held_out_ones_are(studied, tmp_path):
    """With the held-out photographs in the place of the test set."""
    folder, (_, _, part, *_), _ = studied
    shutil.copytree(folder / "data", tmp_path / "data")
    run, device = replace(part.run, data=tmp_path / "data"), torch.device("cpu")
    assert confusion.on_test(run, device) is None
    path = run.prepared("train")
    rows = np.flatnonzero(PhotoDataset.open(run, "train").fold == 0)
    arrays = hdf5.read(path, "name", "size", "group", "moments", "image", "mask")
    held_out = {name: array[rows] for name, array in arrays.items()}
    hdf5.write(run.prepared("test"), held_out, {}, **hdf5.metadata(path))
    expected = confusion.out_of_fold(run)
    (own,) = confusion.on_test(run, device)
    np.testing.assert_array_equal(own, expected)
    assert expected.sum() == 12 * (40 * 56 + 48 * 64) // 2


def test_on_the_test_set_every_network_is_scored_by_itself(studied, monkeypatch):
    """Two seeds of which one network is right everywhere: no average of the two."""
    _, (part, *_), _ = studied
    right = np.diag([8, 2, 2])[None]
    wrong = np.array([[[8, 0, 0], [2, 0, 0], [2, 0, 0]]])
    monkeypatch.setattr(pruning, "on_test", lambda run, device: [right, wrong])
    line = pruning.row("dense", part.run, torch.device("cpu"))
    assert line[f"test {pruning.MEAN}"] == pytest.approx((1 + 0) / 2)
    assert line[f"test {pruning.BY_IMAGE}"] == pytest.approx((1 + 8 / 16) / 2)
