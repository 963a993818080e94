"""The `resnet-zoo` command: predict, list, info, summary, draw, export, bench, train, weights.

Results go to stdout, progress and notes to stderr. Exit codes: 0 done, 1 some files failed (under
torchrun that is told on stderr only), 2 wrong use or a failure that is explained in one sentence.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from . import __version__
from .distributed import pick_device, world
from .files import replacing, write_text
from .inference.optimization import ENGINES as _ENGINES
from .inference.optimization import optimize
from .models.builders import get_model, get_weight, list_models
from .models.resnet import ResNet, input_channels
from .pictures.transforms import ImageClassification
from .weights.cache import Remote, WeightsError, cache_dir, check
from .weights.names import LICENCE_NOTE, WEIGHTS, WeightsEnum
from .weights.sources import resolve

EXAMPLES = {
    "predict": (
        "cat.jpg --model resnet50 --top-k 3",
        "photos/ --weights run/best.safetensors --json -o guesses.jsonl",
        "photos/ --optimize fast --engine auto --decode fast",
    ),
    "list": ("", '"resnext*" --json'),
    "info": ("ResNet50_Weights.IMAGENET1K_V2",),
    "summary": ("resnet50 --depth stage", "run/best.safetensors --size 32"),
    "draw": ("resnet50", "resnet50 -o resnet50.svg"),
    "export": ("resnet50 -o r50.onnx", "run/best.safetensors -o mine.onnx --size 96"),
    "bench": ("resnet50 --batch 8 --threads 1", "resnet18 --engine auto"),
    "weights": ("download resnet50", "verify", "path ResNet18_Weights.DEFAULT"),
    "train": (
        "flowers/train --valid flowers/test -o run --set epochs=10",
        "digits.npz --valid held.npz -o run --preset small --overwrite",
    ),
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    warnings.showwarning = _show_warning
    try:
        code = options.run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader of stdout left: `resnet-zoo list | head`
        _leave_stdout()
        return 0
    except (WeightsError, ValueError, TypeError, RuntimeError, OSError) as error:
        print(f"resnet-zoo {options.command}: {error}", file=sys.stderr)
        _leave_stdout()
        return 2
    except KeyboardInterrupt:
        print("resnet-zoo: interrupted", file=sys.stderr)
        return 130


def _leave_stdout() -> None:
    """What could not be printed is dropped: Python tries again at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    """One line on stderr, without the place in our source."""
    print(message, file=sys.stderr)


class Renamed(argparse.Action):
    """An option under its former name: it counts, and a line on stderr tells the new one."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        print(f"{parser.prog}: {option_string} is called --{self.dest} now", file=sys.stderr)
        setattr(namespace, self.dest, values if self.nargs != 0 else True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="resnet-zoo",
        description="ResNet, ResNeXt and Wide ResNet: predict, inspect, train.",
        epilog="example: resnet-zoo predict cat.jpg --model resnet50 --top-k 3",
    )
    parser.add_argument("--version", action="version", version=f"resnet-zoo {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[Any], int], text: str) -> argparse.ArgumentParser:
        examples = "\n".join(f"  resnet-zoo {name} {rest}".rstrip() for rest in EXAMPLES[name])
        sub = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run)
        return sub

    _predict_arguments(command("predict", _predict, "classify image files or folders"))
    listing = command("list", _list, "models and their published weights")
    listing.add_argument("pattern", nargs="?", default="*", help='shell pattern, e.g. "resnext*"')
    listing.add_argument("--json", action="store_true", help="for machines")
    info = command("info", _info, "what is known about one set of weights")
    info.add_argument("weights", help="e.g. ResNet50_Weights.IMAGENET1K_V2, or a model's name")
    summary = command("summary", _summary, "a table of shapes, parameters and MACs")
    _model_arguments(summary)
    depths = ("stage", "block", "layer")
    summary.add_argument("--depth", choices=depths, default="block", help="what a row stands for")
    draw = command("draw", _draw, "draw the structure, as SVG (-o FILE.svg) or text")
    _model_arguments(draw)
    draw.add_argument("-o", "--out", type=Path, help="SVG file; text on stdout without it")
    export = command("export", _export, "write the model as ONNX")
    _model_arguments(export)
    export.add_argument("--weights", help="as for predict; DEFAULT is the default")
    out = export.add_mutually_exclusive_group(required=True)
    out.add_argument("-o", "--out", type=Path, metavar="FILE.onnx", help="the file to write")
    out.add_argument("--onnx", dest="out", action=Renamed, type=Path, help=argparse.SUPPRESS)
    export.add_argument("--fixed-batch", action="store_true", help="N = 1 instead of any N")
    export.add_argument("--offline", action="store_true", default=None, help="no downloads")
    bench = command("bench", _bench, "time the ways to run a model on this machine")
    _model_arguments(bench)
    bench.add_argument("--batch", type=_positive, default=1, metavar="N", help="pictures at once")
    levels, dtypes = ("fold", "fast", "max"), ("float32", "bfloat16", "float16")
    bench.add_argument("--level", choices=levels, default="fast", help="of optimize()")
    bench.add_argument("--dtype", choices=dtypes, default="float32", help="of optimize()")
    bench.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    bench.add_argument("--engine", choices=_ENGINES, default="torch", help="of optimize()")
    bench.add_argument("--threads", type=_positive, help="torch's threads on the CPU")
    _weights_arguments(command("weights", _weights, "download, verify or locate weight files"))
    _train_arguments(command("train", _train, "train on an image folder or an array file"))
    return parser


def _positive(text: str) -> int:
    """An argument that is a whole number of at least 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def _count(text: str) -> int:
    """An argument that is a whole number, 0 too."""
    return 0 if text == "0" else _positive(text)


