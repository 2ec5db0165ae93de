"""Networks: shapes, sizes, and the ring that they respect."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from src import networks
from src.networks.corroseg import AddStep, CatStep
from src.networks.layers import RingConv2d, RingPad, ring_pad
from src.terminal.errors import UserError


def test_ring_convolution_wraps_azimuth_and_repeats_depth():
    torch.manual_seed(0)
    conv = RingConv2d(2, 3)
    x = torch.randn(1, 2, 8, 6)
    padded = np.pad(
        np.pad(x.numpy(), ((0, 0), (0, 0), (0, 0), (1, 1)), mode="wrap"),
        ((0, 0), (0, 0), (1, 1), (0, 0)),
        mode="edge",
    )
    expected = torch.nn.functional.conv2d(torch.from_numpy(padded), conv.weight, conv.bias)
    torch.testing.assert_close(conv(x), expected)


def test_ring_unet_commutes_with_rolls_of_its_grid():
    torch.manual_seed(0)
    network = networks.create({"name": "ring_unet", "channels": [4, 8, 12]}).eval()
    x = torch.randn(2, 1, 48, 36)
    torch.testing.assert_close(
        network(x.roll(8, dims=3)), network(x).roll(8, dims=3), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("height", [36, 72, 144])
def test_ring_unet_takes_windows_taller_than_a_patch(height):
    assert networks.create({"name": "ring_unet"})(torch.randn(2, 1, height, 36)).shape == (
        2,
        1,
        height,
        36,
    )


def test_ring_unet_pools_depth_and_azimuth_by_their_own_numbers():
    network = networks.create(
        {"name": "ring_unet", "channels": [4, 6, 8], "pool_rows": [2, 3], "pool_columns": [2, 1]}
    ).eval()
    x = torch.randn(1, 1, 12, 36)
    seen = []
    network.encoder[-1].register_forward_hook(lambda _, inputs, output: seen.append(output.shape))
    y = network(x)
    assert seen == [(1, 8, 2, 18)] and y.shape == x.shape
    torch.testing.assert_close(network(x.roll(2, 3)), y.roll(2, 3), atol=1e-5, rtol=0)


def test_gradients_reach_every_part_of_a_ring_unet():
    torch.manual_seed(0)
    network = networks.create({"name": "ring_unet", "channels": [4, 8]})
    network(torch.randn(2, 1, 48, 36)).square().sum().backward()
    assert all(weights.grad.abs().sum() > 0 for weights in network.parameters())


def test_ring_unet_wants_a_pool_for_each_step_down():
    with pytest.raises(UserError, match="pool_rows"):
        networks.create({"name": "ring_unet", "channels": [4, 6, 8], "pool_rows": [2]})


def test_operations_by_hand():
    """A ring U-Net of one level: 3x3 convolutions 1 -> 4 -> 4 and the head, two operations a
    product; back, the same again for the weights, and for the input of every convolution but the
    first.
    """
    convs, head = [2 * 9 * inputs * 4 * 36 * 36 for inputs in (1, 4)], 2 * 4 * 36 * 36
    network = {"name": "ring_unet", "channels": [4]}
    assert networks.operations(network) == sum(convs) + head
    assert networks.operations(network, training=True) == 3 * (sum(convs) + head) - convs[0]
    assert networks.operations(network, height=72) == 2 * (sum(convs) + head)


def test_ring_unet_is_small():
    count = sum(weights.numel() for weights in networks.create({"name": "ring_unet"}).parameters())
    assert 0.1e6 < count < 0.5e6


UNUSED_CLASSIFIER = 2048 * 1000 + 1000  # of the ResNet50 in the paper's code, which counts it


@pytest.mark.parametrize(
    ("name", "published", "unused"),
    [
        ("cat_corroseg", 73.9e6, UNUSED_CLASSIFIER),
        ("add_corroseg", 80.9e6, UNUSED_CLASSIFIER),
        ("xscat_unet", 0.117e6, 0),
    ],
)
def test_parameters_match_the_papers_code(name, published, unused):
    count = sum(weights.numel() for weights in networks.create({"name": name}).parameters())
    assert count + unused == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize(
    ("table", "published"),
    [
        # 3 -> 32 -> 64 -> 128 -> 256 -> 512 by 3x3, then 663,552 -> 1,296 -> 1,296
        (
            {"name": "baseline_cnn"},
            896 + 18_496 + 73_856 + 295_168 + 1_180_160 + 663_553 * 1296 + 1297 * 1296,
        ),
        # two 3x3 to 16, 32, 64; 2x2 up and two 3x3 to 32, 16; the head
        (
            {"name": "xscat_unet"},
            (448 + 2320) + (4640 + 9248) + (18_496 + 36_928)
            + (8224 + 18_464 + 9248) + (2064 + 4624 + 2320) + 145,
        ),
    ],
)  # fmt: skip
def test_parameters_are_those_of_the_papers_layers_by_hand(table, published):
    network = networks.sketch({**table, "copies": 3})
    assert sum(weights.numel() for weights in network.parameters()) == published
    assert published in (863_214_176, 117_169)


def test_the_head_of_xscat_has_145_weights_and_drops_whole_channels():
    network = networks.create({"name": "xscat_unet"})
    assert sum(weights.numel() for weights in network.head.parameters()) == 145
    drops = [layer for layer in network.modules() if isinstance(layer, torch.nn.Dropout2d)]
    assert [drop.p for drop in drops] == [0.1, 0.1, 0.2, 0.1, 0.1]
    assert not [layer for layer in network.modules() if type(layer) is torch.nn.Dropout]


def test_fcn_resnet50_is_torchvisions():
    torch.manual_seed(0)
    theirs = torchvision.models.segmentation.fcn_resnet50(
        weights=None, weights_backbone=None, num_classes=1
    ).eval()
    place = {"backbone": "encoder.features", "classifier.0": "head.0.0"}
    place |= {"classifier.1": "head.0.1", "classifier.4": "head.2"}
    state = {
        f"{place[own]}{name.removeprefix(own)}": value
        for name, value in theirs.state_dict().items()
        for own in place
        if name.startswith(own)
    }
    ours = networks.create({"name": "fcn_resnet50", "copies": 3}).eval()
    ours.load_state_dict(state)
    x = torch.randn(2, 1, 36, 36)
    with torch.no_grad():
        expected = theirs(x.expand(-1, 3, -1, -1))["out"]
        torch.testing.assert_close(ours(x), expected, atol=1e-4, rtol=1e-4)


def test_an_encoder_starts_as_torchvisions_and_its_pretrained_weights_are_those(monkeypatch):
    network = networks.create({"name": "cat_corroseg", "copies": 3})
    norms = [layer for layer in network.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    assert len(norms) == 53 + 8 and all((layer.weight == 1).all() for layer in norms)
    assert network.encoder.features.conv1.in_channels == 3
    create, asked = timm.create_model, []

    def record(name, pretrained, **options):
        asked.append((name, pretrained))
        return create(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", record)
    kept = networks.create({"name": "cat_corroseg", "pretrained": True}).encoder.features
    assert asked == [("resnet50.tv2_in1k", True)]
    assert not kept.layer1[0].bn3.weight.any()  # what was loaded stays


def test_additive_steps_drop_nothing_of_the_skip():
    """Where all of the decoder's branch is dropped the skip is left, and of concatenation
    nothing.
    """
    y, skip, drop = torch.randn(2, 8, 3, 3), torch.randn(2, 4, 5, 5), torch.nn.Dropout2d(1.0)
    assert torch.equal(AddStep(8, 4, False)(y, skip, drop), skip)
    assert not CatStep(8, 4, True)(y, skip, drop).any()


def test_without_pooling_sadd_grows_to_16_times_the_size_and_keeps_every_16th_pixel():
    torch.manual_seed(0)
    network, seen = networks.create({"name": "sadd_unet", "pooling": False}).eval(), {}
    network.encoder[-1].register_forward_hook(lambda *call: seen.update(deep=call[2].shape))
    network.decoder[0].register_forward_hook(lambda *call: seen.update(last=call[2]))
    with torch.no_grad():
        y = network(torch.randn(1, 1, 8, 4))
        whole = torch.nn.functional.conv2d(seen["last"], network.head.weight, network.head.bias)
    assert seen["deep"] == (1, 1024, 8, 4) and whole.shape == (1, 1, 128, 64)
    torch.testing.assert_close(y, whole[:, :, ::16, ::16])


def test_corroseg_has_the_papers_feature_sizes():
    network = networks.create({"name": "cat_corroseg"}).eval()
    features = network.encoder(torch.randn(1, 1, 36, 36))
    assert [tuple(feature.shape[1:3]) for feature in features] == [
        (64, 18),
        (256, 9),
        (512, 5),
        (1024, 3),
        (2048, 2),
    ]


SMALL = {"encoder": "resnet18"}
TABLES = [
    {"name": "xscat_unet"},
    {"name": "sadd_unet"},
    {"name": "fcn_transposed", **SMALL},
    {"name": "fcn_bilinear", **SMALL, "copies": 3},
    {"name": "fcn_resnet50"},
    {"name": "cat_corroseg", **SMALL, "batch_norm": False, "copies": 3},
    {"name": "add_corroseg", **SMALL, "dropout": "A"},
    {"name": "deeplab_v3", **SMALL},
    {"name": "ring_unet"},
    {"name": "plain_unet"},
    {"name": "attention_unet"},
]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table["name"])
@pytest.mark.parametrize("height", [36, 72])
def test_every_network_gives_logits_of_its_inputs_size(table, height):
    assert networks.create(table)(torch.randn(2, 1, height, 36)).shape == (2, 1, height, 36)


def test_the_baseline_takes_patches_only():
    network = networks.create({"name": "baseline_cnn", "pooling": True})
    assert network(torch.randn(2, 1, 36, 36)).shape == (2, 1, 36, 36)
    with pytest.raises(ValueError, match="36x36"):
        network(torch.randn(2, 1, 72, 36))


@pytest.mark.parametrize("name", ["cat_corroseg", "add_corroseg", "sadd_unet", "baseline_cnn"])
def test_dropout_acts_in_training_and_is_off_in_prediction(name):
    torch.manual_seed(0)
    table = {"name": name, "dropout": "B"} | (SMALL if "corroseg" in name else {"pooling": True})
    network, x = networks.create(table), torch.randn(4, 1, 36, 36)
    for module in network.modules():  # so that only dropout can make a difference
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_dropout_follows_the_encoder_stages_of_the_policy():
    network = networks.create({"name": "cat_corroseg", "dropout": "A", **SMALL})
    assert [drop.p for drop in network.encoder.drops] == [0, 0.1, 0.1, 0.2, 0]
    assert [drop.p for drop in network.drops] == [0.2, 0.2, 0.1, 0.1]
    for drop in network.encoder.drops:
        drop.p = 1.0 if drop.p == 0.2 else 0.0
    network.train()
    fine, _, _, fourth, _ = network.encoder(torch.randn(4, 1, 36, 36))
    assert fine.any() and not fourth.any()


def test_weights_from_a_file_are_loaded_and_never_replaced_by_random_ones(tmp_path):
    source = timm.create_model("resnet18", features_only=True, in_chans=1)
    save_file(dict(source.state_dict()), tmp_path / "weights.safetensors")
    loaded = networks.create(
        {"name": "cat_corroseg", **SMALL, "pretrained": str(tmp_path / "weights.safetensors")}
    )
    assert torch.equal(
        loaded.encoder.features.state_dict()["layer4.1.conv2.weight"],
        source.state_dict()["layer4.1.conv2.weight"],
    )
    (tmp_path / "damaged.safetensors").write_bytes(b"nothing")
    save_file(
        {f"model.{key}": value for key, value in source.state_dict().items()},
        tmp_path / "renamed.safetensors",
    )
    save_file(
        {key: value for key, value in source.state_dict().items() if "layer4.1" not in key},
        tmp_path / "cut.safetensors",
    )
    for name in ("missing", "damaged", "renamed", "cut"):
        with pytest.raises(UserError, match=name):
            networks.create(
                {
                    "name": "cat_corroseg",
                    **SMALL,
                    "pretrained": str(tmp_path / f"{name}.safetensors"),
                }
            )


def test_weights_that_cannot_be_fetched_are_one_line(monkeypatch):
    def offline(*_args, **_options):
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match="could not be fetched") as caught:
        networks.create({"name": "cat_corroseg", "pretrained": True})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "hint"),
    [
        ({"name": "ring_unit"}, "ring_unet"),
        ({"name": "ring_unet", "chanels": [8, 16]}, "channels"),
        ({"name": "ring_unet", "channels": 5}, "ring_unet"),
        (
            {"name": "cat_corroseg", "dropout": "C"},
            "option 'dropout': Input should be 'none', 'A' or 'B'",
        ),
        ({"name": "cat_corroseg", "encoder": "resnet5O"}, "resnet50"),
    ],
)
def test_a_wrong_network_table_is_one_line_with_a_hint(table, hint):
    with pytest.raises(UserError, match=hint) as caught:
        networks.create(table)
    assert "\n" not in str(caught.value)


def test_sadd_unet_trains_at_batch_64_in_under_6_gib():
    step = (
        "import resource, torch; from src import networks; network = networks.create({'name': "
        "'sadd_unet'}); "
        "network(torch.randn(64, 1, 36, 36)).mean().backward(); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", step],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    assert int(done.stdout) * 1024 < 6 * 2**30


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 2, 1, 3), (2, 1, 2, 2), (2, 3, 2, 1)])
def test_ring_padding_and_its_gradient_are_those_of_concatenation(shape, layout):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    padded, expected = RingPad.apply(x), ring_pad(x)
    assert torch.equal(padded, expected)
    assert padded.is_contiguous(memory_format=layout)
    weight = torch.randn_like(expected)
    (gradient,), (plain,) = (torch.autograd.grad((y * weight).sum(), x) for y in (padded, expected))
    torch.testing.assert_close(gradient, plain)
    assert torch.autograd.gradcheck(RingPad.apply, x)


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("channels", [4, "8"], "Input should be a valid integer, not [4, '8']"),
        ("channels", [4, 8.5], "Input should be a valid integer, not [4, 8.5]"),
        ("channels", [4, True], "Input should be a valid integer, not [4, True]"),
        ("channels", [0, 8], "0 is less than 1"),
        ("channels", 4, "Input should be an instance of Sequence, not 4"),
        ("pool_rows", [-2], "-2 is less than 1"),
        ("inputs", "1", "Input should be a valid integer, not '1'"),
    ],
)
def test_an_option_of_another_type_is_named(option, value, told):
    with pytest.raises(UserError) as caught:
        networks.sketch({"name": "ring_unet", option: value})
    assert str(caught.value) == f"network 'ring_unet', option '{option}': {told}"


@pytest.mark.parametrize("name", [["ring_unet"], {"ring_unet": 1}, 5, "ring_unett"])
def test_a_name_that_no_network_has_is_refused_whatever_it_is(name):
    with pytest.raises(UserError, match="no network '"):
        networks.create({"name": name})
