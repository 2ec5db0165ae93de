"""The page of a training that runs: its curves against the histories, what it shows of each task,
and when it stops renewing itself.
"""

import os
import re

import numpy as np
import pytest

from src.report import charts, curves
from src.report.live import Followed, Page
from src.tasks.progress import Now
from src.terminal.errors import UserError
from tests import tiny
from tests.markup import Balanced

PHASES = [{"epochs": 3, "learning_rate": 0.01}, {"epochs": 2, "learning_rate": 0.001}]
HISTORY = "epoch,loss,learning_rate,held_out_score\n1,4.0,0.01,\n2,2.0,0.01,0.5\n3,1.0,0.01,\n"


@pytest.fixture
def run(tmp_path):
    """Two tasks: the first has trained three epochs, the second none."""
    run = tiny.run_of(tmp_path, tiny.tiny(phase=PHASES, eval_every=2))
    write(run, 0, HISTORY)
    return run


def write(run, fold: int, history: str) -> None:
    path = run.history(run.tasks()[fold])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(history)
    os.utime(path, ns=(fold, len(history)))  # another moment for other contents


def followed(run) -> Followed:
    """All tasks of a run, from before any of them had a history."""
    for task in run.tasks():
        path = run.history(task)
        path.rename(path.with_suffix(".kept")) if path.exists() else None
    result = Followed(run, run.tasks())
    for path in run.folder.rglob("*.kept"):
        path.rename(path.with_suffix(".csv"))
    return result


def shown(run) -> tuple[str, Balanced]:
    text = run.live.read_text()
    return text, Balanced(text)


def polylines(page: Balanced, style: str) -> list[np.ndarray]:
    found = [own["points"] for own in page.all("polyline") if style in own["class"].split()]
    return [np.array([point.split(",") for point in own.split()], float) for own in found]


def test_curves_of_every_task_with_its_phases(run):
    write(run, 1, "epoch,loss,learning_rate\n1,3.0,0.01\n")
    first = run.tasks()[0]
    told = {run.progress(first): "epoch 4/5, loss 0.9000, 12 images/s, 00:20 to go"}
    Page(followed(run))(Now(0.55, "01:30 gone, 01:10 to go, 0 of 2 tasks", told, set()))
    text, page = shown(run)
    loss, score = polylines(page, "task0")
    # five epochs across: the second and third are one and two quarters of the way
    across = charts.LEFT + np.arange(3) / 4 * (charts.WIDTH - charts.LEFT - charts.RIGHT)
    assert loss[:, 0] == pytest.approx(across, abs=0.06)
    assert (loss[1, 1] - loss[0, 1]) == pytest.approx(2 * (loss[2, 1] - loss[1, 1]), abs=0.2)
    assert score[:, 0] == pytest.approx(across[[1, 1]], abs=0.06)  # a dot
    ((start, end),) = polylines(page, "task1")
    assert (start == end).all() and loss[0, 1] < start[1] < loss[1, 1]
    marks = [float(line["x1"]) for line in page.all("line") if line["class"] == "at"]
    assert marks == pytest.approx([(across[2] * 3 - across[1]) / 2] * 2, abs=0.06)  # at 3.5
    assert "phase 2" in page.text and "training loss" in page.text
    assert told[run.progress(first)] in page.text and "1 of 5 epochs done" in page.text
    assert "01:30 gone, 01:10 to go, 0 of 2 tasks" in page.text
    assert page.all("progress")[0]["value"] == "0.5500"
    assert [own["content"] for own in page.all("meta") if own.get("http-equiv") == "refresh"] == [
        "15"
    ]
    assert not re.search(r"""(src|href)=|url\(|https?:|nan""", text)


def test_a_history_that_was_there_before_is_not_shown_until_it_is_written_anew(run):
    before = Followed(run, run.tasks())
    page = Page(before)
    page(Now(0.0, "", {}, set()))
    assert "No epoch has ended yet." in shown(run)[1].text
    write(run, 0, HISTORY[: HISTORY.index("2,2.0")])
    page(Now(0.1, "", {}, set()))
    assert len(polylines(shown(run)[1], "task0")) == 1
    # of the other task only the predictions lack; what is up to date is shown at once
    Page(Followed(run, run.tasks()[1:]))(Now(0.1, "", {}, set()))
    assert len(polylines(shown(run)[1], "task0")) == 1 and "done" in shown(run)[1].text


def test_the_last_page_does_not_renew_itself(run):
    write(run, 1, HISTORY)
    with Page(Followed(run, run.tasks())) as page:
        page(Now(0.5, "", {run.progress(run.tasks()[0]): "epoch 1/5"}, set()))
        assert "refresh" in run.live.read_text()
    text, last = shown(run)
    assert "refresh" not in text and last.text.count("done") == 2
    assert len(polylines(last, "task0")) == len(polylines(last, "task1")) == 2
    with pytest.raises(InterruptedError), Page(Followed(run, run.tasks())) as page:
        page(Now(0.5, "", {run.progress(run.tasks()[0]): "epoch 1/5"}, set()))
        raise InterruptedError
    text, last = shown(run)
    assert "refresh" not in text and "stopped after 00:00" in text and "epoch 1/5" not in text


def test_a_page_that_cannot_be_written_is_told_once_all_is_trained(run):
    run.live.mkdir()
    told = pytest.raises(UserError, match=r"live\.html: cannot be written")
    with told, Page(Followed(run, run.tasks())):
        pass
    with pytest.raises(InterruptedError), Page(Followed(run, run.tasks())):
        raise InterruptedError  # the first of two errors


def test_epochs_without_a_held_out_score_leave_no_gap_in_the_report(run):
    (member,) = curves.learning(run.recipe, curves.histories(run))
    assert len(member["charts"]) == 2 and "nan" not in str(member["charts"])
