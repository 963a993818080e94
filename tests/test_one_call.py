"""The page that tells the way of one call: its files are there, and a call goes that way."""

import re
import sys

import pytest
import torch
import workspace

import spconv_lite as sp

PACKAGE = workspace.ROOT / "packages" / "spconv-lite"
PAGE = (workspace.ROOT / "docs" / "one-call.md").read_text()
STEPS = re.findall(r"^\| `([^`]+)` \| `(\w+)` \|", PAGE, re.M)
PATHS = {
    path
    for path in re.findall(r"`([\w./-]+\.(?:py|h|cpp|cu|cuh))`", PAGE)
    if path.startswith(("src/", "csrc/", "tests/", "../"))
}


def test_the_page_tells_a_way():
    assert len(STEPS) > 15
    assert len(PATHS) > 20


@pytest.mark.parametrize(("path", "name"), STEPS)
def test_a_step_stands_in_its_file(path, name):
    assert re.search(rf"\b{name}\b", (PACKAGE / path).read_text())


@pytest.mark.parametrize("path", sorted(PATHS))
def test_a_file_that_the_page_names_is_there(path):
    house = path == "tests/test_one_call.py"
    assert ((workspace.ROOT if house else PACKAGE) / path).is_file()


def test_a_call_passes_through_pythons_part_in_the_order_of_the_page():
    sites = torch.tensor([[0, 1, 1, 1], [0, 1, 1, 2]], dtype=torch.int32)
    x = sp.SparseConvTensor(torch.randn(2, 4), sites, [4, 4, 4], 1)
    layer, passed = sp.SubMConv3d(4, 8, 3, indice_key="a"), []

    def note(frame, event, argument):
        if event == "call":
            passed.append((frame.f_code.co_filename, frame.f_code.co_name))

    sys.setprofile(note)
    try:
        layer(x)
    finally:
        sys.setprofile(None)
    python, after = PAGE.split("## The binding")[0], iter(passed)
    for path, name in re.findall(r"^\| `([^`]+)` \| `(\w+)` \|", python, re.M):
        met = any(file.endswith(path) and code == name for file, code in after)
        assert met, f"{name} of {path} is not called, or earlier than the page says"
