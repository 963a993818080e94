"""Module paths of earlier releases give the modules that hold their content today."""

import importlib

import pytest

import convlstm
from convlstm._moved import MOVED


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_module_path_gives_the_very_module_of_today(old):
    module = importlib.import_module(f"convlstm.{old}")
    assert module is importlib.import_module(f"convlstm.{MOVED[old]}")
    assert getattr(convlstm, old) is module


def test_wings_serve_the_old_module_names_that_they_bear():
    from convlstm.environment import check_kernel, environment, tensorflow_environment
    from convlstm.forecasting import copy_last, forecast, shift_last
    from convlstm.layers import LAYERS, ConvLSTM2d, State

    assert forecast is convlstm.forecast
    assert LAYERS[2] is ConvLSTM2d is convlstm.ConvLSTM2d
    assert all(map(callable, (check_kernel, environment, tensorflow_environment)))
    assert all(map(callable, (copy_last, shift_last, State)))


def test_the_wing_called_keras_hides_no_other_keras():
    keras = pytest.importorskip("keras")
    assert keras is not convlstm.keras
    assert hasattr(keras, "Sequential")
