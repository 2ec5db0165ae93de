"""The bar's estimate of the time left, against schedules worked out by hand."""

import pytest

from src import recipe
from src.stages.lengths import lengths, names
from src.tasks import progress
from src.tasks.progress import Bar, Estimate, Now
from src.terminal import console
from tests import tiny


def test_equal_tasks_at_an_even_pace():
    """Four tasks one after the other, a tenth of one every 6 seconds: 3.7 tasks are left after
    three tenths, 222 s.
    """
    estimate = Estimate([1.0] * 4, [0.0] * 4, jobs=1)
    assert estimate.remaining() is None
    # starting up took 9 seconds, which say nothing of the pace
    estimate.update([0.01, 0, 0, 0], 9.0)
    assert estimate.remaining() is None
    estimate.update([0.11, 0, 0, 0], 6.0)
    estimate.update([0.30, 0, 0, 0], 11.4)
    assert estimate.remaining() == pytest.approx(222)
    assert estimate.done == pytest.approx(0.075)


def test_what_an_earlier_run_did_is_done_but_says_nothing_of_the_pace():
    """One task is done, two were left at a half; a tenth of one takes 20 s: .4 and .5 of a task
    are left, 80 + 100 s.
    """
    estimate = Estimate([1.0] * 3, [1.0, 0.5, 0.5], jobs=1)
    assert estimate.done == pytest.approx(2 / 3)
    estimate.update([1.0, 0.5, 0.5], 30.0)
    assert estimate.remaining() is None
    estimate.update([1.0, 0.50001, 0.5], 1.0)
    estimate.update([1.0, 0.60001, 0.5], 20.0)
    assert estimate.remaining() == pytest.approx(180, abs=0.01)


def test_a_task_that_goes_on_from_its_last_finished_epoch_falls_back():
    """It was killed at .39 and goes on from .3; a tenth takes 10 s. What was lost does not
    count, and is not counted twice.
    """
    estimate = Estimate([1.0], [0.39], jobs=1)
    estimate.update([0.3], 5.0)
    estimate.update([0.301], 1.0)
    estimate.update([0.401], 10.0)
    assert estimate.done == pytest.approx(0.401)
    assert estimate.remaining() == pytest.approx(59.9)


def test_tasks_of_different_lengths():
    """The second task takes three times as long: after half of the first in 10 s, 10 + 60 s are
    left, and an eighth is done.
    """
    estimate = Estimate([1.0, 3.0], [0.0, 0.0], jobs=1)
    estimate.update([1e-9, 0.0], 1.0)
    estimate.update([0.5, 0.0], 10.0)
    assert estimate.remaining() == pytest.approx(70)
    assert estimate.done == pytest.approx(1 / 8)


def test_the_last_task_has_the_machine_to_itself():
    """Three equal tasks on two workers, of 20 s each: after 10 s both workers are half way, 10 s
    later one begins the third: 30 s.

    Of the rate alone, two tasks in 20 s, it would be 20 s.
    """
    estimate = Estimate([1.0] * 3, [0.0] * 3, jobs=2)
    estimate.update([1e-9, 1e-9, 0.0], 1.0)
    estimate.update([0.5, 0.5, 0.0], 10.0)
    assert estimate.remaining() == pytest.approx(30)
    estimate.update([1.0, 1.0, 0.0], 10.0)
    assert estimate.remaining() == pytest.approx(20)
    estimate.update([1.0, 1.0, 0.5], 10.0)  # one worker idles, which is not held against the pace
    assert estimate.remaining() == pytest.approx(10)


def test_tasks_that_tell_nothing_until_they_are_done():
    """Predictions of wells: the first of three is there after 8 s, so two more take 16 s."""
    estimate = Estimate([1.0] * 3, [0.0] * 3, jobs=1)
    estimate.update([0.0, 0.0, 0.0], 7.5)
    assert estimate.remaining() is None
    estimate.update([1.0, 0.0, 0.0], 0.5)
    assert estimate.remaining() == pytest.approx(16)


def test_nothing_is_left_when_all_is_done():
    estimate = Estimate([1.0, 2.0], [0.0, 0.0], jobs=2)
    estimate.update([1.0, 0.0], 1.0)
    estimate.update([1.0, 1.0], 1.0)
    assert (estimate.done, estimate.remaining()) == (1.0, 0.0)


def test_lengths_follow_epochs_and_operations(tmp_path):
    """Twice the epochs are twice the length; of the same network two heights cost the same for a
    row.
    """
    member = {"network": {"name": "ring_unet", "channels": [4, 8]}, "height": 72}
    members = [
        {**member, "name": "short", "phase": [{"epochs": 3}]},
        {**member, "name": "long", "phase": [{"epochs": 4}, {"epochs": 2}]},
        {
            **member,
            "name": "copied",
            "phase": [{"epochs": 3}],
            "augment": {"materialised": ["none", "flip_depth"]},
        },
        {**member, "name": "tall", "height": 144, "phase": [{"epochs": 3}]},
    ]
    chosen = recipe.parse(
        {"name": "r", "competition": "demo", "folds": {"count": 2}, "member": members}, "test"
    )
    calls = [(tiny.run_of(tmp_path, chosen), task) for task in chosen.tasks()]
    names = [task.member for task in chosen.tasks()]
    training, predicting = (
        dict(zip(names, lengths(calls, training=training), strict=True))
        for training in (True, False)
    )
    assert training["long"] == pytest.approx(2 * training["short"])
    assert training["copied"] == pytest.approx(2 * training["short"])
    assert training["tall"] == pytest.approx(training["short"], rel=0.02)
    assert predicting["long"] == predicting["short"]


