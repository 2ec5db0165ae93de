"""The benchmarks' baselines do the same work as the project, and the figures are what they say."""

import numpy as np
import pytest
import torch

from benchmarks import cases, plain, stages, timing
from src import networks, recipe
from src.competitions.formats import rle
from src.modality import open_run
from src.photographs import decoding
from src.recipe import Inference, Member, Task
from src.terminal.errors import UserError
from src.wells import blocks, prediction
from src.wells.batches import WellTrainingSet
from src.wells.windows import Windows

CPU = torch.device("cpu")


@pytest.mark.parametrize(("order", "numpys"), [("row", "C"), ("column", "F")])
def test_run_lengths(order, numpys):
    rng = np.random.default_rng(0)
    masks = (rng.random((40, 7, 11)) < rng.choice([0, 0.1, 0.9, 1], size=(40, 1, 1))).astype(
        np.uint8
    )
    assert rle.encode(masks, order) == plain.encode(masks, numpys)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_overlaps(dtype):
    rng = np.random.default_rng(0)
    for density in (0, 0.02, 0.5):
        probability = (rng.random((3, 20, 30)) * (rng.random((3, 20, 30)) < density)).astype(dtype)
        truth = (rng.random((3, 20, 30)) < 0.2).astype(np.uint8)
        ours, theirs = (
            decoding.overlaps(probability, truth, [0, 2, 5]),
            plain.overlaps(probability, truth, decoding.THRESHOLDS, [0, 2, 5]),
        )
        np.testing.assert_array_equal(ours, theirs)


def test_prediction():
    network = {"name": "ring_unet", "channels": [4, 8]}
    member = Member(
        name="net", network=network, height=24, precision="float32", phase=[{"epochs": 1}]
    )
    image = np.random.default_rng(0).normal(0, 1, (2, 12, 12)).astype(np.float32)
    well = {
        "image": image,
        "group": np.zeros(2, int),
        "depth": np.arange(2),
        "parity": np.zeros(2, int),
    }
    torch.manual_seed(0)
    built = networks.create(network).eval()
    windows = Windows.of(well, 24, CPU)
    seen = windows.inputs(torch.from_numpy(windows.canvas.windows(24, 0)))
    with plain.concatenating():
        expected = plain.predict(built, seen, 4).reshape(2, 12, 12)
    ours = prediction.predict(built, well, member, Inference(average_neighbours=False), CPU)
    np.testing.assert_allclose(ours[:, 0], expected, atol=1e-3)


def test_a_line_by_hand():
    ours, theirs = (
        timing.Times([1.0, 2.0, 4.0], [1.0, 1.0, 1.0]),
        timing.Times([4.0, 4.0, 4.0], [3.0, 3.0, 3.0]),
    )
    line = timing.Comparison("work", "loop", 400, "patches", ours, theirs).line()
    assert line == (
        "| work | 200 (100 to 400) patches/s | loop | 100 (100 to 100) patches/s | "
        "2.00 (1.00 to 4.00) | 3.00 |"
    )


def test_the_memory_of_a_process_and_the_last_words_of_one_that_fails():
    used = timing.run("-c", "x = b'1' * (200 << 20)")
    assert 200 < used.memory < 260 and used.cpu > 0
    with pytest.raises(UserError, match="no such thing"):
        timing.run("-c", "raise SystemExit('no such thing')")


def test_every_fold_of_the_quick_challenge_has_texture_to_lay_over(corroseg_folder, tmp_path):
    """`far` takes it from windows without corrosion, and stops where its wells have none."""
    folder = stages.folder_of(tmp_path, corroseg_folder)
    bench = cases.Bench(open_run(recipe.load("corroseg"), folder, folder), quick=True)
    chosen = recipe.load("corroseg_quick", stages._overrides(bench))
    run, member = open_run(chosen, folder, folder), chosen.member("far")
    list(run.modality.prepare(run, ["train"]))
    train = blocks.read_split(run, "train")
    assert member.augment.texture > 0 and len(train["fold"]) < 1300
    for fold in range(chosen.folds.number):
        source = WellTrainingSet.of(run, Task("far", fold, 0), train, CPU)
        assert len(source.windows.defect_free) > 0