def _model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a model's name, or a file that training wrote")
    parser.add_argument("--size", type=_positive, default=224, help="height and width of the input")
    stems = ("imagenet", "small")
    parser.add_argument("--stem", choices=stems, help="small: for pictures of about 32 pixels")


def _built(options: Any, device: str) -> ResNet:
    """The model of a file, or of a name, without downloading anything."""
    from .models.builders import load_model

    changes = {"stem": options.stem} if options.stem else {}
    if Path(options.model).is_file():
        return load_model(options.model, **changes)
    with torch.device(device):
        return get_model(options.model, **changes)


def _structure(options: Any) -> tuple[ResNet, tuple[int, int, int, int]]:
    """The model of a name or file, and an input shape for it."""
    model = _built(options, "meta")  # shapes are enough: no memory, no initialisation
    return model, (1, input_channels(model), options.size, options.size)


def _predict_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", metavar="IMG", help="image files or folders")
    parser.add_argument("--model", help="e.g. resnet50 (the default without a trained file)")
    parser.add_argument(
        "--weights", help="entry, file, address or Hugging Face repo; DEFAULT is the default"
    )
    parser.add_argument("--top-k", type=_positive, default=5, metavar="K", help="guesses of each")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("-o", "--out", type=Path, help="write JSON lines into this file")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--batch", type=_positive, default=8, metavar="N", help="images at once")
    parser.add_argument("--offline", action="store_true", default=None, help="no downloads")
    parser.add_argument("--optimize", choices=("fold", "fast", "max"), help="run a faster model")
    parser.add_argument("--engine", choices=_ENGINES, default="torch", help="with --optimize")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16", "int8"),
        default="float32",
        help="with --optimize; int8 is calibrated on the first pictures given",
    )
    parser.add_argument(
        "--decode",
        choices=("exact", "fast"),
        default="exact",
        help="fast: large JPEGs are decoded at a fraction of their size; the pixels differ",
    )
    parser.add_argument(
        "--workers",
        type=_count,
        help="decoding threads; as torch by default, 0 for one picture after the other",
    )
    parser.add_argument("--cam", type=Path, metavar="DIR", help="write Grad-CAM overlays (PNG)")


