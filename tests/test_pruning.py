"""Pruning: schedules in closed form, which weights go, and that they stay gone; channels that
are removed without a trace.
"""

import copy

import numpy as np
import pytest
import torch
import torch_pruning
from torch import nn

from src import networks, recipe
from src.artifacts import sealed
from src.networks.loading import fit_state, load_network
from src.recipe import Pruning
from src.terminal.errors import UserError
from src.training import channels as removal
from src.training import gradient_caching, loop, pruning
from src.training.losses import smooth_iou
from tests.tiny import CPU, TASK, content, digest, fit, history, loaded, only, run_of, tiny, wells

SLOW = {"epochs": 1, "learning_rate": 0.01, "schedule": "constant", "warmup": 0.0}
PHASES = [
    SLOW,
    SLOW | {"epochs": 2, "pruning": {"method": "agp", "sparsity": 0.6, "steps": 3}},
    SLOW | {"epochs": 2},
]


@pytest.mark.parametrize(
    ("method", "shares"),
    [
        ("linear", {0: 0, 1: 0.1, 5: 0.5, 10: 1}),
        ("agp", {0: 0, 1: 1 - 0.9**3, 5: 1 - 0.5**3, 10: 1}),
        ("movement", {0: 0, 1: 1 - 0.9**3, 5: 1 - 0.5**3, 10: 1}),
    ],
)
def test_schedules_in_closed_form(method, shares):
    settings = Pruning(method=method, sparsity=0.9, steps=10)
    assert {turn: pruning.sparsity_at(settings, turn / 10) for turn in shares} == pytest.approx(
        {t: 0.9 * s for t, s in shares.items()}
    )


def test_steps_are_evenly_spread():
    plain = Pruning(method="linear", sparsity=0.5, steps=10)
    assert [pruning.turns_due(plain, epoch / 50) for epoch in range(51)] == [
        epoch // 5 for epoch in range(51)
    ]
    # Movement in the paper: 50 epochs, 20 of them before and 10 after.
    late = Pruning(method="movement", sparsity=0.5, steps=10, warm_up=0.4, cool_down=0.2)
    due = [pruning.turns_due(late, epoch / 50) for epoch in range(51)]
    assert (
        due[:21] == [0] * 21
        and due[21:40] == [(epoch - 20) // 2 for epoch in range(21, 40)]
        and due[40:] == [10] * 11
    )


@pytest.mark.parametrize("sparsity", [0.0, 0.2, 0.5, 0.9, 0.999])
def test_exactly_k_weights_go_the_least_first(sparsity):
    score = torch.randn(7, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    mask = pruning.least(score, torch.ones_like(score), sparsity)
    k = int(315 * sparsity)
    assert (mask == 0).sum() == k
    assert k == 0 or score[mask == 0].max() < score[mask == 1].min()
    # equal scores
    assert (pruning.least(torch.zeros(315), torch.ones(315), sparsity) == 0).sum() == k


def test_what_is_masked_stays_masked_whatever_its_score():
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(200)
    for sparsity in (0.1, 0.3, 0.2, 0.9):
        fewer = pruning.least(torch.randn(200, generator=generator), mask, sparsity)
        assert not ((mask == 0) & (fewer == 1)).any()
        assert (fewer == 0).sum() == max(int(200 * sparsity), (mask == 0).sum())
        mask = fewer


def two_layers(outputs: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, outputs, bias=False))


def test_taylor_importance_by_hand():
    """The output of one unit is w x, so that the loss c w x has gradient c x: importance (c x
    w)^2, summed over batches.
    """
    network = two_layers()
    nn.init.ones_(network[1].weight)
    pruner = pruning.Pruner(network, Pruning(method="agp", sparsity=0.5, steps=1))
    first = network[0].weight_orig.detach().clone()
    batches = [torch.tensor([[1.0, 2, 0, -1]]), torch.tensor([[0.5, -3, 1, 0]])]
    for factor, x in zip((1.0, 2.0), batches, strict=True):
        network.zero_grad()
        (factor * network(x)).sum().backward()
        pruner.observe()
    expected = sum((factor * x * first) ** 2 for factor, x in zip((1.0, 2.0), batches, strict=True))
    torch.testing.assert_close(pruner.scores["0"], expected)


def test_movement_finds_the_weight_that_is_of_no_use():
    """The largest weights belong to an input that says nothing; they shrink, and go although
    magnitude would keep them.
    """
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 1, bias=False), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[0.2, 0.2, 0.2, 1.0]]))
        network[1].weight.fill_(1.0)
    pruner = pruning.Pruner(network, Pruning(method="movement", sparsity=0.25, steps=1))
    optimiser = torch.optim.SGD(network.parameters(), lr=0.02)
    x = torch.randn(256, 4)
    for step in range(30):
        optimiser.zero_grad()
        (network(x)[:, 0] - x[:, :3].sum(1)).pow(2).mean().backward()
        pruner.observe()
        optimiser.step()
        pruner.advance(step / 30, (step + 1) / 30, x)
    assert network[0].weight_mask.tolist() == [[1, 1, 1, 0]]


