"""Studies: every one of the project loads, and one runs through, resumes, and shrinks."""

import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from skimage import segmentation

from src import networks, recipe
from src.artifacts import files, hdf5
from src.artifacts.run import Run
from src.modality import open_run
from src.studies import data, plots, schema, study, tables, walker
from src.terminal import command
from src.terminal.errors import UserError
from src.training import task as training

BASE = """
competition = "demo"
[generate]
train_patches = 60
test_patches = 8
[folds]
count = 2
[[member]]
name = "net"
network = { name = "ring_unet", channels = [4, 8] }
augment = { materialised = ["none", "flip_azimuth"], depth_shift = false }
[[member.phase]]
epochs = 4
learning_rate = 0.01
[postprocess]
random_walker = false
min_sizes = [0]
"""
STUDY = """
question = "What helps?"
base = "{base}"
seeds = 2
[[variation]]
name = "as it is"
[[variation]]
name = "wider"
set = ["member.network.channels=[6, 12]"]
[[variation]]
name = "walked"
set = ["postprocess={{ betas = [1.0], min_sizes = [0], apply = 'always' }}"]
"""
SCORED = {"variation": ["what"], plots.WELLS_HELD_OUT: [0.5]}
SCORED |= {f"{plots.WELLS_HELD_OUT}, deviation over seeds": [float("nan")]}
STABLE = [
    "variation",
    "parameters (M)",
    *tables.TITLES.values(),
    *(f"{title}, seeds averaged" for title in tables.TITLES.values()),
    "seeds",
]


def run(folder, *more: str) -> pd.DataFrame:
    folder.mkdir(exist_ok=True)
    (folder / "base.toml").write_text(BASE)
    (folder / "what.toml").write_text(STUDY.format(base=folder / "base.toml"))
    options = [
        str(folder / "what.toml"),
        "--data-dir",
        str(folder / "data"),
        "--device",
        "cpu",
        "--jobs",
        "1",
        *more,
    ]
    study.main(study.parser().parse_args(options))
    return pd.read_csv(folder / "data/studies/what/table.csv")


def runs_of(
    loaded: schema.Study, shrink: Sequence[str] = (), protocols: Sequence[str] = ("paper", "wells")
) -> list[Run]:
    """Of one seed, in a folder that is never written."""
    parts = study.parts(loaded, list(shrink), 1, protocols, Path("data"))
    return [part.run for part in parts]


