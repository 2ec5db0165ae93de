"""The page of wells in a real browser: it draws what the arrays hold, and can be walked through."""

import json

import browser
import numpy as np
import pytest
from test_page import HOSTILE, make

from src.report import pictures

pytestmark = pytest.mark.skipif(
    browser.FOUND is None,
    reason="needs Chromium (chromium, chromium-browser or google-chrome on the PATH)",
)

PANEL = "[...document.querySelectorAll('.panels canvas')]"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The path of a page whose first patch has a hostile name, the training arrays, and a
    browser.
    """
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        text, _, train, _ = make(folder, patch, HOSTILE)
    (folder / "page.html").write_text(text, encoding="utf-8")
    with browser.browser() as one:
        yield folder / "page.html", train, one


def show(page, fragment: str = "", **window) -> browser.Browser:
    """Open the page and wait until the viewer has drawn the well that is asked for."""
    one = page[2]
    one.open(browser.url(page[0], fragment), **window)
    wanted = fragment.partition("&")[0].removeprefix("well=") or "train-1"
    one.until(f"document.getElementById('viewer').dataset.shown === '{wanted}'")
    one.settle()
    return one


def state(one: browser.Browser) -> tuple[float, float]:
    """The row at the left edge, and the zoom."""
    first, zoom = one.value("[viewer.dataset.first, viewer.dataset.zoom]")
    return float(first), float(zoom)


def pixels(one: browser.Browser, panel: int) -> np.ndarray:
    """What a panel's canvas holds, (height, width, 4)."""
    script = (
        f"(() => {{ const c = {PANEL}[{panel}]; "
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height); "
        "return [c.width, c.height, Array.from(d.data)]; })()"
    )
    width, height, data = one.value(script)
    return np.array(data, np.uint8).reshape(height, width, 4)


def colour(code: str) -> list[int]:
    return [int(code[at : at + 2], 16) for at in (1, 3, 5)] + [255]


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (390, True)])
def test_it_opens_without_complaint_and_every_picture_is_there(page, width, dark):
    one = show(page, width=width, dark=dark)
    assert (
        one.value(
            "[...document.images].filter((image) => !(image.complete && "
            "image.naturalWidth > 1)).length"
        )
        == 0
    )
    assert one.value("document.images.length") > 20
    assert one.value("document.documentElement.scrollWidth") <= width, (
        "the page is wider than its window"
    )
    assert one.value("getComputedStyle(document.body).backgroundColor") == (
        "rgb(21, 23, 26)" if dark else "rgb(253, 253, 252)"
    )
    assert one.troubles == []


def test_a_hostile_name_is_shown_and_not_run(page):
    one = show(page, "well=train-1&row=0&zoom=8")
    x, y = one.value(
        f"(() => {{ const box = {PANEL}[0].getBoundingClientRect(); "
        "return [box.left + 20, box.top + 20]; })()"
    )
    one.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert one.value("document.querySelector('[data-part=pixel]').textContent").startswith(HOSTILE)
    assert one.troubles == []


def test_panels_show_the_arrays_at_their_place(page):
    """Eight pixels a row from a known row: thickness, truth, probability, disagreement and mask
    against the arrays themselves.
    """
    train, one = page[1], show(page, "well=train-7&row=200&zoom=8")
    first, zoom = state(one)
    well = pictures.Unrolled.of(train, 7)
    thickness, truth, probability, apart, mask = (pixels(one, panel) for panel in range(5))
    assert zoom == 8 and thickness[:, :, 3].min() == 255 and len(np.unique(thickness[:, :, 0])) > 30
    for row in (150, 180, 200, 230):
        for column in (2, 6, 20, 35):
            x, y = int((row - first + 0.5) * zoom), int((column + 0.5) * len(mask) / 36)
            true, marked = (
                bool(well.stack(train[name])[row, column]) for name in ("mask", "prediction")
            )
            assert truth[y, x].tolist() == colour(
                pictures.COLOURS["marked" if true else "defect_free"]
            )
            kind = {(1, 1): "found", (1, 0): "missed", (0, 1): "false", (0, 0): "defect_free"}[
                true, marked
            ]
            assert mask[y, x].tolist() == colour(pictures.COLOURS[kind])
            step = round(float(well.stack(train["probability"])[row, column]) * 15)
            assert probability[y, x].tolist() == colour(pictures.INFERNO[step])
            step = round(float(well.stack(train["deviation"])[row, column]) * 30)
            assert apart[y, x].tolist() == colour(pictures.VIRIDIS[step])