def weighing(*weights: float) -> nn.Sequential:
    """A network of one layer, which gives the sum of inputs times weights."""
    network = nn.Sequential(nn.Linear(len(weights), 1, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([weights]))
    return network


def told(pruner: pruning.Pruner, network: nn.Module, *x: float) -> None:
    """A backward pass in which the gradient of what each weight does is `x`."""
    network.zero_grad()
    network(torch.tensor([x])).sum().backward()
    pruner.observe()


def test_masked_weights_return_by_the_gradients_that_they_would_have():
    """Half of two weights, 2 and 1, that stay as they are; scores -x w by hand, also in the
    cool-down.
    """
    how = {"method": "movement", "sparsity": 0.5, "cool_down": 0.5, "head": True}
    network, frozen = weighing(2.0, 1.0), weighing(2.0, 1.0)
    pruner = pruning.Pruner(network, Pruning(**how, regrow=True))
    other = pruning.Pruner(frozen, Pruning(**how, steps=2))
    batches = [(1.0, -0.5), (1.0, 0.0), (-3.0, 1.0), (2.0, -1.0)]
    scores = [[-2.0, 0.5], [-4.0, 0.5], [2.0, -0.5], [-2.0, 0.5]]
    masks = [[1, 1], [0, 1], [1, 0], [0, 1]]
    for step, (x, score, mask) in enumerate(zip(batches, scores, masks, strict=True)):
        for one, net in ((pruner, network), (other, frozen)):
            told(one, net, *x)
            one.advance(step / 4, (step + 1) / 4, torch.ones(1, 2))
        assert pruner.scores["0"].tolist() == [score]
        assert network[0].weight_mask.tolist() == [mask]
        seen = [1, 1] if step == 0 else masks[step - 1]  # what is masked does not learn
        assert network[0].weight_orig.grad.tolist() == [[x[0] * seen[0], x[1] * seen[1]]]
    assert frozen[0].weight_mask.tolist() == [[0, 1]]  # without it what is masked stays so
    pruner.release()
    assert not network[0]._backward_hooks and len(network[0]._forward_pre_hooks) == 1


def test_a_regrowing_mask_is_new_every_iteration_and_as_large_as_equation_4_says():
    """Warm-up for 2 of 10 iterations, cool-down from the eighth on."""
    network = weighing(*torch.linspace(1, 2, 1000).tolist())
    how = Pruning(
        method="movement", sparsity=0.9, warm_up=0.2, cool_down=0.2, regrow=True, head=True
    )
    pruner, generator = pruning.Pruner(network, how), torch.Generator().manual_seed(0)
    returned = []
    for step in range(10):
        told(pruner, network, *torch.randn(1000, generator=generator).tolist())
        before = network[0].weight_mask.clone()
        assert not pruner.advance(step / 10, (step + 1) / 10, torch.ones(1, 1000))
        mask = network[0].weight_mask
        share = min(max((step + 1 - 2) / 6, 0), 1)
        assert (mask == 0).sum() == int(1000 * 0.9 * (1 - (1 - share) ** 3) + 1e-6)
        returned.append(int(((before == 0) & (mask == 1)).sum()))
    assert returned[:3] == [0, 0, 0] and min(returned[3:]) > 0


def test_scores_are_the_same_in_parts_and_after_a_lack_of_memory():
    """The third forward pass with gradients of the first try fails; then a sample at once."""
    x, truth = torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.ones(1)
    calls, scores = [], []
    for most, fails in ((4, ()), (2, ()), (2, (4,))):
        torch.manual_seed(1)
        network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Conv2d(3, 1, 3))
        how = Pruning(method="movement", sparsity=0.5, regrow=True)
        pruner = pruning.Pruner(network, how)
        network[0].weight_mask[1] = 0
        calls.clear()

        def forward(image, network=network, fails=fails):
            calls.append(len(image))
            if len(calls) in fails:
                raise torch.OutOfMemoryError
            return network(image)

        batch = (x, truth.expand(4, 1, 2, 2), truth.expand(4, 1, 2, 2))
        gradient_caching.gradients(network, forward, smooth_iou, batch, most)
        pruner.observe()
        scores.append(pruner.scores["0"])
    assert calls == [2, 2, 2, 2, *[1] * 8]
    assert (scores[0][1] != 0).all()
    for other in scores[1:]:
        torch.testing.assert_close(other, scores[0])


