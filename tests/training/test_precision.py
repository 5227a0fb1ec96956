"""A run is trained in one precision, on all ranks, and for as long as it lasts."""

import logging
from types import SimpleNamespace

import pytest
import torch

from srcluster.training import precision
from srcluster.training.precision import choose_together


def ranks(*slow: bool):
    return SimpleNamespace(rank=0, gather=lambda mine: torch.cat([mine, *(torch.tensor([float(one)]) for one in slow)]))


@pytest.fixture
def fast(monkeypatch):
    """A machine that multiplies bf16."""
    monkeypatch.setattr(precision, "_multiplies_bf16", lambda device: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_auto_is_what_every_rank_can_do(fast):
    assert choose_together("auto", "", ranks()).name == "bf16"
    assert choose_together("auto", "", ranks(False)).name == "bf16"
    assert choose_together("auto", "", ranks(True)).name == "fp32"
    assert choose_together("bf16", "", ranks(True)).name == "bf16"


def test_a_run_goes_on_as_it_began(fast, caplog):
    with caplog.at_level(logging.WARNING):
        assert choose_together("auto", "bf16", ranks()).name == "bf16"
        assert not caplog.messages
        assert choose_together("auto", "fp32", ranks()).name == "fp32"
    assert caplog.messages == [
        "the run goes on in fp32, as it began; `precision: auto` would be bf16 on these machines"
    ]
