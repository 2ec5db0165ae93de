"""A run that is not above a baseline says so: in the scores, last on the terminal, on the page."""

from types import SimpleNamespace

import pytest

from src.scoring import baselines
from src.stages import submit as stage
from src.terminal import console
from tests import tiny
from tests.test_page import make


@pytest.mark.parametrize(
    ("score", "named"),
    [
        (0.41, []),
        (0.4, ["one threshold on intensity (0.4000)"]),
        (0.3, ["one threshold on intensity (0.4000)"]),
        (0.1, ["empty masks (0.2500)", "one threshold on intensity (0.4000)"]),
    ],
)
def test_every_baseline_that_is_not_beaten_is_named_with_both_numbers(score, named):
    own = baselines.judgement(score, {"all_empty": 0.25, "intensity": 0.4})
    assert bool(own) == bool(named)
    if named:
        text = own["judgement"]
        assert f"score {score:.4f} is not above that of {' and of '.join(named)}" in text
        assert "do not submit" in text and "epochs" in text and "data" in text


@pytest.mark.parametrize("quiet", [True, False])
@pytest.mark.parametrize("beaten", [True, False])
def test_it_is_the_last_line(tmp_path, monkeypatch, capsys, quiet, beaten):
    run = tiny.run_of(tmp_path)
    result = {"oof_score": 0.2} | baselines.judgement(0.2, {"all_empty": 0.3 if beaten else 0.1})
    monkeypatch.setattr(
        stage,
        "lineage",
        SimpleNamespace(check_prepared=lambda run: None, submission=lambda run: {}),
    )
    monkeypatch.setattr(stage, "write", lambda run, inputs: None)
    monkeypatch.setattr(stage.sealed, "read_json", lambda path: result)
    monkeypatch.setattr(type(run.modality), "describe", lambda self, result: "  in detail")
    console.start(quiet)
    stage.submit(run, force=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == (1 if quiet else 4) + beaten
    assert lines[-1].startswith("judgement: " if beaten else "submission ")


def test_the_page_says_it_above_the_score(tmp_path, monkeypatch):
    text, result, *_ = make(tmp_path / "good", monkeypatch)
    assert "judgement" not in result and "Judgement" not in text
    text, *_ = make(tmp_path / "bad", monkeypatch, judgement="not above <b>empty masks")
    said = text.index("<strong>Judgement:</strong> not above &lt;b&gt;empty masks.")
    assert said < text.index('id="score"')