def _predict(options: Any) -> int:
    from .inference.predict import find_images, first_pictures, open_model, predict, write_shared

    for name, usual in (("dtype", "float32"), ("engine", "torch")):
        if (value := getattr(options, name)) != usual and not options.optimize:
            raise ValueError(f"--{name} {value} goes with --optimize fast (or max)")
    if options.out is not None and options.out.is_dir():
        raise ValueError(f"--out must be a file to write, {options.out} is a folder")
    if options.cam is not None and options.cam.exists() and not options.cam.is_dir():
        raise ValueError(f"--cam must be a folder for pictures, {options.cam} is a file")

    files = find_images(options.images)
    with world(options.device) as here:
        if here.size > 1 and options.out is None:
            raise ValueError("several processes write one result file: say -o FILE")
        model = open_model(options.model, options.weights, offline=options.offline).to(here.device)
        categories = model.source.categories()
        if categories is not None and len(categories) != model.fc.out_features:
            categories = None
        transforms = model.source.transforms()
        runner: torch.nn.Module = model
        if options.optimize:
            side = transforms.crop_size
            sides = (side, side) if isinstance(side, int) else side
            shape = (options.batch, input_channels(model), *sides)
            chosen: dict[str, Any] = {"dtype": getattr(torch, options.dtype)}
            if options.dtype == "int8":
                chosen["calibration"] = first_pictures(files, transforms, options.decode)
            runner = optimize(
                model, options.optimize, example=shape, engine=options.engine, **chosen
            )
            print(runner.report, file=sys.stderr)
        mine = files[here.rank :: here.size]
        rows = predict(
            runner,
            mine,
            transforms=transforms,
            categories=categories,
            k=options.top_k,
            batch_size=options.batch,
            device=here.device,
            decode=options.decode,
            workers=options.workers,
        )
        if options.out is not None:
            failed = write_shared(rows, options.out, here, len(mine))
            if failed and here.first:
                told = f'{failed} of {len(files)} files have an "error" in {options.out}'
                print(f"resnet-zoo predict: {told}", file=sys.stderr)
        else:
            failed = sum(_print_row(row, options.json) for row in rows)
        if options.cam is not None and here.first:
            _overlays(model, files, options.cam, transforms)
    # torchrun would call any other code of a process a crash, in forty lines
    return 1 if failed and here.size == 1 else 0


def _print_row(row: dict[str, Any], as_json: bool) -> bool:
    """Print one result; True if it is an error."""
    from .inference.predict import json_line

    if as_json:
        print(json_line(row), flush=True)
    elif "error" in row:
        print(f"{row['file']}: {row['error']}", file=sys.stderr)
    else:
        print(row["file"].encode(errors="backslashreplace").decode())
        for guess in row["predictions"]:
            print(f"  {guess['probability']:7.2%}  {guess['category']}")
    return "error" in row


def _overlays(
    model: ResNet, files: list[Path], folder: Path, transforms: ImageClassification
) -> None:
    """One PNG for each readable image: what the model saw, with the heat of its first guess."""
    from PIL import Image

    from .pictures.images import open_image
    from .seeing.gradcam import grad_cam, overlay

    folder.mkdir(parents=True, exist_ok=True)
    device = next(model.parameters()).device
    written: set[str] = set()
    for path in files:
        try:
            image = transforms(open_image(path))
        except ValueError:  # told by predict
            continue
        heat, _ = grad_cam(model, image[None].to(device))
        seen = (transforms.denormalize(image) * 255).round().to(torch.uint8).expand(3, -1, -1)
        size = (seen.shape[2], seen.shape[1])
        picture = Image.frombytes("RGB", size, bytes(seen.permute(1, 2, 0).flatten().tolist()))
        name, number = f"{path.stem}-cam.png", 1
        while name in written:  # pictures of the same name in several folders
            number += 1
            name = f"{path.stem}-{number}-cam.png"
        written.add(name)
        with replacing(folder / name) as aside:
            overlay(picture, heat[0]).save(aside, format="PNG")


