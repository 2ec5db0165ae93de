"""Learning-rate schedules, at their ends and against torch's."""

import math

import numpy as np
import pytest
import torch

from src.recipe import Phase
from src.training.schedules import learning_rate, plateau_factor


def test_cosine_schedule_climbs_then_falls_to_zero():
    phase = Phase(epochs=1, learning_rate=0.1, schedule="cosine", warmup=0.2)
    rates = [learning_rate(phase, progress) for progress in (0, 0.1, 0.2, 0.6, 1)]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.05, 0])


def test_constant_schedule_stays():
    phase = Phase(epochs=1, learning_rate=0.1, schedule="constant", warmup=0)
    assert [learning_rate(phase, progress) for progress in (0, 0.5, 1)] == [0.1, 0.1, 0.1]


def test_plateau_by_hand():
    losses = [5, 4, 4, 4, 4, 3, 3.5, 3.2, 3.1, 3.1, 3, 3, 2]
    # With a patience of 3, halved after the third loss that is not below 4, then after every third
    # that is not below 3.
    factors = [1, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125, 0.125]
    assert [plateau_factor(losses[:epochs], 3) for epochs in range(len(losses) + 1)] == factors


@pytest.mark.parametrize("patience", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(5))
def test_plateau_agrees_with_torch(patience, seed):
    losses = np.random.default_rng(seed).integers(0, 30, size=60) / 30 + np.linspace(
        1, 0, 60
    ).round(1)
    losses[40] = math.nan
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimiser, factor=0.5, patience=patience - 1, threshold=0, eps=0
    )
    halved = set()
    for epoch, loss in enumerate(losses, start=1):
        oracle.step(loss)
        halved.add(oracle.get_last_lr()[0])
        assert plateau_factor(losses[:epoch].tolist(), patience) == oracle.get_last_lr()[0]
    assert len(halved) > 2


def test_a_phase_on_a_plateau_halves_its_rate_and_has_no_warm_up():
    phase = Phase(epochs=9, learning_rate=0.1, schedule="plateau", plateau_patience=2, warmup=0.5)
    assert learning_rate(phase, 0) == learning_rate(phase, 0.2, [1.0, 1.0]) == 0.1
    assert learning_rate(phase, 0.4, [1.0, 1.0, 1.1]) == 0.05


@pytest.mark.parametrize(("cycles", "half"), [(1.0, 100), (2.5, 40), (0.73, 137)])
def test_cyclic_schedule_agrees_with_torch(cycles, half):
    """200 steps; torch counts the steps from the lowest rate to the highest."""
    phase = Phase(epochs=1, learning_rate=1e-2, lowest_rate=1e-4, schedule="cyclic", cycles=cycles)
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    oracle = torch.optim.lr_scheduler.CyclicLR(
        optimiser, 1e-4, 1e-2, step_size_up=half, cycle_momentum=False
    )
    rates = []
    for step in range(200):
        rates.append(oracle.get_last_lr()[0])
        assert learning_rate(phase, step / (2 * half * cycles)) == pytest.approx(
            rates[-1], rel=1e-6
        )
        optimiser.step()
        oracle.step()
    assert min(rates) == pytest.approx(1e-4) and max(rates) == pytest.approx(1e-2, rel=0.01)


@pytest.mark.parametrize("steps", [38, 58, 79])
def test_half_cycles_in_steps_are_those_of_torch_however_long_an_epoch_is(steps):
    """38 steps an epoch in the recipe nea, 58 and 79 in the study; 100 epochs."""
    phase = Phase(
        epochs=100, learning_rate=1e-2, lowest_rate=1e-4, schedule="cyclic", half_cycle=2000
    )
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    oracle = torch.optim.lr_scheduler.CyclicLR(
        optimiser, 1e-4, 1e-2, step_size_up=2000, cycle_momentum=False
    )
    for step in range(100 * steps):
        progress = (step + 0.5) / (100 * steps)
        assert learning_rate(phase, progress, (), step) == pytest.approx(
            oracle.get_last_lr()[0], rel=1e-9
        )
        optimiser.step()
        oracle.step()


def test_half_cycles_are_for_cyclic_rates():
    with pytest.raises(ValueError, match="half_cycle is for"):
        Phase(epochs=1, schedule="constant", half_cycle=5)


def test_a_cycle_that_climbs_nowhere_is_refused():
    with pytest.raises(ValueError, match="lowest_rate must be smaller"):
        Phase(epochs=1, learning_rate=1e-4, lowest_rate=1e-4, schedule="cyclic")
