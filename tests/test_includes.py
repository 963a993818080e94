"""C++ and CUDA sources include what they call of the standard library, or our headers do.

What another standard header happens to bring compiles with one library and not with the next.
"""

import re
from pathlib import Path

import pytest
import workspace

ROOT = workspace.ROOT
NATIVE = [package for package in workspace.packages() if package.native]
CALLS = {
    "algorithm": r"std::(all_of|any_of|clamp|copy|copy_n|count|count_if|equal|fill|fill_n|find"
    r"|find_if|lower_bound|max|max_element|min|min_element|minmax|none_of|nth_element|partition|remove_if"
    r"|reverse|rotate|sort|stable_sort|transform|unique|upper_bound)\s*[(<]",
    "atomic": r"std::atomic",
    "chrono": r"std::chrono",
    "cmath": r"std::(ceil|cos|exp|floor|isfinite|isnan|log|pow|round|sin|sqrt|tanh)\(",
    "cstring": r"\b(memcmp|memcpy|memmove|memset|strlen)\(",
    "functional": r"std::function\b",
    "limits": r"std::numeric_limits",
    "memory": r"std::(make_shared|make_unique|shared_ptr|unique_ptr)\b",
    "mutex": r"std::(lock_guard|mutex|scoped_lock|unique_lock)\b",
    "numeric": r"std::(accumulate|iota)\b",
    "stdexcept": r"std::(invalid_argument|out_of_range|runtime_error)\b",
    "thread": r"std::thread\b",
}


def standard_headers(source: Path, folders: list[Path], seen: set[Path]) -> set[str]:
    """What `source` and our headers that it leads to include beside our headers."""
    found = set()
    for name in re.findall(r'(?m)^#include\s*[<"]([^>"]+)', source.read_text()):
        ours = next((f / name for f in [source.parent, *folders] if (f / name).is_file()), None)
        if ours is None:
            found.add(name)
        elif ours not in seen:
            seen.add(ours)
            found |= standard_headers(ours, folders, seen)
    return found


def not_included(source: Path, folders: list[Path]) -> list[str]:
    code = re.sub(r"//.*", "", source.read_text())
    there = standard_headers(source, folders, set())
    return [
        header for header, call in CALLS.items() if re.search(call, code) and header not in there
    ]


@pytest.mark.parametrize("package", NATIVE, ids=lambda p: p.name)
def test_what_is_called_of_the_standard_library_is_included(package):
    csrc = package.folder / "csrc"
    sources = [path for path in csrc.rglob("*") if path.suffix in (".h", ".cpp", ".cu", ".cuh")]
    assert sources
    lacking = {str(path.relative_to(ROOT)): not_included(path, [csrc, ROOT / "cmake" / "include"])
               for path in sorted(sources)}  # fmt: skip
    assert {path: headers for path, headers in lacking.items() if headers} == {}


def test_a_name_that_no_header_brings_is_found(tmp_path):
    (tmp_path / "ours.h").write_text("#include <cmath>\n")
    source = tmp_path / "a.cpp"
    source.write_text(
        '#include "ours.h"\nint f() { std::copy_n(a, 3, b); return std::sqrt(2.0); }\n'
    )
    assert not_included(source, [tmp_path]) == ["algorithm"]