def test_filters_go_by_the_sum_of_importance_with_their_biases():
    """Five filters of a layer whose gradients are known: filter o has gradient c_o x, and so
    importance (c_o x w)^2; int(5 * 0.5) = 2 of 5 go.
    """
    network = nn.Sequential(nn.Conv2d(2, 5, 1), nn.ConvTranspose2d(5, 5, 1), nn.Conv2d(5, 1, 1))
    weights = [[3.0, 0.0], [1.0, 2.5], [2.0, 2.0], [0.1, 0.1], [2.0, 1.0]]
    factors = torch.tensor([1.0, 1.0, 1.0, 10.0, 2.0])
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor(weights)[:, :, None, None])
        network[0].bias.fill_(1.0)
    how = Pruning(method="agp", sparsity=0.5, steps=1, granularity="channel")
    pruner = pruning.Pruner(network, how)
    assert list(pruner.layers) == ["0"]  # no transposed convolution, and no head
    (network[0](torch.ones(1, 2, 1, 1))[0, :, 0, 0] * factors).sum().backward()
    pruner.observe()
    # sums 9, 7.25, 8, 2, 20; the largest single weights would keep 0, 1 and 4
    assert pruner.scores["0"].sum((1, 2, 3)).tolist() == pytest.approx([9, 7.25, 8, 2, 20])
    pruner.advance(0, 1, torch.ones(1, 2, 1, 1))
    kept = [1, 0, 1, 0, 1]
    assert network[0].weight_mask.tolist() == [[[[k]]] * 2 for k in kept]
    assert network[0].bias_mask.tolist() == kept
    assert 1 - network[0].weight_mask.mean() == pytest.approx(int(5 * 0.5) / 5)
    assert network[0](torch.ones(1, 2, 1, 1)).flatten().tolist() == [4, 0, 5, 0, 4]
    plain = pruning.plain_state(network)
    assert plain["0.bias"].tolist() == kept and list(plain)[-2:] == ["0.weight", "0.bias"]
    assert pruning.count_weights(network) == sum(w.numel() for w in network.parameters()) - 2 * 3


def test_layers_that_are_ranked_together_lose_what_matters_least_wherever_it_is():
    """Two layers of four and two weights, importance by hand: half of the six go, three of the
    first layer; by layers it would be two and one. A head is spared.
    """
    network = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Conv2d(2, 1, 1), nn.Conv2d(1, 1, 1))
    how = Pruning(method="agp", sparsity=0.5, steps=1, together=True)
    pruner = pruning.Pruner(network, how)
    scores = [[[1.0, 5.0], [2.0, 3.0]], [[4.0, 6.0]]]
    for layer, own in zip(pruner.layers, scores, strict=True):
        pruner.scores[layer] += torch.tensor(own)[:, :, None, None]
    pruner.advance(0, 1, torch.ones(1, 2, 1, 1))
    assert network[0].weight_mask.flatten().tolist() == [0, 1, 0, 0]
    assert network[1].weight_mask.flatten().tolist() == [1, 1]
    pruner.scores["0"][:] = 9.0
    pruner.pruning = how.model_copy(update={"sparsity": 0.7})  # int(6 * .7) = 4
    pruner.advance(0, 1, torch.ones(1, 2, 1, 1))
    assert network[0].weight_mask.flatten().tolist() == [0, 1, 0, 0]  # what is gone stays so
    assert network[1].weight_mask.flatten().tolist() == [0, 1]


