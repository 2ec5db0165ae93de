"""Print every network with its parameters and its operations for one 36x36 patch: python -m src.networks."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from src import networks

if __name__ == "__main__":
    print(f"{'network':16}{'parameters':>14}{'operations for one 36x36 patch':>34}")
    for name in sorted(networks.REGISTRY):
        network = networks.sketch({"name": name}).eval()
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 1, 36, 36, device="meta"))
        parameters = sum(weights.numel() for weights in network.parameters())
        print(f"{name:16}{parameters / 1e6:12.3f} M{counter.get_total_flops() / 1e6:32.1f} M")