@pytest.mark.parametrize("path", sorted(schema.STUDIES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_study_of_the_project_is_made_of_recipes_that_load(path, tmp_path):
    """Photographs have no random split, and a table of their own."""
    loaded = schema.load(path.stem)
    parts = study.parts(loaded, ["member.phase.epochs=1"], loaded.seeds, loaded.protocols, tmp_path)
    assert len(parts) == len(loaded.protocols) * len(loaded.variations)
    recipes = {name: [p.run.recipe for p in parts if p.protocol == name] for name in tables.TITLES}
    assert all(chosen.folds.scheme == "random" for chosen in recipes["paper"])
    assert {chosen.folds.scheme for chosen in recipes["wells"]} <= {"group", "blocks"}
    picked = {
        part.variation
        for part in parts
        for member in part.run.recipe.members
        if part.protocol == "wells" and member.selection != "last"
    }
    assert all(name.endswith(", dense, best") for name in picked)
    (kind,) = {part.run.competition.kind for part in parts}
    assert (loaded.table == "scores") == (kind == "wells")
    assert kind == "wells" or loaded.protocols == ["wells"]


def test_a_study_that_was_interrupted_gives_the_same_table(tmp_path, monkeypatch):
    small = ("--epochs", "2", "--patches", "40")
    undisturbed = run(tmp_path / "undisturbed", *small)
    assert list(undisturbed["variation"]) == ["as it is", "wider", "walked"]
    run_task, done = training.run_task, []

    def interrupted(*call):
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(run_task(*call))

    monkeypatch.setattr(training, "run_task", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "interrupted", *small)
    monkeypatch.setattr(training, "run_task", run_task)
    gone_on = run(tmp_path / "interrupted", *small)
    pd.testing.assert_frame_equal(gone_on[STABLE], undisturbed[STABLE])
    files = {path.name for path in (tmp_path / "interrupted/data/studies/what").iterdir()}
    assert files == {"table.csv", "table.md", "plot.png", "log.txt"}
    # Two trainings a protocol, not three: post-processing does not train.
    assert len(list((tmp_path / "interrupted/data/runs").iterdir())) == 4
    tasks = list((tmp_path / "interrupted/data/runs").glob("*/net/fold*_seed*"))
    assert len(tasks) == 12
    assert all(recipe.load(str(task / "recipe.toml")).tasks() for task in tasks)


def test_a_variation_keeps_only_the_members_it_names(tmp_path):
    base = BASE + (
        '[[member]]\nname = "other"\nnetwork = { name = "ring_unet", channels = [2, 4] '
        "}\n[[member.phase]]\nepochs = 4\n"
    )
    (tmp_path / "two.toml").write_text(base)
    said = {"question": "Who?", "base": str(tmp_path / "two.toml"), "members": ["net"]}
    parts = [
        {"name": "net"},
        {"name": "other", "members": ["other"]},
        {"name": "both", "members": ["other", "net"]},
    ]
    runs = runs_of(schema.Study.model_validate(said | {"variation": parts}))
    assert [[m.name for m in run.recipe.members] for run in runs[::2]] == [
        ["net"],
        ["other"],
        ["net", "other"],
    ]
    assert {task.member for task in runs[0].recipe.tasks()} == {"net"}
    assert len({run.recipe.name for run in runs}) == 6
    with pytest.raises(UserError, match="has no member 'ned': did you mean 'net'"):
        runs_of(
            schema.Study.model_validate(
                said | {"variation": [{"name": "wrong", "members": ["ned"]}]}
            )
        )


def test_weights_left_are_those_of_the_last_epoch_and_of_members_that_lose_none(tmp_path):
    chosen = recipe.parse({"name": "what", **tomllib.loads(BASE)}, "test")
    both = chosen.model_copy(
        update={
            "members": [chosen.members[0], chosen.members[0].model_copy(update={"name": "other"})]
        }
    )
    run = open_run(both, tmp_path, tmp_path)
    for task in run.tasks():
        files.write_text(
            run.history(task),
            "epoch,loss\n1,0.5\n" if task.member == "other" else "epoch,weights\n1,90\n2,70\n",
        )
    dense = sum(w.numel() for w in networks.create(chosen.members[0].network).parameters())
    assert tables.weights_left(run) == 70 + dense


def test_only_some_variations_can_be_run(tmp_path):
    table = run(tmp_path, "--epochs", "1", "--patches", "40", "--seeds", "1", "--only", "wider")
    assert list(table["variation"]) == ["wider"]
    with pytest.raises(UserError, match="did you mean 'wider'"):
        run(tmp_path, "--only", "widr")


def test_each_fold_has_a_column_with_its_score_named_by_its_wells(tmp_path, monkeypatch):
    """Where the score of a patch is the number of its well."""

    def nested(run, wells):
        return wells.index["group"].astype(float), None

    monkeypatch.setattr(tables, "nested", nested)
    table = run(
        tmp_path, "--epochs", "1", "--patches", "40", "--only", "as it is", "--protocol", "wells"
    )
    (file,) = (tmp_path / "data/prepared").glob("*/train.h5")
    train = hdf5.read(file, "group", "fold")
    assert table[tables.TITLES["wells"]][0] == pytest.approx(
        train["group"][train["fold"] >= 0].mean()
    )
    for fold in (0, 1):
        group = train["group"][train["fold"] == fold]
        assert table["wells " + ", ".join(map(str, np.unique(group)))][0] == (
            f"{group.mean():.4f} ± 0.0000"
        )


def test_a_study_can_run_by_one_protocol_alone(tmp_path):
    small = ("--epochs", "1", "--patches", "40", "--seeds", "1", "--only", "wider")
    both = run(tmp_path, *small)
    for protocol, title in tables.TITLES.items():
        table = run(tmp_path, *small, "--protocol", protocol)
        assert list(table[title]) == list(both[title])
        assert not {other for other in tables.TITLES.values() if other != title} & set(
            table.columns
        )


def test_axes_are_combined_and_one_phase_can_be_changed_alone(tmp_path):
    (tmp_path / "base.toml").write_text(BASE)
    phase = "{ epochs = 2, loss = { bce = 1.0 } }"
    options = [
        "option = [{ name = 'a', set = ['member.height=36'] }, { name = 'b', set = "
        "['member.height=72'] }]"
    ]
    options += [
        "option = [{ name = 'c' }, { name = 'd', set = ['member.phase.1.pruning={ method "
        '= "agp", sparsity = 0.5 }\'] }]'
    ]
    text = [
        f"question = '?'\nbase = '{tmp_path}/base.toml'\nset = ['member.phase=[{phase}, {phase}]']",
        *options,
    ]
    (tmp_path / "axes.toml").write_text("\n[[axis]]\n".join(text))
    loaded = schema.load(str(tmp_path / "axes.toml"))
    assert [variation.name for variation in loaded.variations] == ["a, c", "a, d", "b, c", "b, d"]
    members = [run.recipe.members[0] for run in runs_of(loaded, [], ["wells"])]
    assert [member.height for member in members] == [36, 36, 72, 72]
    assert [[phase.pruning is not None for phase in member.phases] for member in members] == [
        [False, False],
        [False, True],
    ] * 2
    assert [variation.name for variation in loaded.only(["b, d"]).variations] == ["b, d"]
    with pytest.raises(UserError, match="only 2 sections"):
        runs_of(loaded, ["member.phase.2.epochs=1"])


def test_train_iou_is_that_of_the_epoch_whose_weights_were_kept(tmp_path):
    """1 minus the loss where that is smooth IoU alone; of other losses there is none."""
    chosen = recipe.parse({"name": "what", **tomllib.loads(BASE)}, "test")
    run = open_run(chosen, tmp_path, tmp_path)
    kept = ["1,0.9,0.1\n2,0.6,0.3\n3,0.2,0.2\n", "1,0.5,0.4\n2,0.1,0.3\n"]
    for task in run.tasks():
        files.write_text(run.history(task), f"epoch,loss,held_out_soft_iou\n{kept[task.fold]}")
    assert tables.train_iou(run) == pytest.approx(((1 - 0.6) + (1 - 0.5)) / 2)
    figure = plots.study_plot({"what": tables.history(run)}, pd.DataFrame(SCORED))
    (_, dashed) = figure.axes[0].lines
    assert dashed.get_linestyle() == "--"
    assert dashed.get_ydata() == pytest.approx([(0.1 + 0.5) / 2, (0.4 + 0.9) / 2, 0.8])
    phase = chosen.members[0].phases[0].model_copy(update={"loss": {"smooth_iou": 1.0, "bce": 1.0}})
    member = chosen.members[0].model_copy(update={"phases": [phase]})
    other = run.with_recipe(chosen.model_copy(update={"members": [member]}))
    assert np.isnan(tables.train_iou(other)) and "train_iou" not in tables.history(other)


def test_a_study_that_walks_on_patches_shows_one_whose_walk_has_most_to_decide(tmp_path):
    """Labels and walk recomputed by scikit-image from what the run predicted."""
    chosen = recipe.parse(
        {
            **tomllib.loads(BASE),
            "name": "what",
            "inference": {"flips": False},
            "postprocess": {"walk_on": "patches", "betas": [1.0], "apply": "always"},
        },
        "test",
    )
    run = open_run(chosen, tmp_path, tmp_path)
    assert walker.on_patches(run)
    assert not walker.on_patches(run.with_recipe(recipe.load("corroseg_cat")))
    image = np.random.default_rng(0).normal(size=(4, 36, 36)).astype(np.float32)
    probability = np.full((4, 36, 36), 0.5)
    probability[0, :18], probability[0, 18:] = 0.95, 0.05  # nothing to decide
    probability[1, :6], probability[1, -6:] = 0.95, 0.05
    probability[2, :2], probability[2, -2:] = 0.95, 0.05  # most, of those with both labels
    probability[3, :1] = 0.95
    block = {"image": image, "probability": probability, "mask": (image > 1).astype(np.uint8)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walker.averaging, "oof", lambda run: None)
        halves = [
            {name: array[at] for name, array in block.items()} for at in (slice(2), slice(2, 4))
        ]
        patch.setattr(walker.selection, "predicted", lambda *_: iter(halves))
        shown, truth, above, labels, walk = walker.panels(run)
        figure = walker.picture({"patches": run})
    assert np.array_equal(shown, image[2]) and np.array_equal(truth, image[2] > 1)
    assert np.array_equal(above, probability[2] > 0.5)
    seeds = np.full((36, 36), 1)
    seeds[:2], seeds[-2:] = 2, 0
    assert np.array_equal(labels, seeds)
    own = np.select([seeds == 2, seeds == 0], [2, 1], 0)
    stretched = np.interp(image[2], (image[2].min(), image[2].max()), (0, 255))
    expected = segmentation.random_walker(stretched, own, beta=1, mode="bf") == 2
    assert np.array_equal(walk, expected) and 0 < walk.mean() < 1
    assert [axis.get_title() for axis in figure.axes] == list(walker.TITLES)


def test_the_numbers_and_figures_of_the_data(tmp_path, capsys):
    (tmp_path / "base.toml").write_text(BASE)
    options = [str(tmp_path / "base.toml"), "--data-dir", str(tmp_path / "data")]
    data.main(command.parser("").parse_args(options))
    train = hdf5.read(
        next((tmp_path / "data").glob("prepared/*/train.h5")), "mask", "valid", "group"
    )
    used = train["valid"].any((1, 2))
    masks = train["mask"][used]
    line = next(line for line in capsys.readouterr().out.splitlines() if "| train |" in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1:4] == [str(len(used)), str(len(set(train["group"]))), str((~used).sum())]
    assert cells[5:] == [f"{masks.any((1, 2)).mean():.3%}", f"{masks.mean():.2%}"]
    names = {path.name for path in (tmp_path / "data/studies/data_base").iterdir()}
    assert names == {"table.md", "example.png", "histograms.png"}


def test_a_study_can_be_shrunk_and_says_so(tmp_path):
    table = run(tmp_path, "--epochs", "1", "--patches", "40", "--seeds", "1")
    text = (tmp_path / "data/studies/what/table.md").read_text()
    assert "member.phase.epochs=1" in text and "data.patches=40" in text and "1 seed" in text
    assert (table["seeds"] == 1).all()
