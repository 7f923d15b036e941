"""The settings of the tests hold."""

import os

import pytest
import torch
from hypothesis import settings


def test_one_thread() -> None:
    assert torch.get_num_threads() == 1


@pytest.mark.skipif("HYPOTHESIS_PROFILE" in os.environ, reason="another profile was asked for")
def test_examples_are_fixed() -> None:
    assert settings.default is not None
    assert settings.default.derandomize
    assert settings.default.deadline is None


def test_float64_fixture(float64: torch.dtype) -> None:
    assert torch.zeros(1).dtype == float64 == torch.float64


def test_default_is_float32() -> None:
    assert torch.zeros(1).dtype == torch.float32