@pytest.fixture
def bar(tmp_path):
    """Two tasks, one of them half done, shown where there is no terminal."""
    console.start(quiet=False)
    (tmp_path / "0").write_text("0.5")
    yield Bar("training", [tmp_path / "0", tmp_path / "1"], [1.0, 1.0], jobs=1)
    console.start(quiet=False)


def test_a_file_gets_a_line_now_and_then(bar, capsys):
    """Every 30 s, and after five minutes whenever a tenth more time has gone: 300, 330, 363 s."""
    for second in range(1, 365):
        bar.show(float(second))
    shown = capsys.readouterr().err
    lines = shown.splitlines()
    assert lines[0] == "training  25%, 00:30 gone, ? to go, 0 of 2 tasks"
    assert [line.split(", ")[1] for line in lines[-3:]] == [
        "05:00 gone",
        "05:30 gone",
        "06:03 gone",
    ]
    assert len(lines) == 12
    assert max(map(len, lines)) < 80 and "\r" not in shown


def test_quiet_leaves_the_lines_to_the_log(bar, tmp_path, capsys):
    console.start(quiet=True)
    console.keep(tmp_path / "log.txt")
    bar.show(31.0)
    assert capsys.readouterr() == ("", "")
    assert "training  25%, 00:31 gone" in (tmp_path / "log.txt").read_text()


@pytest.fixture
def busy(tmp_path):
    """Three tasks, two at a time: the first done, the second at work, and of the third only what a
    killed run left.
    """
    files = [tmp_path / str(number) for number in range(3)]
    files[2].write_text("0.3000 epoch 3/9, loss 0.2000, 11 images/s")
    seen = []
    bar = Bar(
        "training", files, [1.0] * 3, 2, ["a, fold 0", "a, fold 1", "bc, fold 0"], [seen.append]
    )
    files[1].write_text("0.5000 epoch 5/9, loss 0.1000, 12 images/s")
    bar.done.add(0)
    # a quarter of a task in 10 s, with two workers and one task at work: half a task is left
    bar.estimate.work, bar.estimate.busy = 0.25, 10.0
    bar.estimate.shares = bar.shares()
    return bar, seen


def test_a_line_for_each_task_that_runs(busy, monkeypatch):
    bar, _ = busy
    monkeypatch.setattr(progress, "_room", lambda: (80, 24))
    line = "  a, fold 1  epoch 5/9, loss 0.1000, 12 images/s, 00:20 to go"
    assert bar.lines() == [line]
    bar.files[2].write_text("0.3100 epoch 3/9, loss 0.1900, 11 images/s")
    second = "  bc, fold 0  epoch 3/9, loss 0.1900, 11 images/s, 00:27 to go"
    bar.estimate.shares = bar.shares()
    assert bar.lines() == [line.replace("1  epoch", "1   epoch"), second]
    monkeypatch.setattr(progress, "_room", lambda: (80, 4))  # the bar, both, and the cursor's line
    assert len(bar.lines()) == 2
    for room in ((80, 3), (len(second) - 1, 24)):
        monkeypatch.setattr(progress, "_room", lambda room=room: room)
        assert bar.lines() == []


def test_who_watches_is_told_what_runs(busy, tmp_path):
    bar, seen = busy
    bar.observers.insert(0, lambda now: 1 / 0)  # stops nobody else, and is not silent
    console.keep(tmp_path / "log.txt")
    bar.tell(90.0)
    told = {bar.files[1]: "epoch 5/9, loss 0.1000, 12 images/s, 00:20 to go"}
    # 1.5 tasks are done, half of one and .7 of another to do at 40 s a task, side by side
    assert seen == [
        Now(pytest.approx(1.8 / 3), "01:30 gone, 00:28 to go, 1 of 3 tasks", told, {bar.files[0]})
    ]
    assert "division by zero" in (tmp_path / "log.txt").read_text()


def test_names_tell_seeds_and_recipes_where_there_are_several(tmp_path):
    one = tiny.run_of(tmp_path, tiny.tiny())
    two = one.with_seeds([0, 1])
    assert names([(one, task) for task in one.tasks()]) == ["net, fold 0", "net, fold 1"]
    assert names([(two, two.tasks()[0])]) == ["net, fold 0, seed 0"]
    other = one.with_recipe(one.recipe.model_copy(update={"name": "other"}))
    assert names([(one, one.tasks()[0]), (other, one.tasks()[1])]) == [
        "tiny: net, fold 0",
        "other: net, fold 1",
    ]


def test_a_task_that_trains_says_epoch_loss_and_images(tmp_path):
    """The loss is that of the epoch so far, here of its one batch."""
    said = []
    fitting = tiny.prepare_fit(tiny.tiny(batch_size=16), tiny.wells(4, 2), tmp_path)
    fitting.run(lambda share, words: said.append((share, words())))
    losses = [f"{loss:.4f}" for loss in tiny.losses(tmp_path)]
    assert [share for share, _ in said] == [0.25, 0.75]
    for number, (_, words) in enumerate(said):
        epoch, loss, pace = words.split(", ")
        assert (epoch, loss) == (f"epoch {number + 1}/2", f"loss {losses[number]}")
        assert float(pace.removesuffix(" images/s")) > 0