@pytest.mark.parametrize("method", ["linear", "agp", "movement"])
def test_pruned_weights_stay_zero_through_fine_tuning_and_loading(method, tmp_path):
    phases = [
        SLOW,
        SLOW | {"epochs": 2, "pruning": {"method": method, "sparsity": 0.6, "steps": 3}},
        SLOW | {"epochs": 2},
    ]
    chosen, train = tiny(phase=phases), wells(3, 2)
    kept = {}

    def after_each(self, epoch):
        kept[epoch] = {
            name: mask.clone()
            for name, mask in self.network.named_buffers()
            if name.endswith("weight_mask")
        }
        save(self, epoch)

    save = loop.Fit.save_checkpoint
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Fit, "save_checkpoint", after_each)
        fit(chosen, train, tmp_path)
    network, _ = loaded(chosen, tmp_path)
    *others, head = pruning.layers(network).items()
    assert kept[1] == {} and sum(int((mask == 0).sum()) for mask in kept[2].values()) > 0
    for name, layer in others:
        mask = kept[3][f"{name}.weight_mask"]
        assert (mask == 0).sum() == int(mask.numel() * 0.6)
        assert not ((kept[2][f"{name}.weight_mask"] == 0) & (mask == 1)).any()
        assert torch.equal(layer.weight != 0, mask == 1)
        assert not layer.weight[mask == 0].signbit().any()
    assert (head[1].weight != 0).all()
    left = history(tmp_path, "weights")
    assert (
        left[0]
        > left[1]
        > left[2]
        == left[3]
        == left[4]
        == sum((w != 0).sum() for w in network.parameters())
    )


def test_the_head_is_pruned_if_asked_for():
    for head in (False, True):
        network = two_layers(8)
        pruning.Pruner(network, Pruning(method="agp", sparsity=0.5, head=head))
        assert hasattr(network[1], "weight_mask") == head


@pytest.mark.parametrize("name", sorted(networks.REGISTRY))
def test_the_last_layer_of_every_network_gives_the_logits(name):
    options = (
        {"encoder": "resnet18"}
        if "encoder" in networks.inspect.signature(networks.REGISTRY[name]).parameters
        else {}
    )
    photographs = networks.takes_photographs(name)
    network = networks.sketch(
        {"name": name, **options, **({"classes": 5, "channels": 3} if photographs else {})}
    ).eval()
    called = []
    for layer in pruning.layers(network).values():
        layer.register_forward_hook(lambda layer, inputs, output: called.append(layer))
    network(
        torch.empty(1, 3, 64, 64, device="meta")
        if photographs
        else torch.empty(1, 1, 36, 36, device="meta")
    )
    assert called[-1] is list(pruning.layers(network).values())[-1]


def killed_after(chosen: recipe.Recipe, train, folder, epoch: int) -> None:
    save = loop.Fit.save_checkpoint

    def save_and_die(self, done):
        save(self, done)
        if done == epoch:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop.Fit, "save_checkpoint", save_and_die)
        fit(chosen, train, folder)


@pytest.mark.parametrize("epoch", [2, 3, 4])
@pytest.mark.parametrize(
    "how",
    [
        {"method": "agp"},
        {"method": "movement"},
        {"method": "agp", "channels": True},
        {"method": "movement", "regrow": True, "granularity": "channel", "head": True},
    ],
)
def test_a_training_killed_while_or_after_it_prunes_goes_on_to_the_same_bytes(how, epoch, tmp_path):
    phases = [
        SLOW,
        SLOW | {"epochs": 2, "pruning": how | {"sparsity": 0.5, "steps": 5}},
        SLOW | {"epochs": 2},
    ]
    chosen, train = tiny(phase=phases), wells(3, 2)
    fit(chosen, train, tmp_path / "whole")
    killed_after(chosen, train, tmp_path / "killed", epoch)
    (only(tmp_path / "killed", "dense/*")).unlink()
    fit(chosen, train, tmp_path / "killed")
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_recipes_that_train_alike_before_they_prune_train_that_once(tmp_path, monkeypatch):
    train, epochs, epoch = wells(3, 2), [], loop.Fit.epoch
    pruned = [
        tiny(phase=[SLOW, SLOW | {"pruning": {"method": method, "sparsity": 0.5}}])
        for method in ("agp", "linear")
    ]
    monkeypatch.setattr(
        loop.Fit,
        "epoch",
        lambda self, number, report: epochs.append(number) or epoch(self, number, report),
    )

    def epochs_of(chosen: recipe.Recipe, folder, seed: int = 0) -> list[int]:
        for checkpoint in folder.glob("**/checkpoint.pt"):
            # that of another recipe, which in a run lies in a folder of its own
            checkpoint.unlink()
        epochs.clear()
        fit(chosen, train, folder, seed=seed)
        return list(epochs)

    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert epochs_of(pruned[1], alone) == epochs_of(pruned[0], shared) == [0, 1]
    assert epochs_of(pruned[1], shared) == [1] and digest(shared) == digest(alone)
    assert epochs_of(tiny(phase=[SLOW]), shared) == [] and len(history(shared, "loss")) == 1
    assert epochs_of(tiny(phase=[SLOW]), tmp_path / "dense") == [0]
    assert digest(shared) == digest(tmp_path / "dense")
    assert epochs_of(pruned[1], shared, seed=1) == [0, 1]