def _list(options: Any) -> int:
    entries = [entry for name in list_models(options.pattern) for entry in WEIGHTS[name]]
    if not entries:
        raise _unpublished(options.pattern) or ValueError(
            f"no model matches {options.pattern!r}; try: resnet-zoo list"
        )
    if options.json:
        print(json.dumps([_describe(entry) for entry in entries], indent=1))
        return 0
    print(
        f"{'model':<18} {'weights':<15} {'top-1':>7} {'top-5':>7} {'M param':>8} "
        f"{'GMAC':>7} {'MiB':>7}"
    )
    for entry in entries:
        record = entry.value
        star = "*" if entry is type(entry)["DEFAULT"] else " "
        print(
            f"{record.model:<18} {entry.name + star:<15} {record.acc1:>7.3f} {record.acc5:>7.3f} "
            f"{record.num_params / 1e6:>8.1f} {record.gmacs:>7.2f} {record.megabytes:>7.1f}"
        )
    print("* what DEFAULT means; accuracies are upstream's, on ImageNet-1K")
    return 0


def _describe(entry: WeightsEnum) -> dict[str, Any]:
    meta = {key: value for key, value in entry.meta.items() if key != "categories"}
    return {"entry": str(entry), "model": entry.value.model, "url": entry.url, **meta}


def _entries(name: str) -> list[WeightsEnum]:
    """The entry of a full name, or all entries of a model."""
    return [get_weight(name)] if "." in name else list(WEIGHTS[_model_name(name)])


def _model_name(name: str) -> str:
    if name not in WEIGHTS:
        raise _unpublished(name) or ValueError(
            f"there is no model {name!r}; there are {', '.join(WEIGHTS)}"
        )
    return name


def _unpublished(pattern: str) -> ValueError | None:
    """The error of a variant, whose weights torchvision does not publish; None for what is none."""
    for name in list_models(pattern, variants=True):
        return ValueError(
            f"{name} has no weights among torchvision's. Cure: name a file or a Hugging Face repo, "
            "as in predict --model NAME --weights timm/..."
        )
    return None


def _info(options: Any) -> int:
    for entry in _entries(options.weights):
        record, path = entry.value, cache_dir() / entry.value.file_name
        facts = {
            str(entry): "(DEFAULT)" if entry is type(entry)["DEFAULT"] else "",
            "model": record.model,
            "accuracy": f"top-1 {record.acc1} %, top-5 {record.acc5} % (ImageNet-1K, upstream's)",
            "parameters": f"{record.num_params:,}",
            "cost": f"{record.gmacs} GMAC for one image",
            "transforms": entry.transforms(),
            "recipe": record.recipe,
            "licence": LICENCE_NOTE,
            "address": f"{entry.url} ({record.megabytes} MiB)",
            "file": f"{path} ({'there' if path.exists() else 'not downloaded'})",
        }
        for name, fact in facts.items():
            print(f"{name:<11} {fact}")
        print()
    return 0


def _summary(options: Any) -> int:
    from .seeing.summary import summary

    model, shape = _structure(options)
    print(summary(model, shape, options.depth))
    return 0


def _draw(options: Any) -> int:
    from .seeing.draw import draw_svg, draw_text

    model, shape = _structure(options)
    if options.out is None:
        print(draw_text(model, shape))
        return 0
    if options.out.suffix != ".svg":
        raise ValueError(f"--out must end in .svg, got {options.out}")
    write_text(options.out, draw_svg(model, shape, Path(options.model).stem))
    print(options.out)
    return 0


def _export(options: Any) -> int:
    from .inference.export import export_onnx
    from .inference.predict import open_model

    changes: dict[str, Any] = {"stem": options.stem} if options.stem else {}
    if not Path(options.model).is_file():
        changes["offline"] = options.offline
        model = open_model(options.model, options.weights, **changes)
    elif options.weights is None:
        model = open_model(None, options.model, **changes)
    else:
        raise ValueError(
            f"--weights {options.weights} goes with a model's name; {options.model} is a file with "
            "weights of its own. Cure: leave out --weights, or name the model"
        )
    dynamic = not options.fixed_batch
    print(export_onnx(model, options.out, size=options.size, dynamic_batch=dynamic))
    return 0


