"""Networks for photographs: sizes, channels, their weights, and the library as the oracle."""

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_images
from torch import nn
from torch.nn.functional import conv2d, interpolate

from src import networks
from src.networks.encoders import features
from src.terminal.errors import UserError

SMALL = {"encoder": "resnet18"}
OF_LIBRARY = {
    "unet": smp.Unet,
    "unet_plus_plus": smp.UnetPlusPlus,
    "fpn": smp.FPN,
    "linknet": smp.Linknet,
    "ma_net": smp.MAnet,
    "deeplab_v3_plus": smp.DeepLabV3Plus,
}
SEGMENTING = [*OF_LIBRARY, "deeplab_report", "deeplab_bare"]


def test_those_that_take_photographs_are_known():
    assert {name for name in networks.REGISTRY if networks.takes_photographs(name)} == {
        *SEGMENTING,
        "classifier",
    }


@pytest.mark.parametrize("name", SEGMENTING)
@pytest.mark.parametrize(("channels", "size"), [(1, (64, 96)), (3, (50, 70)), (1, (7, 33))])
def test_logits_have_the_photographs_size_and_a_channel_for_each_class(name, channels, size):
    network = networks.create({"name": name, **SMALL, "classes": 4, "channels": channels})
    logits = network(torch.randn(2, channels, *size))
    assert logits.shape == (2, 4, *size)
    logits.square().mean().backward()
    assert all(
        weights.grad is not None and torch.isfinite(weights.grad).all()
        for weights in network.parameters()
    )


@pytest.mark.parametrize("name", OF_LIBRARY)
def test_it_is_the_librarys_network_on_a_photograph_with_repeated_edges(name):
    torch.manual_seed(0)
    network = networks.create({"name": name, **SMALL, "classes": 3, "channels": 1}).eval()
    library = OF_LIBRARY[name]("tu-resnet18", encoder_weights=None, in_channels=1, classes=3).eval()
    assert [weights.shape for weights in network.parameters()] == [
        weights.shape for weights in library.parameters()
    ]
    library.load_state_dict(
        dict(zip(library.state_dict(), network.state_dict().values(), strict=True))
    )
    x = torch.randn(2, 1, 40, 65)
    padded = torch.from_numpy(np.pad(x.numpy(), ((0, 0), (0, 0), (0, 24), (0, 31)), mode="edge"))
    with torch.inference_mode():
        torch.testing.assert_close(network(x), library(padded)[:, :, :40, :65])
        whole = torch.randn(2, 1, 64, 96)  # nothing to pad
        torch.testing.assert_close(network(whole), library(whole))


def test_the_bare_deeplab_is_an_encoder_two_convolutions_and_a_head():
    network = networks.create({"name": "deeplab_bare", **SMALL, "classes": 2}).eval()
    bare = network.network
    convs = [layer for layer in bare.decoder if isinstance(layer, nn.Conv2d)]
    assert [(conv.in_channels, conv.out_channels, conv.kernel_size) for conv in convs] == [
        (512, 256, (3, 3)),
        (256, 256, (3, 3)),
    ]
    x = torch.randn(1, 1, 64, 64)
    with torch.inference_mode():
        coarse = bare.head(bare.decoder(bare.encoder(x)[-1]))
        assert coarse.shape == (1, 2, 4, 4)
        torch.testing.assert_close(
            network(x), interpolate(coarse, scale_factor=16, mode="bilinear", align_corners=True)
        )


def test_the_bare_deeplab_begins_with_2048_channels_unless_told_otherwise():
    first = networks.sketch({"name": "deeplab_bare"}).network.decoder[0]
    assert (first.in_channels, first.out_channels) == (2048, 256)


def test_the_reports_decoder_has_plain_atrous_convolutions_and_ends_with_3x3_3x3_and_1x1():
    """DeepLabV3+ report, section 5.2, with a third rate of 36; the weights counted by hand."""
    network = networks.sketch({"name": "deeplab_report", "classes": 5, "channels": 3}).network
    convs = [
        (conv.in_channels, conv.out_channels, *conv.kernel_size, *conv.dilation, conv.groups)
        for name, conv in network.named_modules()
        if isinstance(conv, nn.Conv2d) and not name.startswith("encoder")
    ]
    assert convs == [
        (2048, 256, 1, 1, 1, 1, 1),
        (2048, 256, 3, 3, 12, 12, 1),
        (2048, 256, 3, 3, 24, 24, 1),
        (2048, 256, 3, 3, 36, 36, 1),
        (2048, 256, 1, 1, 1, 1, 1),
        (1280, 256, 1, 1, 1, 1, 1),
        (256, 48, 1, 1, 1, 1, 1),
        (304, 256, 3, 3, 1, 1, 1),
        (256, 256, 3, 3, 1, 1, 1),
        (256, 5, 1, 1, 1, 1, 1),
    ]
    atrous = 2048 * 256 * (1 + 9 + 9 + 9 + 1) + 1280 * 256
    decoder = 256 * 48 + 304 * 256 * 9 + 256 * 256 * 9 + 256 * 5 + 5
    batch_norm = 2 * (6 * 256 + 48 + 2 * 256)
    own = sum(w.numel() for n, w in network.named_parameters() if not n.startswith("encoder"))
    assert own == atrous + decoder + batch_norm