CHANNELS = [{"name": "ring_unet", "channels": [8, 16, 16]}] + [
    {"name": name, "encoder": "resnet18", "classes": 3, "channels": 3}
    for name in ("unet", "unet_plus_plus", "linknet", "fpn")
]


def trained_a_little(options: dict) -> tuple[nn.Module, torch.Tensor, dict[str, torch.Tensor]]:
    """A network whose batch norms have seen something, an image for it, and the importance of
    its weights.
    """
    torch.manual_seed(0)
    network = networks.create(options)
    image = torch.randn(2, 3, 64, 64) if "encoder" in options else torch.randn(2, 1, 36, 36)
    network.train()(image).square().mean().backward()
    scores = {
        name: (layer.weight * layer.weight.grad).detach() ** 2
        for name, layer in pruning.layers(network).items()
    }
    return network.eval(), image, scores


def masked(network: nn.Module, image: torch.Tensor, removed: list) -> nn.Module:
    """A copy with all weights zero that make the channels which Torch-Pruning removed from the
    original.
    """
    network = copy.deepcopy(network)
    with removal._without_rings(network):
        graph = torch_pruning.DependencyGraph().build_dependency(network, image)
    with torch.no_grad():
        for name, is_output, channels in removed:
            assert is_output
            layer = network.get_submodule(name)
            for dependency, own in graph.get_pruning_group(
                layer, graph.get_pruner_of_module(layer).prune_out_channels, channels
            ):
                if graph.is_out_channel_pruning_fn(dependency.handler):
                    transposed = getattr(dependency.layer, "transposed", False)
                    for tensor in dependency.layer.parameters():
                        (tensor.transpose(0, 1) if transposed and tensor.dim() > 1 else tensor)[
                            own
                        ] = 0
    return network


@pytest.mark.parametrize("options", CHANNELS, ids=lambda options: options["name"])
def test_masked_and_compact_networks_agree(options):
    network, image, scores = trained_a_little(options)
    dense, parameters = copy.deepcopy(network), sum(w.numel() for w in network.parameters())
    *_, head = pruning.layers(network).values()
    removed = pruning.remove_channels(network, scores, 0.5, [head], image[:1])
    twin = masked(dense, image, removed)
    with torch.no_grad():
        expected = twin(image)
        torch.testing.assert_close(network(image), expected, atol=1e-4, rtol=0)
        assert (expected - dense(image)).abs().max() > 1e-2
    assert sum(w.numel() for w in network.parameters()) < 0.3 * parameters
    assert head.out_channels == expected.shape[1]


def test_under_a_group_norm_whole_groups_go_and_as_many_as_asked_for():
    """Three tenths in three steps, of 32 groups of 4 channels; a tenth of each group would be
    none of its channels, or a quarter.
    """
    network, image, _ = trained_a_little(CHANNELS[-1])
    *_, head = pruning.layers(network).values()
    for share, left in ((0.1, 28), (1 / 9, 24), (1 / 8, 21)):
        scores = {
            name: torch.rand_like(layer.weight) for name, layer in pruning.layers(network).items()
        }
        norms = [layer for layer in network.modules() if isinstance(layer, nn.GroupNorm)]
        for norm in norms:
            norm.weight.data = torch.arange(float(norm.num_channels))
        pruning.remove_channels(network, scores, share, [head], image[:1])
        for norm in norms:
            assert (norm.num_groups, norm.num_channels) == (left, 4 * left)
            own = norm.weight.detach().view(left, 4)
            assert (own[:, 0] % 4 == 0).all() and (own.diff(dim=1) == 1).all()


