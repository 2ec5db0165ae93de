"""What the studies of the two reports on Severstal tell, by hand and on a tiny set."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from test_photo_stages import RECIPE, write_raw

from src.competitions.metrics import dice
from src.photographs.confusion import labels
from src.photographs.dataset import PhotoDataset
from src.photographs.decoding import HALF, THRESHOLDS
from src.photographs.selection import Counted
from src.scoring import averaging
from src.scoring.metrics import image_iou
from src.studies import schema, study
from src.studies.severstal import defects, encoders, figures, pictures
from tests.oracles import dice as dice_of


def test_miou_of_label_maps_by_argmax_by_hand():
    """Two classes and the background on 1x4 pixels; the last is likelier nothing than either."""
    likely = np.array([[[0.5, 0.2, 0.1, 0.3]], [[0.3, 0.7, 0.2, 0.3]]])
    assert labels(likely, "softmax").tolist() == [[1, 2, 0, 0]]
    truth = np.array([[[1, 1, 0, 0]], [[0, 0, 1, 0]]])
    assert labels(truth, "sigmoid").tolist() == [[1, 1, 2, 0]]
    assert image_iou(labels(likely, "softmax"), labels(truth, "sigmoid")) == 1 / 3


def test_both_stages_at_one_half_by_hand():
    """Three photographs of one class; the second is rejected, the third at .5 is not."""
    pixels = np.zeros((2, len(THRESHOLDS), 2, 3, 1), np.int64)
    pixels[:, HALF, 0, :, 0] = [[4, 3, 0], [8, 6, 5]]
    true, verdict = np.array([[4], [6], [0]]), np.array([0.9, 0.4, 0.5])
    counted = Counted(pixels, true, np.array([0]), np.zeros(3, int), verdict)
    alone, both = (dice(*encoders.at_half(counted, own))[:, 0] for own in (False, True))
    np.testing.assert_allclose(alone, [8 / 12, 6 / 12, 0])
    np.testing.assert_allclose(both, [8 / 12, 0, 0])
    assert pixels[:, HALF, 0, 1, 0].tolist() == [3, 6]  # counted as before


@dataclass
class Drawn:
    """Photographs whose masks (N, K, H, W) are at hand."""

    masks: np.ndarray
    classes: list[str]

    @property
    def shows(self) -> np.ndarray:
        return self.masks.any((2, 3))

    def mask(self, row: int) -> np.ndarray:
        return self.masks[row]


def test_segments_of_a_defect_by_hand(monkeypatch):
    """Class a: a line of three pixels in two segments, which touch across a corner, and eleven
    single ones; class b: one pixel.
    """
    masks = np.zeros((3, 3, 5, 30), np.uint8)
    masks[0, 0, 0, 0] = masks[0, 0, 1, 1] = masks[0, 0, 0, 4] = 1
    masks[1, 0, 2, 0:22:2] = masks[1, 1, 4, 4] = 1
    monkeypatch.setattr(defects.PhotoDataset, "open", lambda *_: Drawn(masks, ["a", "b", "c"]))
    told = defects.measured(None).values.tolist()
    assert told == [["a", 3, 2], ["a", 11, 11], ["b", 1, 1]]
    a, b, c = defects.table(None).to_dict("records")
    assert (a["defects"], a["share of defects"], a["share of area"]) == (2, 2 / 3, 14 / 15)
    assert [a[f"{bins} segments"] for bins in ("1", "2", "5+", "10+")] == [0, 0.5, 0.5, 0.5]
    assert (b["1 segments"], b["median area"], c["defects"]) == (1, 1, 0)


def test_a_marked_component_is_real_where_it_shares_a_pixel_with_the_truth_of_its_class():
    marked, truth = np.zeros((2, 2, 1, 8), bool)
    marked[0, 0, :3] = marked[0, 0, 5:7] = marked[1, 0, 6] = True
    truth[0, 0, 2:4] = truth[1, 0, 5] = True
    real, false = pictures.parted(marked, truth)
    assert real[0].tolist() == [True] * 3 + [False] * 5
    assert false[0].tolist() == [False] * 5 + [True] * 2 + [False]


def test_the_confusion_matrices_are_drawn_as_the_report_has_them():
    counts = ["defects found", "defects missed", "false alarms", "clean and rejected"]
    cells = {f"{encoders.COUNTS}{name}": [own] for name, own in zip(counts, "4321", strict=True)}
    table = pd.DataFrame(
        {"variation": ["v"], "classifier": ["resnet50"], **cells, encoders.ALONE: 0.5}
    )
    _, matrix = figures.confusions(table).axes
    assert [text.get_text() for text in matrix.texts] == ["4", "3", "2", "1"]
    assert (matrix.get_ylabel(), matrix.get_xlabel()) == ("real", "predicted")


STUDY = """
question = "Which?"
base = "{base}"
protocols = ["wells"]
table = "{table}"
set = ['member.phase.epochs=1', {set}]
[[variation]]
name = "one"
{members}
[[variation]]
name = "two"
members = ["segment"]
"""
OWN = {
    "encoders": ("", "", {"plot", "examples", "defects", "false_defects"}),
    "backbones": (
        """'folds={ count = 3, run = [0], evaluation = 1 }', 'member.1.eval_every=1',
        'member.1.photograph={ resize = [32, 32] }'""",
        'members = ["segment"]',
        {"plot", "examples", "defects", "iou_distribution", "one_class", "resized", "lowest_iou"},
    ),
}


@pytest.mark.parametrize("table", OWN)
def test_a_study_runs_to_its_table_and_figures(table, tmp_path):
    settings, members, names = OWN[table]
    write_raw(tmp_path / "data/raw/blobs")
    (tmp_path / "base.toml").write_text(RECIPE)
    text = STUDY.format(base=tmp_path / "base.toml", table=table, set=settings, members=members)
    (tmp_path / "what.toml").write_text(text)
    options = ["--data-dir", str(tmp_path / "data"), "--device", "cpu", "--jobs", "1"]
    study.main(study.parser().parse_args([str(tmp_path / "what.toml"), *options]))
    folder = tmp_path / "data/studies/what"
    found = {path.name for path in folder.iterdir()}
    assert found == {f"{name}.png" for name in names} | {
        "table.csv",
        "table.md",
        "defects.csv",
        "log.txt",
    }
    labelled = pd.read_csv(folder / "defects.csv")
    assert labelled["defects"].tolist() == [8, 8]  # blocks of 12x14, each one segment
    assert labelled["median area"].tolist() == [168, 168]
    assert labelled["1 segments"].tolist() == [1, 1]
    lines = pd.read_csv(folder / "table.csv")
    assert lines["variation"].tolist() == ["one", "two"]
    if table == "encoders":
        counts = lines.filter(like=encoders.COUNTS).loc[0]
        assert counts.sum() == 24 and counts.iloc[:2].sum() == 16
        assert lines.filter(like=encoders.COUNTS).loc[1].isna().all()


def test_a_table_of_photographs_has_each_score_with_its_spread(tmp_path):
    write_raw(tmp_path / "data/raw/blobs")
    (tmp_path / "base.toml").write_text(RECIPE)
    base = tmp_path / "base.toml"
    text = STUDY.format(base=base, table="photographs", set="", members='members = ["segment"]')
    (tmp_path / "what.toml").write_text(text)
    options = [str(tmp_path / "what.toml"), "--only", "two", "--seeds", "2", "--jobs", "1"]
    options += ["--data-dir", str(tmp_path / "data"), "--device", "cpu"]
    study.main(study.parser().parse_args(options))
    (line,) = pd.read_csv(tmp_path / "data/studies/what/table.csv").to_dict("records")
    loaded = schema.load(str(tmp_path / "what.toml")).only(["two"])
    (part,) = study.parts(loaded, [], 2, ["wells"], tmp_path / "data")
    train = PhotoDataset.open(part.run, "train")
    masks = [train.mask(row) for row in range(len(train.name))]

    def at_half(run):
        average = averaging.oof(run)
        marked = [average.of(name) > 0.5 for name in train.name]
        return np.mean([dice_of(*pair) for pair in zip(marked, masks, strict=True)])

    each = [at_half(part.run.with_seeds([seed])) for seed in (0, 1)]
    mean, spread = line["score at one half"].split(" ± ")
    assert float(mean) == pytest.approx(np.mean(each), abs=1e-4)
    assert float(spread) == pytest.approx(abs(each[0] - each[1]) / 2**0.5, abs=1e-4)
    assert line["seeds"] == 2 and line["score, seeds averaged"] > 0
