"""The wings and the module paths from before them."""

import importlib
import subprocess
import sys

import pytest

import spconv_lite
from spconv_lite import _moved


@pytest.mark.parametrize(("old", "new"), _moved.MOVED.items())
def test_an_old_module_path_is_the_module_of_the_new_one(old, new):
    assert importlib.import_module(f"spconv_lite.{old}") is importlib.import_module(
        f"spconv_lite.{new}"
    )


def test_an_old_path_imported_first_and_from_the_package_is_the_same_module():
    code = (
        "import spconv_lite.street as street; from spconv_lite import plain, ops, geometry;"
        "import spconv_lite.data.street as s, spconv_lite.kernels.plain as p;"
        "assert street is s and plain is p and callable(geometry.make_geometry)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_there():
    assert [name for name in spconv_lite.__all__ if not hasattr(spconv_lite, name)] == []