@pytest.mark.parametrize("options", CHANNELS, ids=lambda options: options["name"])
def test_a_compact_network_is_rebuilt_from_its_weights_alone(options):
    network, image, scores = trained_a_little(options)
    *_, head = pruning.layers(network).values()
    pruning.remove_channels(network, scores, 0.3, [head], image[:1])
    again = networks.create(options)
    fit_state(again, network.state_dict())
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.eval()(image), network(image))
    for one, other in zip(again.modules(), network.modules(), strict=True):
        for key in (
            "in_channels",
            "out_channels",
            "groups",
            "num_features",
            "num_channels",
            "num_groups",
        ):
            assert getattr(one, key, None) == getattr(other, key, None)


def test_the_least_important_channels_go_with_all_that_hangs_on_them():
    network, image, scores = trained_a_little(CHANNELS[0])
    for layer in ("encoder.0.0", "encoder.0.3"):
        scores[layer] = torch.ones_like(scores[layer])
    scores["encoder.0.0"][[2, 5]] = 0
    scores["encoder.0.3"][:, [2, 5]] = 0
    before = network.encoder[0][0].weight.detach().clone()
    *_, head = pruning.layers(network).values()
    removed = pruning.remove_channels(network.train(), scores, 0.25, [head], image[:1])
    assert all(layer.training for layer in network.modules())
    assert ["encoder.0.0", True, [2, 5]] in [
        [name, out, sorted(channels)] for name, out, channels in removed
    ]
    assert torch.equal(network.encoder[0][0].weight, before[[0, 1, 3, 4, 6, 7]])


def test_channels_pruned_by_a_recipe_load_like_any_other_weights(tmp_path):
    phases = [
        SLOW,
        SLOW
        | {
            "epochs": 2,
            "pruning": {"method": "linear", "sparsity": 0.5, "steps": 2, "channels": True},
        },
        SLOW,
    ]
    chosen, train = tiny(phase=phases), wells(3, 2)
    dense = fit(tiny(phase=[SLOW]), train, tmp_path / "dense")
    weights = fit(chosen, train, tmp_path / "pruned")
    assert sum(map(np.size, weights.values())) < 0.4 * sum(map(np.size, dense.values()))
    network, _ = load_network(run_of(tmp_path / "pruned", chosen), TASK, CPU)
    assert network(torch.randn(2, 1, 36, 36)).shape == (2, 1, 36, 36)
    run = run_of(tmp_path / "dense", tiny())
    sealed.write_weights(run.weights(TASK), weights, {})
    with pytest.raises(UserError, match="another network"):
        load_network(run, TASK, CPU)


def test_a_compact_network_goes_on_learning_within_its_phase(tmp_path, monkeypatch):
    """It loses its channels at the end of the first of two epochs."""
    how = {"method": "linear", "sparsity": 0.5, "steps": 1, "cool_down": 0.5, "channels": True}
    save, between = loop.Fit.save_checkpoint, {}

    def after_each(self, epoch):
        between.update(
            {name: tensor.clone().numpy() for name, tensor in self.network.state_dict().items()}
        )
        save(self, epoch)

    monkeypatch.setattr(loop.Fit, "save_checkpoint", after_each)
    final = fit(tiny(phase=[SLOW | {"epochs": 2, "pruning": how}]), wells(3, 2), tmp_path)
    assert final["encoder.0.0.weight"].shape == between["encoder.0.0.weight"].shape == (2, 1, 3, 3)
    assert all(
        (final[name] != between[name]).any()
        for name in final
        if name in between and "weight" in name
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sparsity": 1.0}, "sparsity"),
        ({"method": "movement", "channels": True}, "linear"),
        ({"warm_up": 0.5, "cool_down": 0.5}, "nothing of the phase"),
        ({"regrow": True}, "regrow is for"),
        ({"channels": True, "granularity": "channel"}, "removed, or masked"),
        ({"together": True, "granularity": "channel"}, "single weights"),
        ({"together": True, "channels": True}, "single weights"),
    ],
)
def test_prunings_that_make_no_sense_are_refused(change, said):
    pruned = SLOW | {"pruning": {"method": "agp", "sparsity": 0.5} | change}
    with pytest.raises(UserError, match=said):
        tiny(phase=[pruned])


def test_an_epoch_before_the_pruning_cannot_be_the_best():
    with pytest.raises(UserError, match="best epoch could be one before"):
        tiny(phase=PHASES, selection="best_on_held_out")


def test_ma_net_loses_no_channels():
    with pytest.raises(UserError, match="ma_net"):
        pruning.Pruner(
            networks.sketch({"name": "ma_net", "encoder": "resnet18"}),
            Pruning(method="agp", sparsity=0.5, channels=True),
        )
