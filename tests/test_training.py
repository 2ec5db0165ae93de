"""Training and prediction of one task: what must hold whatever the score."""

import csv
import hashlib

import numpy as np
import pytest
import torch

from src import artifacts, augment, inference, recipe, training
from src.augment import Symmetries
from src.cleaning import Scaling
from src.recipe import Augment, Task
from src.windows import Windows

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny networks gain nothing from more threads, and lose much when the cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def wells(patches: int, groups: int, seed: int = 0) -> dict[str, np.ndarray]:
    """A split of `groups` contiguous wells with grooves that any network can learn."""
    rng = np.random.default_rng(seed)
    image = rng.normal(0, 1, (groups * patches, 36, 36)).astype(np.float32)
    mask = np.zeros(image.shape, np.uint8)
    for row in range(len(image)):
        start = int(rng.integers(0, 36))
        mask[row][:, [(start + column) % 36 for column in range(4)]] = 1
    image -= 6 * mask
    group = np.repeat(np.arange(1, groups + 1), patches).astype(np.int32)
    depth = np.tile(np.arange(patches), groups).astype(np.int32)
    return {
        "name": np.array([f"well_{g}_patch_{d}" for g, d in zip(group, depth, strict=True)], object),
        "image": image,
        "valid": np.ones(image.shape, bool),
        "mask": mask,
        "group": group,
        "depth": depth,
        "phase": np.zeros(len(image), np.int32),
        "fold": (group - 1).astype(np.int8),
    }


def tiny(**member: object) -> recipe.Recipe:
    settings = {
        "name": "net",
        "network": {"name": "ring_unet", "channels": [4, 8]},
        "batch_size": 4,
        "precision": "float32",
        "phase": [{"epochs": 2, "learning_rate": 0.01}],
        **member,
    }
    return recipe.parse({"name": "tiny", "competition": "demo", "folds": {"count": 2}, "member": [settings]}, "test")


def fit(
    chosen: recipe.Recipe, train: dict[str, np.ndarray], folder, fold: int = 0, seed: int = 0, report=lambda share: None
) -> dict[str, np.ndarray]:
    folder.mkdir(exist_ok=True)
    training.Fit(chosen, Task("net", fold, seed), folder, {"made": "here"}, CPU).run(train, report)
    return artifacts.read_weights(folder / "weights.safetensors")


def digest(folder) -> str:
    return hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()


def losses(folder) -> list[float]:
    return [float(line["loss"]) for line in csv.DictReader((folder / "history.csv").open())]


def test_symmetries_are_flips_then_an_exact_roll():
    x = torch.arange(3 * 4 * 6.0).reshape(3, 1, 4, 6)
    drawn = Symmetries(torch.tensor([0, 1, 1]), torch.tensor([1, 0, 1]), torch.tensor([2, 0, 5]))
    expected = np.stack([np.roll(x[0, 0].numpy()[:, ::-1], 2, 1), x[1, 0].numpy()[::-1], np.roll(x[2, 0].numpy()[::-1, ::-1], 5, 1)])
    np.testing.assert_array_equal(drawn.apply(x)[:, 0].numpy(), expected)


def test_symmetries_are_drawn_only_where_asked_for():
    generator = torch.Generator().manual_seed(0)
    off = augment.draw(Augment(flip_azimuth=False, flip_depth=False, roll=False), 50, 36, generator, CPU)
    assert not off.flip_depth.any() and not off.flip_azimuth.any() and not off.roll.any()
    on = augment.draw(Augment(), 500, 36, generator, CPU)
    assert set(on.flip_depth.tolist()) == set(on.flip_azimuth.tolist()) == {0, 1}
    assert set(on.roll.tolist()) == set(range(36))


