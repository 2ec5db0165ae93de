"""What stands on the page of a submission of wells."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from src.artifacts import hdf5
from src.artifacts.run import Run
from src.artifacts.sealed import Arrays
from src.report import curves, figures, pictures, provenance
from src.report.checks import Check
from src.report.rendering import render
from src.scoring.calibration import Tallies
from src.wells.blocks import Blocks
from src.wells.geometry import Strip, strips
from src.wells.postprocess.selection import THRESHOLDS, Selection

SHOWN, SHOWN_OF_A_WELL = 12, 3  # best and worst patches
DRAWN = 40  # wells of a split; of more, the best and the worst, half of each
ROWS = 720  # of a strip in one picture: 20 patches
STEP = 3  # thresholds from one point of the curves to the next

TITLES = {"train": "Well", "test": "Test well", "new": "Well"}
COLOURS = {
    "kinds": pictures.COLOURS,
    "probability": pictures.INFERNO,
    "deviation": pictures.VIRIDIS,
}


def page(
    run: Run,
    result: dict[str, Any],
    selection: Selection,
    train: Blocks,
    test: Blocks,
    checks: list[Check],
    tallies: dict[str, Tallies],
) -> str:
    """The page as HTML.

    Args:
        result: what submissions/<recipe>.json says.
        train, test: the scored training patches and the test patches, as
            `src.wells.submission.evaluated` gives them.
        tallies: of calibration, as `src.scoring.calibration.errors` takes them.
    """
    size = int(np.prod(hdf5.shape(run.prepared("test"), "image")[1:]))
    of_train, of_test = result["oof_by_group"], result.get("test_by_group", {})
    drawn = {
        split: drawn_wells(np.unique(own.index["group"]).tolist(), scores)
        for split, own, scores in (("train", train, of_train), ("test", test, of_test))
    }
    return render(
        "wells.html",
        "wells.js",
        result=result,
        ruler=ruler(result),
        folds=_folds(result, train.index, selection.plain),
        wells=lines_of("train", train, of_train, drawn["train"], size),
        test_wells=lines_of("test", test, of_test, drawn["test"], size),
        most_drawn=DRAWN,
        lost=lost(train.index["score"], train.index["true"] > 0),
        colours=COLOURS,
        patches=_patches(train, drawn["train"]),
        threshold_chart=curves.threshold_chart(
            THRESHOLDS[::STEP], selection.at_thresholds[:, ::STEP], result["threshold"]
        ),
        spread_chart=curves.spread_chart(train.index["score"][train.index["true"] > 0]),
        refinements=_refinements(result),
        calibration=curves.calibration(tallies),
        **provenance.shared(run, checks),
    )


def ruler(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of the chart at the top: every score that the submission has, or may expect,
    between 0 and 1.
    """
    lines = [{"what": "Out of fold", "value": result["oof_score"], "kind": "score"}]
    if "expected_score" in result:
        interval = result["expected_interval"]
        lines.append(
            {
                "what": "Forecast for the test wells",
                "value": result["expected_score"],
                "kind": "score",
                "range": interval,
            }
        )
    if "test_score" in result:
        lines.append(
            {"what": "Test wells, truth known", "value": result["test_score"], "kind": "score"}
        )
    for where, title in (("train", "training wells"), ("test", "test wells")):
        base = result.get(f"baselines_on_{where}", {})
        names = {"all_empty": "Nothing marked", "intensity": "Threshold on thickness"}
        lines += [
            {"what": f"{names[key]}, {title}", "value": value, "kind": key}
            for key, value in base.items()
        ]
    return lines


def _folds(
    result: dict[str, Any], train: Arrays, thresholds: dict[int, float]
) -> list[dict[str, Any]]:
    return [
        {
            "fold": fold,
            "wells": ", ".join(map(str, np.unique(train["group"][train["fold"] == int(fold)]))),
            "threshold": thresholds[int(fold)],
            **row,
        }
        for fold, row in result["oof_by_fold"].items()
    ]


