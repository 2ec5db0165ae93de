"""The typed recipe."""

import json
import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import to_jsonable_python

from src import competitions, recipe
from src.artifacts import lineage
from src.artifacts.digests import digest
from src.recipe import overrides
from src.studies import schema, study
from src.terminal.errors import UserError

KINDS = ["wells", "photographs"]
MINIMAL = """
competition = "corroseg"
[[member]]
name = "a"
network = { name = "ring_unet" }
[[member.phase]]
epochs = 3
[[member.phase]]
epochs = 4
[[member]]
name = "b"
network = { name = "ring_unet", channels = [8, 16] }
[[member.phase]]
epochs = 5
"""


@pytest.fixture
def minimal(tmp_path: Path) -> str:
    path = tmp_path / "minimal.toml"
    path.write_text(MINIMAL)
    return str(path)


def problem_of(path: str, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        recipe.load(path, list(overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_minimal_recipe_gets_defaults_and_its_name_from_the_file(minimal: str) -> None:
    loaded = recipe.load(minimal)
    assert loaded.name == "minimal"
    assert loaded.seeds == [0]
    assert loaded.folds.number == 5
    assert [member.name for member in loaded.members] == ["a", "b"]
    assert loaded.member("a").epochs == 7
    assert loaded.member("b").network == {"name": "ring_unet", "channels": [8, 16]}


def test_tasks_are_members_times_seeds_times_folds(minimal: str) -> None:
    loaded = recipe.load(minimal, ["seeds=[3, 1]", "folds.groups=[[1], [2, 4]]"])
    tasks = [(task.member, task.seed, task.fold) for task in loaded.tasks()]
    assert tasks == [
        ("a", 3, 0),
        ("a", 3, 1),
        ("a", 1, 0),
        ("a", 1, 1),
        ("b", 3, 0),
        ("b", 3, 1),
        ("b", 1, 0),
        ("b", 1, 1),
    ]


@pytest.mark.parametrize(
    ("override", "place", "nearest"),
    [
        ("competitoin=1", "competitoin", "competition"),
        ("seed=[1]", "seed", "seeds"),
        ("fold.count=3", "fold", "folds"),
        ("folds.cuont=3", "folds.cuont", "count"),
        ("data.scalling=global", "data.scalling", "scaling"),
        ("inference.flip=true", "inference.flip", "flips"),
        ("postprocess.min_size=[1]", "postprocess.min_size", "min_sizes"),
        ("member.batchsize=4", "member.0.batchsize", "batch_size"),
        ("member.augment.rol=true", "member.0.augment.rol", "roll"),
        ("member.phase.epoch=1", "member.0.phase.0.epoch", "epochs"),
        ("member.phase.optimizer=adam", "member.0.phase.0.optimizer", "optimiser"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(
    minimal: str, override: str, place: str, nearest: str
) -> None:
    message = problem_of(minimal, override)
    assert f"unknown key '{place}': did you mean '{nearest}'?" in message
    assert minimal in message


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("member.0.watch=2", "the key 'member.0.watch' is called 'eval_every'"),
        ("member.0.patience=2", "the key 'member.0.patience' is called 'early_stopping'"),
        (
            "member.1.phase.patience=2",
            "the key 'member.1.phase.0.patience' is called 'plateau_patience'",
        ),
        ("member.augment.copies=[]", "the key 'member.0.augment.copies' is called 'materialised'"),
        ("inference.adapt=1", "the key 'inference.adapt' is called 'adabn'"),
        (
            "inference.average_twins=true",
            "the key 'inference.average_twins' is called 'average_neighbours'",
        ),
        ("postprocess.track=[]", "the key 'postprocess.track' is called 'hmm'"),
        ("member.role=gate", 'member.0.role: "gate" is called "classify"'),
    ],
)
def test_a_key_that_had_another_name_is_refused_with_the_one_it_has(
    minimal: str, override: str, said: str
) -> None:
    assert problem_of(minimal, override) == f"{minimal}: {said}: write that instead"


def test_an_unknown_key_in_the_file_is_an_error_too(minimal: str) -> None:
    Path(minimal).write_text(MINIMAL + "epochz = 2\n")
    assert "unknown key 'member.1.phase.0.epochz': did you mean 'epochs'?" in problem_of(minimal)


def test_an_unknown_key_like_no_other_lists_what_is_known(minimal: str) -> None:
    assert problem_of(minimal, "folds.xyzzy=1").endswith(
        "unknown key 'folds.xyzzy': known: count, evaluation, gap, groups, run, scheme"
    )


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("member.phase.epochs=many", "member.0.phase.0.epochs: "),
        ("member.phase.epochs=0", "member.0.phase.0.epochs: "),
        ("member.phase.epochs=1.5", "member.0.phase.0.epochs: "),
        ("seeds=[]", "seeds: "),
        ("seeds=[-1]", "seeds.0: "),
        ("seeds=[1, 2, 1]", "seeds must differ"),
        ("folds.count=1", "folds.count: "),
        ("folds.groups=[1, 2]", "folds.groups.0: "),
        ("data.scaling=log", "data.scaling: "),
        ("member.name=a", "member names must differ"),
        ("member.name=a/b", "member.0.name: "),
        ("member.network={ channels = [1] }", "network needs a name"),
        ("member.margin=18", "two margins of 18 rows leave nothing of a window of 36 rows"),
        ("member.phase=[]", "member.0.phase: "),
        ("member.phase.loss={ jaccard = 1.0 }", "member.0.phase.0.loss.jaccard"),
        ("member.phase.loss={}", "member.0.phase.0.loss: "),
        ("postprocess.seed_above=0.05", "seed_below must be smaller than seed_above"),
        ("member.augment.cutmix=1.5", "member.0.augment.cutmix: "),
        ("member.ema=1.0", "member.0.ema: "),
        ("member.depth_averages=[72]", "depth_averages must be odd"),
        ("member.depth_averages=[73]", "are 2 channels: network needs inputs = 2"),
        ("member.network.inputs=2", "are 1 channels: network needs inputs = 1"),
        ("member.augment.drop_averages=0.5", "there are none"),
        ("name=../up", "name: "),
        ("name=" + "a" * 101, "name: String should have at most 100 characters"),
        ("prepared=" + "a" * 101, "prepared: String should have at most 100 characters"),
        ("member.0.name=" + "a" * 101, "member.0.name: String should have at most 100 characters"),
        ("member.height=100000000", "member.0.height: Input should be less than or equal to 10000"),
        ("member.height=0", "member.0.height: "),
        ("member.phase.learning_rate=inf", "member.0.phase.0.learning_rate: "),
        ("member.phase.loss={ bce = inf }", "member.0.phase.0.loss"),
        ("member.network.day=2024-01-01", "member.0.network"),
        ("folds.groups=[[1, 2]]", "folds.groups: "),
        ("seeds=[9223372036854775808]", "an integer of more than 64 bits"),
        ("member.network.width=-9223372036854775809", "an integer of more than 64 bits"),
        ("seeds=[" + "9" * 5000 + "]", "give it a value that the recipe can hold"),
        ("seeds=0x" + "f" * 5000, "an integer of more than 64 bits"),
        ("seeds=" + "[" * 5000, "give it a value that the recipe can hold"),
        ("generate.train_patches=40001", "generate.train_patches: "),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_place(
    minimal: str, override: str, words: str
) -> None:
    assert words in problem_of(minimal, override)


def test_a_missing_key_is_named(minimal: str) -> None:
    Path(minimal).write_text(MINIMAL.replace('competition = "corroseg"', ""))
    assert "the key 'competition' is missing" in problem_of(minimal)


def test_broken_toml_is_named_with_its_file(minimal: str) -> None:
    Path(minimal).write_text("competition = ")
    assert f"{minimal}: not readable as TOML" in problem_of(minimal)
    for damaged in (b"\xff\xfe", b"a = " + b"9" * 5000, b"a = " + b"[" * 5000):
        Path(minimal).write_bytes(damaged)
        assert f"{minimal}: not readable as TOML" in problem_of(minimal)


def test_overrides_reach_nested_keys_lists_and_sections_that_the_file_lacks(minimal: str) -> None:
    loaded = recipe.load(
        minimal,
        [
            "competition=demo",
            "inference.flips=false",
            "postprocess.random_walker=false",
            "member.phase.epochs=1",
            "member.phase.learning_rate=1e-4",
            "member.augment.roll=false",
            "member.network.channels=[4]",
        ],
    )
    assert loaded.competition == "demo"
    assert loaded.inference.flips is False
    assert loaded.postprocess.random_walker is False
    assert [[phase.epochs for phase in member.phases] for member in loaded.members] == [[1, 1], [1]]
    assert {phase.learning_rate for member in loaded.members for phase in member.phases} == {1e-4}
    assert [member.augment.roll for member in loaded.members] == [False, False]
    assert [member.network for member in loaded.members] == [
        {"name": "ring_unet", "channels": [4]}
    ] * 2


def test_a_bare_word_is_a_string_and_of_two_overrides_the_later_counts(minimal: str) -> None:
    assert recipe.load(minimal, ["data.scaling=per_pixel"]).data.scaling == "per_pixel"
    assert recipe.load(minimal, ["competition=a=b"]).competition == "a=b"
    assert recipe.load(minimal, ["folds.count=3", "folds.count=4"]).folds.count == 4


@pytest.mark.parametrize(
    "override", ["folds.count", "=3", ".count=3", "folds..count=3", "folds.=3", ""]
)
def test_an_override_without_key_or_value_shows_how_to_write_it(
    minimal: str, override: str
) -> None:
    assert f"--set {override}: write it as key.path=value" in problem_of(minimal, override)


@pytest.mark.parametrize("index", ["2", "9" * 5000])
def test_an_override_of_a_section_that_is_not_there_is_refused(minimal: str, index: str) -> None:
    assert "'member' has only 2 sections, counted from 0" in problem_of(
        minimal, f"member.{index}.name=x"
    )


@pytest.mark.parametrize(
    ("override", "step"),
    [
        ("competition.name=x", "competition"),
        ("member.phase.epochs.first=1", "epochs"),
        ("seeds.first=1", "seeds"),
    ],
)
def test_an_override_through_a_value_is_refused(minimal: str, override: str, step: str) -> None:
    assert f"'{step}' holds a value, not a section" in problem_of(minimal, "seeds=[1]", override)


def test_a_missing_recipe_names_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe.loading, "RECIPES", tmp_path)
    for name in ("corroseg_quick", "demo"):
        (tmp_path / f"{name}.toml").write_text(MINIMAL)
    assert "did you mean 'corroseg_quick'?" in problem_of("corroseg_quik")
    assert "known: corroseg_quick, demo" in problem_of("xyzzy")
    assert "did you mean 'demo'?" in problem_of(str(tmp_path / "demmo.toml"))
    assert recipe.load("demo").name == "demo"


def assert_round_trip(loaded: recipe.Recipe, kind: recipe.Kind, folder: Path) -> None:
    path = folder / "again.toml"
    path.write_text(recipe.to_toml(loaded, kind), encoding="utf-8")
    again = recipe.load(str(path))
    assert again == loaded
    recipe.check_kind(again, kind)


def test_a_recipe_with_every_kind_of_value_survives_toml(minimal: str, tmp_path: Path) -> None:
    loaded = recipe.load(
        minimal,
        [
            "name=other",
            'competition="a \\"b\\" \\\\ é\\t"',
            "seeds=[2, 7]",
            "folds.groups=[[3], [1, 2]]",
            "member.phase.learning_rate=1e-12",
            "member.phase.loss={ bce = 0.5, smooth_iou = 2.0 }",
            'member.network={ name = "x", "odd key" = [1.5, true, "t", 2], none = [], '
            '"\U0001f600\\u007f" = "\U0001f600\\u007f" }',
            "postprocess.betas=[]",
        ],
    )
    assert loaded.name == "other"
    assert list(map(repr, loaded.member("a").network["odd key"])) == ["1.5", "True", "'t'", "2"]
    assert_round_trip(loaded, "wells", tmp_path)
    for kind in KINDS:
        assert_round_trip(recipe.load(minimal), kind, tmp_path)


def test_toml_holds_defaults_and_overrides(minimal: str) -> None:
    text = recipe.to_toml(recipe.load(minimal, ["member.phase.epochs=9"]), "wells")
    assert text.count("weight_decay = 0.01") == text.count("epochs = 9") == 3
    assert "train_patches = 900" in text


def kind_of(chosen: recipe.Recipe) -> recipe.Kind:
    return competitions.get(chosen.competition).kind


@pytest.mark.parametrize("path", sorted(recipe.RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_of_the_project_loads_and_survives_toml(path: Path, tmp_path: Path) -> None:
    loaded = recipe.load(path.stem)
    assert loaded.name == path.stem
    recipe.check_kind(loaded, kind_of(loaded))
    assert_round_trip(loaded, kind_of(loaded), tmp_path)


@pytest.mark.parametrize("path", sorted(schema.STUDIES.glob("*.toml")), ids=lambda path: path.stem)
def test_no_variation_of_a_study_sets_what_its_data_do_not_have(path: Path) -> None:
    loaded = schema.load(path.stem)
    for part in study.parts(loaded, [], 1, loaded.protocols, Path("data")):  # opened, so checked
        recipe.check_kind(part.run.recipe, kind_of(part.run.recipe))


@pytest.mark.parametrize(
    ("kind", "override", "path"),
    [
        ("photographs", "generate.seed=0", "generate"),
        ("photographs", "data.scaling=global", "data.scaling"),
        ("photographs", "member.1.augment={}", "member.1.augment"),
        ("photographs", "inference.average_neighbours=true", "inference.average_neighbours"),
        ("photographs", "postprocess.betas=[]", "postprocess.betas"),
        ("wells", "data.folder=mine", "data.folder"),
        ("wells", 'folds={ scheme = "blocks" }', 'folds.scheme = "blocks"'),
        ("wells", "folds.gap=0", "folds.gap"),
        ("wells", "member.0.activation=sigmoid", "member.0.activation"),
        ("wells", "member.1.photograph.crops=[]", "member.1.photograph"),
    ],
)
def test_a_key_of_the_other_kind_of_data_is_refused_even_where_it_says_what_is_usual(
    minimal: str, kind: recipe.Kind, override: str, path: str
) -> None:
    loaded = recipe.load(minimal, [override])
    other = next(other for other in KINDS if other != kind)
    with pytest.raises(UserError) as caught:
        recipe.check_kind(loaded, kind)
    assert (
        str(caught.value)
        == f"{path} is for {other}; corroseg has {kind}: remove it from the recipe"
    )
    recipe.check_kind(loaded, other)
    assert path.split(".")[-1].split(" ")[0] in recipe.to_toml(loaded, other)


def test_keys_that_both_kinds_of_data_have_are_refused_for_neither(minimal: str) -> None:
    both = ["inference.flips=false", "postprocess.min_sizes=[]", "member.ema=0.5", "data.patches=9"]
    for kind in KINDS:
        recipe.check_kind(recipe.load(minimal, both), kind)


def test_dump_differs_where_a_value_does_and_reads_back(minimal: str) -> None:
    loaded = recipe.load(minimal)
    assert recipe.dump(loaded.folds) == recipe.dump(
        recipe.load(minimal, ["data.scaling=per_pixel"]).folds
    )
    assert recipe.dump(loaded.folds) != recipe.dump(recipe.load(minimal, ["folds.count=4"]).folds)
    assert recipe.Folds.model_validate_json(recipe.dump(loaded.folds)) == loaded.folds


def test_a_changed_default_raises_the_format() -> None:
    """Digests leave defaults out (`recipe.dump`): networks of an earlier default would pass for
    networks of the new one.

    After a change of a default raise `lineage.FORMAT` and write tests/defaults.json anew; a new
    key is only added to it.
    """
    kept = json.loads((Path(__file__).parent / "defaults.json").read_text(encoding="utf-8"))
    assert kept == {"format": lineage.FORMAT, "defaults": defaults()}


def defaults() -> dict[str, Any]:
    """Every key of a recipe that has a default, by its section's class."""
    return {
        f"{section.__name__}.{name}": to_jsonable_python(
            field.get_default(call_default_factory=True)
        )
        for section in recipe.Section.__subclasses__()
        if section.__module__.startswith("src.recipe.")
        for name, field in section.model_fields.items()
        if not field.is_required()
    }


def test_a_default_that_is_written_out_changes_no_digest(minimal: str) -> None:
    usual = ["member.ema=0.0", "member.augment={ roll = true }", "member.phase.cycles=1"]
    plain, written, other = (
        recipe.load(minimal, overrides)
        for overrides in ([], usual, ["member.augment={ roll = false }"])
    )
    assert digest(*plain.members) == digest(*written.members) != digest(*other.members)


@pytest.mark.parametrize(
    "path", sorted(recipe.RECIPES.glob("corroseg*.toml")), ids=lambda path: path.stem
)
def test_every_corroseg_recipe_holds_out_the_same_wells(path: Path) -> None:
    assert recipe.load(str(path)).folds.groups == [
        [3],
        [12, 13, 15],
        [7, 8, 9],
        [10, 11, 14],
        [1, 2, 4, 5, 6],
    ]


# Any recipe is refused in one line, or it survives being written and read again


def branches(value: Any) -> list[dict | list]:
    """The sections and lists in a recipe."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return ([value] if isinstance(value, dict | list) and value else []) + [
        branch for item in inner for branch in branches(item)
    ]


NUMBERS = (
    st.integers()
    | st.integers(-2, 9)
    | st.floats()
    | st.sampled_from([2**63, 2**63 - 1, -(2**63) - 1, 0.5, 1e-320])
)
TEXTS = st.text(max_size=5) | st.sampled_from(
    [
        "group",
        "random",
        "blocks",
        "per_pixel",
        "sgd",
        "cyclic",
        "bce",
        "segment",
        "always",
        "linear",
    ]
)
ATOMS = st.booleans() | NUMBERS | TEXTS | st.dates()
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=4,
)


@given(st.data())
def test_a_recipe_with_anything_in_it_is_refused_in_one_line_or_survives_toml(
    data: st.DataObject,
) -> None:
    kind = data.draw(st.sampled_from(KINDS))
    tree = tomllib.loads(
        recipe.to_toml(recipe.parse({"name": "tiny", **tomllib.loads(MINIMAL)}, "here"), kind)
    )
    for _ in range(data.draw(st.integers(1, 3))):
        branch = data.draw(st.sampled_from(branches(tree)))
        key = data.draw(
            st.sampled_from(sorted(branch)) | TEXTS
            if isinstance(branch, dict)
            else st.sampled_from(range(len(branch)))
        )
        branch[key] = data.draw(VALUES)
    try:
        loaded = recipe.parse(tree, "here")
    except UserError as error:
        assert str(error).startswith("here: ")
        return
    if recipe.foreign(loaded, kind):
        return
    text = recipe.to_toml(loaded, kind)
    assert recipe.parse(tomllib.loads(text), "there") == loaded
    assert not any(
        math.isnan(value) or math.isinf(value)
        for value in tomllib.loads(text)["postprocess"].get("betas", [])
    )


@given(st.text(max_size=9), st.text("[]{}=.\"'0123456789ex_-\n#, ") | st.text())
def test_an_override_of_any_text_is_refused_or_read(key: str, text: str) -> None:
    tree = tomllib.loads(MINIMAL)
    try:
        overrides.apply(tree, f"{key}={text}")
    except UserError as error:
        assert str(error).startswith("--set ")
    else:
        assert tree != tomllib.loads(MINIMAL) or key.split(".")[0].isdecimal()