@pytest.mark.parametrize("shift", [False, True])
def test_an_epoch_sees_every_labelled_row_once_and_no_other(shift):
    train = wells(patches=5, groups=3)
    weight = np.ones(train["image"].shape, bool) & (train["fold"] != 1)[:, None, None]
    windows = Windows.of(train, 72, CPU, weight)
    starts = windows.shuffled(shift, torch.Generator().manual_seed(3))
    seen = torch.zeros(len(windows.image))
    for start in starts:
        seen[start : start + 72] += 1
    labelled = windows.weight[:, 0] > 0
    assert labelled.sum() == 2 * 5 * 36
    assert (seen[labelled] == 1).all()
    held_out = torch.from_numpy(np.isin(windows.canvas.source // 36, np.flatnonzero(train["fold"] == 1)))
    assert not seen[held_out].any()


def test_loss_falls(tmp_path):
    fit(tiny(phase=[{"epochs": 30, "learning_rate": 0.02}]), wells(8, 2), tmp_path)
    assert losses(tmp_path)[-1] < 0.6 * losses(tmp_path)[0]


def test_overfits_four_patches(tmp_path):
    train = wells(patches=4, groups=2)
    chosen = tiny(batch_size=4, phase=[{"epochs": 150, "learning_rate": 0.02, "schedule": "constant"}])
    fit(chosen, train, tmp_path, fold=1)
    assert losses(tmp_path)[-1] < 0.1


def test_the_papers_network_trains_and_predicts(tmp_path):
    train = wells(patches=4, groups=2)
    chosen = tiny(network={"name": "cat_corroseg"}, phase=[{"epochs": 1}])
    fit(chosen, train, tmp_path)
    network, scaling = loaded(chosen, tmp_path)
    name, probability = training.predict_held_out(network, scaling, train, 0, chosen, chosen.members[0], CPU)
    assert probability.shape == (4, 1, 36, 36) and probability.dtype == np.float16
    assert list(name) == [f"well_1_patch_{number}" for number in range(4)]


def test_a_held_out_well_has_no_say_in_weights_or_scaling(tmp_path):
    clean, poisoned = wells(6, 3), wells(6, 3)
    poisoned["image"][poisoned["fold"] == 1] *= 1e6
    poisoned["mask"][poisoned["fold"] == 1] ^= 1
    for train, name in ((clean, "clean"), (poisoned, "poisoned")):
        fit(tiny(height=72), train, tmp_path / name, fold=1)
    assert digest(tmp_path / "clean") == digest(tmp_path / "poisoned")


def test_seed_and_fold_change_the_weights(tmp_path):
    train = wells(4, 3)
    for name, fold, seed in (("a", 0, 0), ("b", 0, 1), ("c", 1, 0)):
        fit(tiny(), train, tmp_path / name, fold, seed)
    assert len({digest(tmp_path / name) for name in "abc"}) == 3


PHASES = [{"epochs": 2, "learning_rate": 0.01}, {"epochs": 2, "learning_rate": 0.001, "loss": {"bce": 1.0}, "optimiser": "adam"}]


@pytest.mark.parametrize("killed_in_epoch", [0, 1, 2, 3])
def test_a_killed_and_resumed_training_gives_the_same_bytes(tmp_path, killed_in_epoch):
    train, chosen = wells(4, 2), tiny(phase=PHASES)

    class Killed(Exception):
        pass

    def kill(share: float) -> None:
        if share >= killed_in_epoch / 4:
            raise Killed

    fit(chosen, train, tmp_path / "undisturbed")
    with pytest.raises(Killed):
        fit(chosen, train, tmp_path / "killed", report=kill)
    assert len(losses(tmp_path / "killed")) == killed_in_epoch if killed_in_epoch else not (tmp_path / "killed" / "history.csv").exists()
    torch.rand(7)  # whatever else drew random numbers in between
    fit(chosen, train, tmp_path / "killed")
    assert digest(tmp_path / "killed") == digest(tmp_path / "undisturbed")
    assert losses(tmp_path / "killed") == losses(tmp_path / "undisturbed")


def test_a_checkpoint_of_other_inputs_or_a_damaged_one_is_not_resumed(tmp_path, capsys):
    train, chosen = wells(4, 2), tiny()
    fit(chosen, train, tmp_path / "fresh")
    for name, content in (("damaged", b"not a checkpoint"), ("empty", b"")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "checkpoint.pt").write_bytes(content)
        fit(chosen, train, tmp_path / name)
        assert digest(tmp_path / name) == digest(tmp_path / "fresh")
        assert "damaged" in capsys.readouterr().out


def test_picking_the_epoch_on_the_held_out_fold_keeps_the_best(tmp_path):
    train = wells(6, 2)
    chosen = tiny(selection="best_on_held_out", phase=[{"epochs": 4, "learning_rate": 0.02, "schedule": "constant"}])
    fit(chosen, train, tmp_path)
    scores = [float(line["held_out_score"]) for line in csv.DictReader((tmp_path / "history.csv").open())]
    network, scaling = loaded(chosen, tmp_path)
    name, probability = training.predict_held_out(network, scaling, train, 0, chosen, chosen.members[0], CPU)
    truth = {n: m for n, m in zip(train["name"], train["mask"], strict=True)}
    iou = [(p & truth[n]).sum() / (p | truth[n]).sum() for n, p in zip(name, probability[:, 0] > 0.5, strict=True)]
    assert np.mean(iou) == pytest.approx(max(scores), abs=1e-5)


def loaded(chosen: recipe.Recipe, folder):
    arrays = artifacts.read_weights(folder / "weights.safetensors")
    scaling = Scaling(arrays.pop("scaling.center"), arrays.pop("scaling.scale"))
    network = inference.networks.create(chosen.members[0].network)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    return network.eval(), scaling


def network_with_random_statistics(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    network = inference.networks.create({"name": "ring_unet", "channels": [4, 8]})
    network(torch.randn(8, 1, 36, 36))  # gives batch norm something to remember
    return network.eval()


def predict(train, settings: dict | None = None, **member: object) -> np.ndarray:
    chosen = tiny(**member)
    return inference.predict(network_with_random_statistics(), train, chosen.members[0], recipe.Inference(**(settings or {})), CPU)


def test_prediction_does_not_depend_on_the_batch_size():
    train = wells(7, 2)
    one, many = (predict(train, batch_size=size, height=72, margin=16).astype(np.float32) for size in (1, 64))
    np.testing.assert_allclose(one, many, atol=1e-3)


def test_prediction_does_not_depend_on_the_order_of_patches():
    train = wells(7, 2)
    order = np.random.default_rng(1).permutation(14)
    shuffled = predict(inference.rows_of(train, order), height=72, margin=16)
    np.testing.assert_allclose(shuffled.astype(np.float32), predict(train, height=72, margin=16)[order].astype(np.float32), atol=1e-3)


def test_without_context_each_patch_is_predicted_by_itself():
    train = wells(3, 2)
    network = network_with_random_statistics()
    with torch.no_grad():
        expected = torch.sigmoid(network(torch.from_numpy(train["image"])[:, None])).numpy()
    np.testing.assert_allclose(predict(train, {"flips": False}).astype(np.float32), expected, atol=1e-3)


def test_a_window_lets_the_network_see_the_pipe_above_and_below():
    train = wells(3, 1)
    network = network_with_random_statistics()
    strip = train["image"].reshape(1, 1, 108, 36)
    padded = np.pad(strip, ((0, 0), (0, 0), (36, 36), (0, 0)), mode="edge")
    with torch.no_grad():
        expected = torch.sigmoid(network(torch.from_numpy(padded[:, :, 36 : 36 + 108]))).numpy().reshape(3, 36, 36)[1]
    got = predict(train, {"flips": False}, height=108, margin=36)[1, 0].astype(np.float32)
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_views_are_turned_back_before_they_are_averaged():
    train = wells(3, 1)
    network = network_with_random_statistics()
    x = torch.from_numpy(train["image"])[:, None]
    with torch.no_grad():
        views = [torch.sigmoid(network(x.roll(r, 3).flip(f))).flip(f).roll(-r, 3) for f in ([], [2], [3], [2, 3]) for r in (0, 5)]
    expected = torch.stack(views).mean(0).numpy()
    np.testing.assert_allclose(predict(train, {"flips": True, "rolls": [0, 5]}).astype(np.float32), expected, atol=1e-3)


def test_twins_are_averaged_on_request():
    train = wells(4, 1)
    train["depth"], train["phase"] = np.array([0, 0, 1, 1], np.int32), np.array([0, 1, 0, 1], np.int32)
    plain, averaged = (predict(train, {"average_twins": flag}).astype(np.float32) for flag in (False, True))
    expected = plain[0] / 2 + (plain[1] + np.roll(plain[1], 1, -1)) / 4
    np.testing.assert_allclose(averaged[0], expected, atol=2e-3)


def test_cuda_is_never_replaced_silently(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert inference.choose_device("auto").type == "cpu"
    with pytest.raises(inference.UserError, match="no CUDA device"):
        inference.choose_device("cuda")


def test_heights_that_do_not_fit_the_network_are_refused_before_training():
    with pytest.raises(training.UserError, match="multiples of 2"):
        training.check(tiny(height=37))
