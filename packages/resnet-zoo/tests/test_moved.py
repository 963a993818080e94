"""Module paths of earlier versions stay importable, and are the modules of today."""

import importlib
import subprocess
import sys

import pytest

import resnet_zoo
from resnet_zoo._moved import MOVED


@pytest.mark.parametrize("old", MOVED)
def test_an_old_module_path_is_the_very_module_of_today(old):
    new = importlib.import_module(f"resnet_zoo.{MOVED[old]}")
    assert importlib.import_module(f"resnet_zoo.{old}") is new
    assert getattr(resnet_zoo, old) is new


def test_old_imports_work_in_a_fresh_process_in_every_form():
    code = (
        "import resnet_zoo.sources as a\n"
        "from resnet_zoo import zoo as b, cache\n"
        "from resnet_zoo.resnet import Bottleneck, stochastic_depth\n"
        "from resnet_zoo.weights import WEIGHTS, ResNet50_Weights, Weights, imagenet_categories\n"
        "from resnet_zoo.inference import Optimized, Report, Trial, optimize\n"
        "import resnet_zoo; assert resnet_zoo.transforms.ImageClassification\n"
        "assert a.__name__ == 'resnet_zoo.weights.sources', a\n"
        "assert b.get_model is resnet_zoo.get_model\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_a_name_that_never_was_is_an_error():
    with pytest.raises(AttributeError, match="no attribute 'vgg'"):
        resnet_zoo.vgg  # noqa: B018
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("resnet_zoo.vgg")