def _bench(options: Any) -> int:
    """A file's model, or a name's with random weights and calibrated norms: as fast as trained."""
    if options.threads:
        torch.set_num_threads(options.threads)
    device = pick_device(options.device)
    model = _built(options, "cpu").to(device)
    shape = (options.batch, input_channels(model), options.size, options.size)
    if not Path(options.model).is_file():
        with torch.no_grad():
            model.train()(torch.randn(4, shape[1], 64, 64, device=device))
    dtype = getattr(torch, options.dtype)
    chosen = {"dtype": dtype, "example": shape, "engine": options.engine}
    print(optimize(model.eval(), options.level, **chosen).report)
    return 0


def _weights_arguments(parser: argparse.ArgumentParser) -> None:
    actions = ("download", "verify", "path")
    parser.add_argument("action", choices=actions, help="path: where a file would lie")
    parser.add_argument(
        "weights",
        nargs="*",
        help="entries, models, addresses or repos; verify alone takes all files",
    )
    parser.add_argument("--offline", action="store_true", default=None, help="no downloads")


def _weights(options: Any) -> int:
    if options.action == "verify" and not options.weights:
        entries = [entry for kind in WEIGHTS.values() for entry in kind]
        return _verify([e.remote() for e in entries if (cache_dir() / e.value.file_name).exists()])
    if not options.weights:
        raise ValueError(f"say which: resnet-zoo weights {options.action} resnet50")
    if options.action == "verify":
        return _verify([remote for name in options.weights for remote in _remotes(name)])
    if options.action == "download":
        print(f"resnet-zoo: licence note: {LICENCE_NOTE}", file=sys.stderr)
    for name in options.weights:
        entry = WEIGHTS[name]["DEFAULT"] if name in WEIGHTS else name
        source = resolve(entry, offline=options.offline)
        print(source.path() if options.action == "download" else source.location())
    return 0


def _remotes(name: str) -> list[Remote]:
    """All entries of a model, or the one thing that `name` stands for."""
    if name in WEIGHTS:
        return [entry.remote() for entry in WEIGHTS[name]]
    remote = resolve(name).remote()
    if remote is None:
        raise ValueError(f"{name} is a file of your own: there is no hash to compare it with")
    return [remote]


def _verify(remotes: list[Remote]) -> int:
    """Hash the files in the cache; exit code 1 if one is missing or damaged."""
    bad = 0
    for remote in remotes:
        path = cache_dir() / remote.name
        fault = check(path, remote) if path.is_file() else "it is not there"
        bad += fault is not None
        print(f"{'bad ' if fault else 'good'}  {path}" + (f": {fault}" if fault else ""))
    if not remotes:
        print(f"no published weights in {cache_dir()}")
    return 1 if bad else 0


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    from .training import PRESETS

    parser.add_argument("data", type=Path, help="folder DIR/CLASS/*.jpg, or .npz or .safetensors")
    parser.add_argument("--valid", type=Path, required=True, help="the same for validation")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder for the run")
    presets = tuple(PRESETS)
    parser.add_argument("--preset", choices=presets, default="finetune", help="the recipe's values")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="change one choice of resnet_zoo.training.Recipe, e.g. --set epochs=10",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="start anew in place of OUT's run (else it goes on)",
    )
    parser.add_argument(
        "--restart", dest="overwrite", action=Renamed, nargs=0, help=argparse.SUPPRESS
    )


def _train(options: Any) -> int:
    from .training import Recipe, open_source, train

    changes: dict[str, Any] = {}
    for item in options.set:
        name, equals, text = item.partition("=")
        if not equals or name not in Recipe.__dataclass_fields__:
            names = ", ".join(Recipe.__dataclass_fields__)
            raise ValueError(f"--set {item}: NAME=VALUE with NAME one of {names}")
        try:
            changes[name] = json.loads(text)
        except ValueError:
            changes[name] = text
    pick_device(options.device)
    source = open_source(options.data)
    result = train(
        source,
        open_source(options.valid, like=source),
        Recipe.preset(options.preset, **changes),
        options.out,
        device=options.device,
        resume=not options.overwrite,
    )
    print(
        f"top-1 {result.top1:.2f} %  top-5 {result.top5:.2f} %  best {result.best_top1:.2f} %  "
        f"{result.seconds:.0f} s  {result.weights}"
    )
    return 0
