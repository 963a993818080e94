"""One name for one idea: commands and signatures of all packages use CONTRIBUTING's words."""

import argparse
import contextlib
import importlib
import inspect
import re
import types
import warnings
from collections.abc import Callable, Iterator

import pytest
import workspace

PACKAGES = workspace.packages()
ROWS = re.findall(
    r"^\| `(\w+)` \|.*\| (`\w+`(?:, `\w+`)*) \|$",
    (workspace.ROOT / "CONTRIBUTING.md").read_text().split("### Words")[1],
    re.M,
)
INSTEAD = {other: name for name, others in ROWS for other in re.findall(r"\w+", others)}
COMMANDS = {"tp_parallel": ("pretrain", "generate", "convert")}  # that parse for themselves


class Parser(BaseException):
    """What a command would have parsed with."""


def parser_of(main: Callable[[list[str]], int], words: list[str]) -> argparse.ArgumentParser:
    """The parser of `main`, taken when it is about to parse."""

    def taken(self, *args, **kwargs):
        raise Parser(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_known_args", taken)
        with pytest.raises(Parser) as found:
            main(words)
    return found.value.args[0]


def commands(package: workspace.Package) -> dict[str, argparse.ArgumentParser]:
    """Every parser of a package by what is typed before its options."""
    main = importlib.import_module(f"{package.import_name}.__main__").main
    own = COMMANDS.get(package.import_name)
    tops = {name: parser_of(main, [name]) for name in own} if own else {"": parser_of(main, [])}
    for name, parser in list(tops.items()):
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                tops |= {f"{name} {sub}".strip(): p for sub, p in action.choices.items()}
    return tops


def options(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Those that the help shows, by their long name in Python's spelling."""
    return {
        name[2:].replace("-", "_"): action
        for action in parser._actions
        if action.help != argparse.SUPPRESS or action.dest == "json"
        for name in action.option_strings
        if name.startswith("--")
    }


def is_right(name: str, action: argparse.Action) -> bool:
    if name == "out":
        return "-o" in action.option_strings
    if name in ("overwrite", "resume"):
        return action.nargs == 0
    if name == "json":
        return action.nargs in (0, "?")
    if name in ("seed", "threads", "jobs"):
        return callable(action.type)
    return "-o" not in action.option_strings


def signatures(package: workspace.Package) -> Iterator[tuple[str, inspect.Parameter]]:
    """Parameters of what a package exports, and of the public methods of its classes."""
    module = importlib.import_module(package.import_name)
    todo = [(name, getattr(module, name)) for name in module.__all__]
    for name, thing in todo:
        if isinstance(thing, types.ModuleType):
            inner = {n: v for n, v in vars(thing).items() if not n.startswith("_")}
            mine = {
                n: v for n, v in inner.items() if getattr(v, "__module__", "") == thing.__name__
            }
            todo += [(f"{name}.{n}", v) for n, v in mine.items() if callable(v)]
        elif callable(thing):
            if inspect.isclass(thing):
                methods = {n: v for n, v in vars(thing).items() if not n.startswith("_")}
                todo += [(f"{name}.{n}", v) for n, v in methods.items() if inspect.isfunction(v)]
            try:
                found = inspect.signature(thing).parameters.values()
            except (TypeError, ValueError):  # of a built-in class
                continue
            yield from ((name, parameter) for parameter in found)


def test_the_table_has_the_words():
    assert {"out", "overwrite", "device", "dtype", "threads", "seed", "progress", "json"} <= {
        name for name, _ in ROWS
    }
    assert INSTEAD["output"] == "out"


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_commands_use_the_words(package):
    found = commands(package)
    assert found
    shown = [(c, n, a) for c, parser in found.items() for n, a in options(parser).items()]
    assert not [f"{c} --{n}: say --{INSTEAD[n]}" for c, n, _ in shown if n in INSTEAD]
    assert not [f"{command} --{name}" for command, name, a in shown if not is_right(name, a)]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_the_help_says_what_each_command_does_and_each_option_means(package):
    found = commands(package)
    assert not [command for command, parser in found.items() if not parser.description]
    shown = [(c, a) for c, parser in found.items() for a in parser._actions]
    shown = [(c, a) for c, a in shown if not isinstance(a, argparse._SubParsersAction)]
    assert len(shown) > len(found)
    assert not [f"{c} {a.option_strings or a.dest}" for c, a in shown if not a.help]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_a_command_tells_its_version(package, capsys):
    main = importlib.import_module(f"{package.import_name}.__main__").main
    with contextlib.suppress(SystemExit):
        assert main(["--version"]) == 0
    version = (workspace.ROOT / "VERSION").read_text().strip()
    assert capsys.readouterr().out.startswith(f"{package.name} {version}")


FORMER = {"bar"}  # names that are still accepted, with a warning


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_signatures_use_the_words(package):
    found = list(signatures(package))
    assert len(found) > 50
    assert not [
        f"{where}({p.name}=): say {INSTEAD[p.name]}"
        for where, p in found
        if p.name in INSTEAD and p.name not in FORMER
    ]
    kinds = {"progress": r"bool|Callable", "overwrite": "bool", "resume": "bool"}
    for where, p in found:
        if p.name in kinds and p.annotation is not p.empty:
            assert re.search(kinds[p.name], str(p.annotation)), f"{where}({p.name}: {p.annotation})"


@pytest.mark.parametrize(
    ("package", "words", "dest"),
    [
        ("nanite_cull", ["build", "sphere", "--output", "a.ncl"], "out"),
        ("nanite_cull", ["render", "sphere", "--output", "a.png"], "out"),
        ("spconv_lite", ["voxelize", "a.bin", "--output", "a.png"], "out"),
        ("resnet_zoo", ["export", "resnet18", "--onnx", "a.onnx"], "out"),
        ("resnet_zoo", ["train", "a", "--valid", "b", "-o", "c", "--restart"], "overwrite"),
    ],
)
def test_an_option_counts_under_its_former_name_and_says_the_new_one(package, words, dest, capsys):
    parser = parser_of(importlib.import_module(f"{package}.__main__").main, [])
    given = getattr(parser.parse_args(words), dest)
    assert str(given) == words[-1] or given is True
    assert f"{words[-2 if dest == 'out' else -1]} is called --{dest} now" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parser.parse_args([words[0], "--help"])
    assert words[-2 if dest == "out" else -1] not in capsys.readouterr().out


def test_an_argument_counts_under_its_former_name_with_a_warning(tmp_path):
    from convlstm import models
    from convlstm.forecasting import Trainer, TrainOptions
    from convlstm.forecasting.data import MovingSquares

    source, options = MovingSquares(6, (8, 8)), TrainOptions(steps=1, batch=1)
    with pytest.warns(DeprecationWarning, match=r"(bar|folder)= is called \w+= now") as caught:
        former = Trainer(
            models.next_frame("small", size=(8, 8)), source, options, folder=tmp_path, bar=False
        )
    assert len(caught) == 2
    assert all(warning.filename == __file__ for warning in caught)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = models.next_frame("small", size=(8, 8))
        now = Trainer(model, source, options, tmp_path, progress=False)
    assert (former.folder, former.bar) == (now.folder, now.bar) == (tmp_path, False)
