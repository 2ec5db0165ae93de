"""Networks by name. Each takes windows (B, 1, H, W) and returns logits (B, 1, H, W).

Those with the options `classes` and `channels` take photographs: (B, channels, H, W) to (B,
classes, H, W), or (B, classes, 1, 1) from a classifier. Adding one is a function decorated with
`register` in a file of this folder that is imported below.
"""

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from src.networks import encoders
from src.networks.scaling import Scaling
from src.recipe import Member
from src.terminal.errors import UserError, did_you_mean

REGISTRY: dict[str, Callable[..., nn.Module]] = {}


def register(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Make a network available to recipes under the function's name; its keyword arguments are
    the recipe's keys.
    """
    REGISTRY[build.__name__] = build
    return build


def create(network: dict[str, Any]) -> nn.Module:
    """The network of a recipe's `network` table: its name and its options.

    Raises:
        UserError: an unknown network or option, or an option of the wrong kind.
    """
    options = {key: value for key, value in network.items() if key != "name"}
    if str(network["name"]) not in REGISTRY:
        raise UserError(
            f"no network '{network['name']}': {did_you_mean(str(network['name']), REGISTRY)}"
        )
    build = REGISTRY[str(network["name"])]
    known = inspect.signature(build).parameters
    for key, value in options.items():
        if key not in known:
            raise UserError(
                f"network '{network['name']}' has no option '{key}': {did_you_mean(key, known)}"
            )
        _check_option(f"network '{network['name']}', option '{key}'", value, build, key)
    try:
        return build(**options)
    except UserError:
        raise
    except Exception as error:  # whatever layers raise about sizes that make no sense
        raise UserError(f"network '{network['name']}': {error}") from None


def _check_option(where: str, value: Any, build: Callable[..., nn.Module], key: str) -> None:
    """Refuse a value of another type than the network's argument has, and integers below 1: all
    of them count something.
    """
    try:
        TypeAdapter(get_type_hints(build).get(key, Any)).validate_python(value, strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise UserError(f"{where}: {problem['msg']}, not {value!r}") from None
    for number in value if isinstance(value, list) else [value]:
        if type(number) is int and number < 1:
            raise UserError(f"{where}: {number} is less than 1")


def takes_photographs(name: str) -> bool:
    """Whether a network wants to be told the `classes` to segment and the `channels` of the
    photographs.
    """
    return {"classes", "channels"} <= inspect.signature(REGISTRY[name]).parameters.keys()


def sketch(network: dict[str, Any]) -> nn.Module:
    """The network without memory, on torch's meta device: shapes and names, weights neither
    drawn nor fetched.
    """
    with torch.device("meta"):
        return create(untrained(network))


def untrained(network: dict[str, Any]) -> dict[str, Any]:
    """A recipe's `network` table without its pretrained weights, for a network that gets others."""
    return {key: value for key, value in network.items() if key != "pretrained"}


def for_photographs(member: Member, classes: int, channels: int) -> dict[str, Any]:
    """A member's `network` table with what the data say: photographs of so many channels and K
    classes of defects.

    An image classifier has one output; softmax has one more than there are classes, for the
    background.

    Raises:
        UserError: the network is one for pipes.
    """
    if member.network["name"] in REGISTRY and not takes_photographs(str(member.network["name"])):
        raise UserError(
            f"member '{member.name}': network '{member.network['name']}' is for "
            "pipes, not for photographs"
        )
    outputs = 1 if member.role == "classify" else classes + (member.activation == "softmax")
    return {**member.network, "classes": outputs, "channels": channels}


def trained_scaling(network: dict[str, Any], channels: int) -> Scaling | None:
    """The scaling that the pretrained weights of a recipe's `network` table want of photographs;
    None where it begins from random ones.
    """
    if not network.get("pretrained"):
        return None
    default = inspect.signature(REGISTRY[str(network["name"])]).parameters["encoder"].default
    return encoders.trained_scaling(str(network.get("encoder", default)), channels)


def operations(
    network: dict[str, Any], height: int = 36, width: int = 36, training: bool = False
) -> float:
    """Floating-point operations for one window of a recipe's network, by torch's counter:
    forward, or in training forward and back.
    """
    sketched = sketch(network).train(training)
    windows = 2 if training else 1  # batch norm will not train on a single value
    with FlopCounterMode(display=False) as counter:
        logits = sketched(
            torch.empty(windows, network.get("inputs", 1), height, width, device="meta")
        )
        if training:
            logits.sum().backward()
    return counter.get_total_flops() / windows


from src.networks import corroseg, library, photographs, published, ring_unet  # noqa: E402, F401  (they register themselves)
