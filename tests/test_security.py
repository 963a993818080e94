"""SECURITY.md: each package has a table of what is read of a stranger's file, and the tests that it
names are there."""

import re

import pytest
import workspace

TEXT = (workspace.ROOT / "SECURITY.md").read_text()
SECTIONS = dict(re.findall(r"^### (\S+)\n(.*?)(?=^##|\Z)", TEXT, re.M | re.S))
PACKAGES = workspace.packages()
HEAD = ["file", "read by", "what bounds or refuses it", "shown by"]


def rows(section: str) -> list[list[str]]:
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_each_package_has_a_table():
    assert sorted(SECTIONS) == sorted(package.name for package in PACKAGES)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_each_row_is_full_and_names_tests_that_are_there(package):
    head, _, *body = rows(SECTIONS[package.name])
    assert head == HEAD
    assert body
    for row in body:
        assert len(row) == 4
        assert all(row)
        named = re.findall(r"`([^`]+)`", row[3])
        assert named, row[0]
        missing = [name for name in named if not (package.folder / "tests" / name).is_file()]
        assert not missing, f"{package.name}, {row[0]}"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_each_fuzzer_of_files_stands_in_its_table(package):
    found = (package.folder / "tests").glob("*fuzz*")
    readers = {path.name for path in found if path.suffix in (".py", ".cpp")}
    beside = {"test_fuzz.py", "test_fuzz_names.py"}  # of tensors, not of files
    shown = " ".join(row[3] for row in rows(SECTIONS[package.name]))
    assert readers - beside
    assert {name for name in readers - beside if f"`{name}`" in shown} == readers - beside