def test_an_interleaved_well_is_one_ring_and_its_missing_patch_a_gap(page):
    one = show(page, "well=train-2&row=0&zoom=1")
    truth = pixels(one, 1)
    assert (truth[:, 72:108, 3] == 0).all() and (truth[:, :72, 3] == 255).all()
    assert (
        json.loads(page[2].value("document.getElementById('data-train-2').textContent"))["columns"]
        == 72
    )


def test_wheel_keys_slider_drag_and_map_move_through_a_well(page):
    one = show(page, "well=train-7&row=500&zoom=2")
    box = one.value(
        f"(() => {{ {PANEL}[0].scrollIntoView({{block: 'center'}}); "
        f"const b = {PANEL}[0].getBoundingClientRect(); "
        "return [b.left + b.width / 2, b.top + 30]; })()"
    )
    where = {"x": box[0], "y": box[1]}

    def after(method: str, **given) -> tuple[float, float]:
        one.call(method, **given)
        one.settle()
        return state(one)

    first, zoom = state(one)
    assert zoom == 2
    rolled = after(
        "Input.dispatchMouseEvent", type="mouseWheel", **where, deltaX=0, deltaY=-100, modifiers=2
    )
    assert rolled[1] == pytest.approx(2 * np.exp(0.5), rel=1e-3)
    middle = one.value("document.querySelector('.panels').clientWidth") / 2
    assert rolled[0] + middle / rolled[1] == pytest.approx(first + middle / zoom, abs=1), (
        "zooms around the pointer"
    )
    sideways = after("Input.dispatchMouseEvent", type="mouseWheel", **where, deltaX=80, deltaY=0)
    assert sideways[0] > rolled[0] and sideways[1] == rolled[1]
    one.call("Input.dispatchMouseEvent", type="mousePressed", **where, button="left", clickCount=1)
    dragged = after(
        "Input.dispatchMouseEvent",
        type="mouseMoved",
        x=where["x"] + 66,
        y=where["y"],
        button="left",
        buttons=1,
    )
    one.call("Input.dispatchMouseEvent", type="mouseReleased", **where, button="left")
    assert dragged[0] == pytest.approx(sideways[0] - 66 / sideways[1], abs=0.2)
    one.value("document.getElementById('viewer').focus()")
    assert after("Input.dispatchKeyEvent", type="keyDown", key="Home")[0] == 0
    assert after("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")[0] > 0
    one.value(
        "(() => { const z = document.querySelector('[data-part=zoom]'); z.value = 1000; "
        "z.dispatchEvent(new Event('input')); })()"
    )
    one.settle()
    assert state(one)[1] == 16
    one.value("document.querySelector('[data-part=fit]').click()")
    one.settle()
    assert state(one) == (
        0,
        pytest.approx(2 * middle / (30 * 36), rel=1e-3) if 2 * middle < 30 * 36 else 1,
    )
    assert one.troubles == []


def test_the_next_bad_patch_comes_into_view_one_after_the_other(page):
    """Two patches of the first well score badly, one of them its last, which cannot come into
    the middle.
    """
    train, one = page[1], show(page, "well=train-1&row=0&zoom=16")
    bad = np.flatnonzero(train["score"][train["group"] == 1] < 0.5).tolist()
    assert len(bad) == 2
    for wanted in [bad[0], bad[1], bad[0]]:
        one.value("document.querySelector('[data-part=worst]').click()")
        one.settle()
        first, zoom = state(one)
        assert int(one.value("viewer.dataset.bad")) == wanted
        assert (
            first
            <= (wanted + 0.5) * 36
            <= first + one.value("document.querySelector('.panels').clientWidth") / zoom
        )


def test_turning_the_pipe_rolls_the_panels(page):
    one = show(page, "well=train-7&row=100&zoom=4")
    before = pixels(one, 1)
    one.value(
        "(() => { const t = document.querySelector('[data-part=turn]'); t.value = 9; "
        "t.dispatchEvent(new Event('input')); })()"
    )
    one.settle()
    np.testing.assert_array_equal(pixels(one, 1), np.roll(before, -9 * len(before) // 36, axis=0))