def test_the_reports_deeplab_is_what_its_section_says_step_by_step():
    torch.manual_seed(0)
    network = networks.create({"name": "deeplab_report", **SMALL, "classes": 2}).eval()
    own, x = network.network, torch.randn(2, 1, 64, 96)
    convs = [m for n, m in own.named_modules() if isinstance(m, nn.Conv2d) and "encoder" not in n]

    def run(number, x, rate=1):
        conv = convs[number].weight
        out = conv2d(x, conv, padding=rate * (conv.shape[2] // 2), dilation=rate)
        return (out / (1 + 1e-5) ** 0.5).relu()  # batch norm as it begins

    with torch.inference_mode():
        _, fine, _, _, last = own.encoder(x)
        assert (fine.shape[2:], last.shape[2:]) == ((16, 24), (4, 6))
        pooled = run(4, last.mean((2, 3), keepdim=True)).expand(-1, -1, 4, 6)
        rates = [run(0, last), *(run(n, last, rate) for n, rate in ((1, 12), (2, 24), (3, 36)))]
        up = {"scale_factor": 4, "mode": "bilinear", "align_corners": True}
        merged = interpolate(run(5, torch.cat([*rates, pooled], 1)), **up)
        both = run(8, run(7, torch.cat([merged, run(6, fine)], 1)))
        logits = interpolate(conv2d(both, convs[9].weight, convs[9].bias), **up)
        torch.testing.assert_close(network(x), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["deeplab_v3_plus", "deeplab_report"])
@pytest.mark.parametrize("encoder", ["resnet101", "densenet201", "efficientnet_b1"])
def test_deeplab_takes_the_reports_encoders(encoder, name):
    network = networks.sketch(
        {"name": name, "encoder": encoder, "classes": 4, "channels": 3}
    ).eval()
    x = torch.empty(2, 3, 256, 400, device="meta")
    assert network(x).shape == (2, 4, 256, 400)
    assert network.network.encoder(torch.empty(1, 3, 256, 416, device="meta"))[-1].shape[2:] == (
        16,
        26,
    )


@pytest.mark.parametrize("encoder", ["densenet121", "resnet18"])
def test_a_dilated_encoder_computes_what_the_halving_one_does_and_what_lies_between(encoder):
    """Dilation is halving undone (Chen et al. 2017, section 3.1): every second feature is that
    of a network which drops the others.
    """
    torch.manual_seed(0)
    halving, dilated = (
        features(encoder, False, 1).eval(),
        features(encoder, False, 1, output_stride=16).eval(),
    )
    dilated.load_state_dict(halving.state_dict())
    if encoder == "densenet121":
        # keeps every second value; its own pooling takes means
        halving.features_transition3.pool = nn.MaxPool2d(1, stride=2)
    x = torch.randn(1, 1, 128, 128)
    with torch.inference_mode():
        *fine, coarse = halving(x)
        *also_fine, dense = dilated(x)
    assert dense.shape[2:] == (8, 8) and coarse.shape[2:] == (4, 4)
    torch.testing.assert_close(dense[..., ::2, ::2], coarse)
    for feature, other in zip(fine, also_fine, strict=True):
        assert torch.equal(feature, other)


@pytest.mark.parametrize(("channels", "size"), [(1, (64, 96)), (3, (50, 71)), (1, (7, 5))])
def test_the_classifier_gives_one_logit_a_photograph(channels, size):
    torch.manual_seed(0)
    network = networks.create({"name": "classifier", **SMALL, "channels": channels}).eval()
    x = torch.randn(2, channels, *size)
    with torch.inference_mode():
        logits, last = network(x), network.encoder(x)[-1].numpy()
    assert logits.shape == (2, 1, 1, 1)
    weights, bias = network.head.weight.detach().numpy().reshape(-1), network.head.bias.item()
    expected = [
        sum(w * photograph[c].mean() for c, w in enumerate(weights)) + bias for photograph in last
    ]
    np.testing.assert_allclose(logits.flatten(), expected, rtol=1e-3, atol=1e-5)


def test_the_classifier_is_timms_resnet_without_its_thousand_classes():
    count = sum(
        weights.numel()
        for weights in networks.sketch({"name": "classifier", "channels": 3}).parameters()
    )
    with torch.device("meta"):
        assert count == sum(
            weights.numel() for weights in timm.create_model("resnet50", num_classes=1).parameters()
        )


@pytest.mark.parametrize("name", ["unet", "deeplab_v3_plus", "deeplab_bare", "classifier"])
def test_weights_come_from_a_file_or_not_at_all(name, tmp_path):
    table = {"name": name, **SMALL, "classes": 2, "channels": 1}
    torch.manual_seed(1)
    source = timm.create_model("resnet18")  # of photographs in three channels, with its classifier
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    loaded = networks.create(
        table | {"pretrained": str(tmp_path / "weights.safetensors")}
    ).state_dict()
    last = next(value for key, value in loaded.items() if key.endswith("layer4.1.conv2.weight"))
    first = next(
        value for key, value in loaded.items() if "encoder" in key and key.endswith("conv1.weight")
    )
    assert torch.equal(last, source.layer4[1].conv2.weight)
    # as three equal channels
    torch.testing.assert_close(first, source.conv1.weight.sum(1, keepdim=True))
    save_file({"nothing": torch.zeros(1)}, tmp_path / "other.safetensors")
    for file in ("missing", "other"):
        with pytest.raises(UserError, match=file):
            networks.create(table | {"pretrained": str(tmp_path / f"{file}.safetensors")})


def encoder_of(network: nn.Module) -> nn.Module:
    encoder = getattr(network, "network", network).encoder
    return getattr(encoder, "model", encoder)


@pytest.mark.parametrize("name", [*SEGMENTING, "classifier"])
def test_the_real_weights_name_photographs_in_every_network(name, lite0):
    table = {"name": name, "encoder": "tf_efficientnet_lite0", "pretrained": str(lite0)}
    encoder = encoder_of(networks.create(table | {"classes": 1, "channels": 3}))
    whole = timm.create_model("tf_efficientnet_lite0").eval()  # with its thousand classes
    head = {key: own for key, own in load_file(lite0).items() if key not in encoder.state_dict()}
    # a dilated encoder computes other features, from the same weights
    whole.load_state_dict(encoder.state_dict() | head)
    scaling, named = networks.trained_scaling(table, 3), []
    for photograph in load_sample_images().images:
        x = torch.from_numpy(scaling.apply(photograph / 255)).permute(2, 0, 1)[None]
        with torch.inference_mode():
            named.append(
                whole(interpolate(x, (224, 224), mode="bilinear", antialias=True)).argmax()
            )
    assert named == [442, 985]  # bell cote, for the roof of a palace; daisy


@pytest.mark.parametrize(
    ("encoder", "channels", "center", "scale"),
    [
        ("tf_efficientnet_lite0", 3, [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
        ("resnet34", 3, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ("resnet34", 1, [1.347 / 3], [0.678 / 3]),
    ],
)
def test_pretrained_weights_want_the_scaling_that_they_were_trained_with(
    encoder, channels, center, scale
):
    table = {"name": "unet", "encoder": encoder}
    assert networks.trained_scaling(table | {"pretrained": False}, channels) is None
    scaling = networks.trained_scaling(table | {"pretrained": True}, channels)
    np.testing.assert_allclose(scaling.center, center, rtol=1e-6)
    np.testing.assert_allclose(scaling.scale, scale, rtol=1e-6)
    # the encoder that the network has where the recipe names none
    assert networks.trained_scaling({"name": "classifier", "pretrained": True}, 3).center[0] > 0.48


@pytest.mark.parametrize("name", ["unet", "deeplab_v3_plus", "classifier"])
def test_weights_that_cannot_be_fetched_and_unknown_encoders_are_one_line(name, monkeypatch):
    with pytest.raises(UserError, match="efficientnet_b3"):
        networks.create({"name": name, "encoder": "efficientnet-b3"})
    create_model = timm.create_model

    def offline(*names, **options):
        if options.get("pretrained"):
            raise ConnectionError("no\nnetwork")
        return create_model(*names, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError, match="could not be fetched") as caught:
        networks.create({"name": name, **SMALL, "pretrained": True})
    assert "\n" not in str(caught.value)
