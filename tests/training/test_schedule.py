"""Rates equal the formulas of the paper's code and torch's schedulers."""

import jax
import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from segformer_jax.training.schedule import cosine_with_warmup, poly_with_warmup

STEPS, WARMUP = 50, 12


@pytest.fixture(autouse=True)
def _x64(x64):
    """Rates in float64."""


def rates(schedule) -> np.ndarray:
    schedule = jax.jit(schedule)
    return np.array([schedule(np.int32(step)) for step in range(STEPS + 5)])


def torchs_rates(peak, warmup_ratio, decay) -> np.ndarray:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    rising = lr_scheduler.LinearLR(optimizer, start_factor=warmup_ratio, total_iters=WARMUP)
    scheduler = lr_scheduler.SequentialLR(optimizer, [rising, decay(optimizer)], [WARMUP])
    found = []
    for _ in range(STEPS):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return np.array(found)


@pytest.mark.parametrize(("power", "min_lr"), [(1.0, 0.0), (0.9, 1e-6)])
def test_the_papers_warm_up_multiplies_the_decaying_rate(power, min_lr):
    found = rates(poly_with_warmup(6e-5, steps=STEPS, warmup=WARMUP, power=power, min_lr=min_lr))
    for step, rate in enumerate(found):
        decayed = (6e-5 - min_lr) * max(1 - step / STEPS, 0) ** power + min_lr
        shortfall = (1 - step / WARMUP) * (1 - 1e-6) if step < WARMUP else 0
        np.testing.assert_allclose(rate, decayed * (1 - shortfall), rtol=1e-13)
    assert found[0] == pytest.approx(6e-11)
    assert (found[STEPS:] == min_lr).all()


@pytest.mark.parametrize("power", [1.0, 0.9])
def test_poly_in_torchs_style_is_torchs(power):
    schedule = poly_with_warmup(
        6e-5, steps=STEPS, warmup=WARMUP, power=power, warmup_ratio=1e-3, style="torch"
    )
    theirs = torchs_rates(
        6e-5, 1e-3, lambda o: lr_scheduler.PolynomialLR(o, STEPS - WARMUP, power=power)
    )
    np.testing.assert_allclose(rates(schedule)[:STEPS], theirs, rtol=1e-12)


def test_cosine_is_torchs():
    schedule = cosine_with_warmup(2e-3, steps=STEPS, warmup=WARMUP, min_lr=1e-4, warmup_ratio=1e-3)
    theirs = torchs_rates(
        2e-3, 1e-3, lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS - WARMUP, eta_min=1e-4)
    )
    np.testing.assert_allclose(rates(schedule)[:STEPS], theirs, rtol=1e-12)


def test_without_warm_up_the_first_rate_is_the_peak():
    assert rates(poly_with_warmup(1e-3, steps=STEPS, warmup=0))[0] == 1e-3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(peak=0.0), "at most the learning rate, which is above 0, got .* and 0.0"),
        (dict(min_lr=2.0), "min_lr must be at least 0 and at most"),
        (dict(warmup=STEPS), f"warmup must end before the last of {STEPS} steps, got {STEPS}"),
        (dict(power=0.0), "power must be above 0, .*got 0.0"),
        (dict(warmup_ratio=2.0), r"warmup_ratio must be in \[0, 1\], got 2.0"),
    ],
)
def test_a_number_out_of_its_range_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        poly_with_warmup(**(dict(peak=1e-3, steps=STEPS, warmup=WARMUP) | changes))
