"""Studies: every one of the project loads, and one runs through, resumes, and shrinks."""

import tomllib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src import networks, recipe
from src.artifacts import files, hdf5
from src.artifacts.run import Run
from src.modality import open_run
from src.studies import schema, study, tables
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


def test_a_study_can_be_shrunk_and_says_so(tmp_path):
    table = run(tmp_path, "--epochs", "1", "--patches", "40", "--seeds", "1")
    text = (tmp_path / "data/studies/what/table.md").read_text()
    assert "member.phase.epochs=1" in text and "data.patches=40" in text and "1 seed" in text
    assert (table["seeds"] == 1).all()
