"""The figures of a study."""

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

# headings of a study's table
RANDOM_SPLIT, WELLS_HELD_OUT = "random split, soft IoU", "wells held out, official score"


def study_plot(histories: dict[str, pd.DataFrame], table: pd.DataFrame) -> Figure:
    """What training tells of each variation over the epochs (mean and range over its tasks), beside
    its scores; dashed, the IoU on what is trained on.

    Args:
        histories: by variation, as `src.studies.tables.history` gives them: the held-out soft IoU
            where epochs were scored, else the loss.
        table: the study's table.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), constrained_layout=True)
    scored = all("held_out_soft_iou" in history for history in histories.values())
    for name, history in histories.items():
        epochs = history.groupby("epoch")["held_out_soft_iou" if scored else "loss"].agg(
            ["mean", "min", "max"]
        )
        (line,) = left.plot(epochs.index, epochs["mean"], label=name)
        left.fill_between(
            epochs.index, epochs["min"], epochs["max"], color=line.get_color(), alpha=0.2
        )
        if scored and "train_iou" in history:
            trained = history.groupby("epoch")["train_iou"].mean()
            left.plot(trained.index, trained, "--", color=line.get_color(), linewidth=0.8)
    if scored:
        left.set(
            title="paper's protocol: random patches held out",
            xlabel="epoch",
            ylabel="soft IoU, held out (dashed: trained on)",
        )
    else:
        left.set(title="training", xlabel="epoch", ylabel="loss")
    left.legend(fontsize=8)
    score = next(title for title in (WELLS_HELD_OUT, RANDOM_SPLIT, "mIoU") if title in table)
    right.barh(
        table["variation"], table[score], xerr=table[f"{score}, deviation over seeds"].fillna(0)
    )
    right.invert_yaxis()
    right.set(title=score, xlabel="score")
    return figure
