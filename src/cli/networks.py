"""Every network with its parameters and operations for one image: python -m src.cli.networks."""

from src import networks


def table(names: list[str], image: str, size: int) -> None:
    """One line a network, for an image of `size` rows and columns in one channel."""
    print(f"{'network':16}{'parameters':>14}{f'operations for one {size}x{size} {image}':>38}")
    for name in names:
        parameters = sum(
            weights.numel() for weights in networks.sketch({"name": name}).parameters()
        )
        print(
            f"{name:16}{parameters / 1e6:12.3f} "
            f"M{networks.operations({'name': name}, size, size) / 1e6:36.1f} M"
        )


if __name__ == "__main__":
    table(
        [name for name in sorted(networks.REGISTRY) if not networks.takes_photographs(name)],
        "patch",
        36,
    )
    print()
    table(
        [name for name in sorted(networks.REGISTRY) if networks.takes_photographs(name)],
        "photograph",
        256,
    )
