"""The table of megatron-core's promises names tests that are there, and exceptions with a way."""

import re
from pathlib import Path

HERE = Path(__file__).parent
TABLE = HERE.parent / "docs" / "megatron-contract.md"
PROMISES = 26  # at least


def rows():
    lines = [line for line in TABLE.read_text().splitlines() if re.match(r"\| \d+ \|", line)]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_promise_is_shown_by_a_test_or_argued():
    texts = [path.read_text() for path in HERE.glob("test_*.py")]
    found = {name for text in texts for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}
    shown = 0
    for number, (place, promise, test, difference) in enumerate(rows(), 1):
        assert int(place) == number
        assert promise
        assert difference
        if test != "not here":
            assert test.strip("`") in found, test
            shown += 1
    assert shown >= PROMISES
