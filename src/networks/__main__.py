"""Print every network with its parameters and its operations for one 36x36 patch: python -m src.networks."""

from src import networks

if __name__ == "__main__":
    print(f"{'network':16}{'parameters':>14}{'operations for one 36x36 patch':>34}")
    for name in sorted(networks.REGISTRY):
        parameters = sum(weights.numel() for weights in networks.sketch({"name": name}).parameters())
        print(f"{name:16}{parameters / 1e6:12.3f} M{networks.operations({'name': name}) / 1e6:32.1f} M")