def drawn_wells(wells: list[int], scores: dict[str, Any]) -> list[int]:
    """The wells that the page draws: all, or of more than `DRAWN` the best and the worst, or
    without scores the first.
    """
    if len(wells) <= DRAWN or not scores:
        return wells[:DRAWN]
    by_score = sorted(wells, key=lambda well: scores[str(well)]["score"])
    return sorted(by_score[: DRAWN // 2] + by_score[-(DRAWN // 2) :])


def lines_of(
    split: str, wells: Blocks, scores: dict[str, Any], drawn: list[int], size: int
) -> list[dict[str, Any]]:
    """A line for each well and, for those that are drawn, its picture at a glance and what the
    viewer needs of it.

    Args:
        size: pixels of a patch.
    """
    index, lines = wells.index, []
    for well in np.unique(index["group"]).tolist():
        own = index["group"] == well
        lines.append(
            {
                "id": f"{split}-{well}",
                "well": well,
                "title": f"{TITLES[split]} {well}",
                "patches": int(own.sum()),
                "interleaved": bool((index["parity"][own] > 0).any()),
                "repaired": float(index["repaired"][own].mean() / size),
                "marked": float(index["marked"][own].mean() / size),
                "true": float(index["true"][own].mean() / size) if "true" in index else None,
                "fold": int(index["fold"][own][0]) if "fold" in index else None,
                "scores": scores.get(str(well)),
                **(
                    _drawn(next(wells.of([well])), well)
                    if well in drawn
                    else {"overview": None, "data": None}
                ),
            }
        )
    return lines


def _drawn(arrays: Arrays, well: int) -> dict[str, Any]:
    label = pictures.labels(arrays)
    return {
        "overview": pictures.overview(arrays, well, label),
        "data": pictures.well(arrays, well, label),
    }


def lost(score: np.ndarray, shows: np.ndarray) -> list[dict[str, Any]]:
    """Where the out-of-fold score is lost: patches by what they show and how they came out, with
    the points that each kind costs.

    Args:
        score: (N,) of each patch, 1 where an empty mask is right and 0 where it is not, or where
            nothing of a defect is met.
        shows: (N,) whether it shows corrosion.
    """
    kinds = [
        ("defect-free, and left unmarked", ~shows & (score == 1)),
        ("defect-free, but marked", ~shows & (score < 1)),
        ("corroded, and nothing of it met", shows & (score == 0)),
        ("corroded, and met in part or wholly", shows & (score > 0)),
    ]
    lines = []
    for kind, own in kinds:
        mean = float(score[own].mean()) if own.any() else None
        lines.append(
            {
                "kind": kind,
                "patches": int(own.sum()),
                "mean": mean,
                "lost": float((1 - score[own]).sum() / len(score)),
            }
        )
    return lines


def _patches(train: Blocks, drawn: list[int]) -> list[dict[str, Any]]:
    """The corroded patches with the highest scores and all patches with the lowest, few of each
    well.
    """
    index = train.index
    corroded = np.flatnonzero(index["true"] > 0)
    by_wrong = np.lexsort((-index["wrong"], index["score"]))
    by_right = corroded[np.lexsort((-index["right"][corroded], -index["score"][corroded]))]
    return [
        {
            "title": title,
            "patches": [_patch(train, row, drawn) for row in few_of_each(order, index["group"])],
        }
        for title, order in (("Worst", by_wrong), ("Best", by_right))
    ]


def few_of_each(order: np.ndarray, group: np.ndarray) -> list[int]:
    """The first `SHOWN` rows of an order, at most `SHOWN_OF_A_WELL` of each group."""
    taken, result = dict.fromkeys(group.tolist(), 0), []
    for row in order.tolist():
        if len(result) < SHOWN and taken[group[row]] < SHOWN_OF_A_WELL:
            taken[group[row]] += 1
            result.append(row)
    return result


def _patch(train: Blocks, place: int, drawn: list[int]) -> dict[str, Any]:
    well = int(train.index["group"][place])
    own = next(train.of([well]))
    row, height = int(np.flatnonzero(own["place"] == place)[0]), own["image"].shape[1]
    depth = int(np.argwhere(pictures.Unrolled.of(own, well).index == row)[0][0])
    return {
        "name": str(own["name"][row]),
        "score": float(own["score"][row]),
        "true": int(own["true"][row]),
        "marked": int(own["marked"][row]),
        "picture": pictures.patch(own, row, pictures.labels(own)),
        "link": f"#well=train-{well}&row={depth * height + height // 2}&zoom=6"
        if well in drawn
        else None,
    }


def _refinements(result: dict[str, Any]) -> dict[str, Any]:
    """The candidates for the refinement by falling score, and the range that their chart spans."""
    tried = sorted(result["refinements_tried"].items(), key=lambda pair: -pair[1])
    values = [score for _, score in tried]
    pad = max(max(values) - min(values), 1e-3) / 10
    return {
        "tried": [{"name": name, "score": score} for name, score in tried],
        "low": min(values) - pad,
        "high": max(values) + pad,
    }


@dataclass(frozen=True)
class Shown:
    """A well for a picture: `arrays` with `image`, `group`, `depth` and `parity` of its patches,
    and titles and maps (N, H, W).
    """

    title: str
    arrays: Arrays
    panels: dict[str, np.ndarray]


def wells_picture(wells: list[Shown]) -> Figure:
    """A stretch of each well, side by side: image and further maps below each other, depth to the
    right and azimuth downwards.

    The stretch shown is the one of at most `ROWS` rows with the most corrosion in the first panel.
    """
    count = 1 + len(wells[0].panels)
    figure, grid = plt.subplots(
        count,
        len(wells),
        figsize=(7 * len(wells), 1.1 * count),
        sharex="col",
        squeeze=False,
        layout="constrained",
    )
    for well, axes in zip(wells, grid.T, strict=True):
        strip = strips(well.arrays["group"], well.arrays["depth"], well.arrays["parity"])[0]
        first = _busiest(strip, next(iter(well.panels.values())))
        rows = slice(first, first + ROWS)
        image = strip.stack(well.arrays["image"])[rows]
        low, high = np.percentile(image, [2, 98])
        depth = {
            "aspect": "auto",
            "interpolation": "nearest",
            "extent": (first, first + len(image), image.shape[1], 0),
        }
        axes[0].imshow(image.T, cmap="gray", vmin=low, vmax=high, **depth)
        axes[0].set_title(f"{well.title}: thickness", loc="left", fontsize=9)
        for axis, (title, patches) in zip(axes[1:], well.panels.items(), strict=True):
            axis.imshow(
                strip.stack(patches)[rows].T.astype(np.float32),
                cmap="inferno",
                vmin=0,
                vmax=1,
                **depth,
            )
            axis.set_title(title, loc="left", fontsize=9)
        for axis in axes:
            axis.set_yticks([])
            axis.tick_params(labelsize=8)
        axes[-1].set_xlabel("depth (rows)", fontsize=8)
    return figure


def _busiest(strip: Strip, mask: np.ndarray) -> int:
    """First row, at a patch's edge, of the stretch of `ROWS` rows with the most marked pixels."""
    marked = np.append(0, strip.stack(mask).sum(1, dtype=np.float64).cumsum())
    starts = np.arange(0, max(1, len(marked) - ROWS), mask.shape[1])
    ends = (starts + ROWS).clip(max=len(marked) - 1)
    return int(starts[np.argmax(marked[ends] - marked[starts])])


def picture(result: dict[str, Any], train: Blocks) -> bytes:
    """The best and the worst training well of those that show corrosion, as predicted by
    networks that did not see them.
    """
    groups, true = train.index["group"], train.index["true"]
    corroded = {str(well) for well in np.unique(groups[true > 0])} or set(result["oof_by_group"])
    ranked = sorted(
        (row["score"], int(well))
        for well, row in result["oof_by_group"].items()
        if well in corroded
    )
    shown = []
    ends = dict.fromkeys((ranked[-1], ranked[0]))
    for (score, well), what in zip(ends, ("best", "worst"), strict=False):
        own = next(train.of([well]))
        panels = {
            "truth": own["mask"],
            "probability": own["probability"],
            "prediction": own["prediction"],
        }
        shown.append(Shown(f"{what} well: {well}, {score:.3f}", own, panels))
    return figures.png(wells_picture(shown))
