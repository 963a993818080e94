"""Judge the FFmpeg that is present, show what its GPU filters really wrote, and encode a clip.

    python demo.py --out DIR [--ffmpeg PATH | --build-ffmpeg]

Writes verdicts.html, pictures, clip.mp4 and card.json into DIR.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ffmpeg_gpu_build import probe, read_frames, resolve, verify, write_frames
from ffmpeg_gpu_build.build import builder
from ffmpeg_gpu_build.ffmpeg import Ffmpeg
from ffmpeg_gpu_build.terminal import Line
from ffmpeg_gpu_build.verification import checks
from ffmpeg_gpu_build.verification.checks import Machine
from ffmpeg_gpu_build.verification.filter_checks import CHECKS, device_of
from ffmpeg_gpu_build.verification.report import page

COLOURS = {
    "proven": (34, 139, 84),
    "broken": (200, 44, 54),
    "not tried": (196, 142, 30),
    "absent": (196, 200, 206),
}
INK, PAPER, PALE = (28, 32, 38), (255, 255, 255), (110, 118, 129)
CODE = """\
from ffmpeg_gpu_build import verify, transcode, read_frames, write_frames

report = verify("/usr/bin/ffmpeg")            # every path: proven, absent, broken, not tried
print(report.counts())
transcode("in.mkv", "out.mp4", hw="auto")     # a stage runs on the GPU where that is proven
write_frames("clip.mp4", frames, fps=25)      # numpy or torch in ...
for frame in read_frames("clip.mp4"):         # ... and out
    ..."""


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def verdict_picture(report) -> Image.Image:
    """One tile for each path, by stage, coloured by its verdict."""
    groups: dict[str, list] = {}
    for verdict in report.verdicts:
        groups.setdefault(verdict.path.partition(".")[0], []).append(verdict)
    columns, width, height, left = 6, 172, 30, 96
    rows = sum((len(g) + columns - 1) // columns for g in groups.values())
    size = (left + columns * width + 16, 92 + rows * height + 14 * len(groups))
    image = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((16, 14), f"FFmpeg {report.facts.version}, path by path", INK, font(22))
    x = 16
    for word, number in report.counts().items():
        draw.rounded_rectangle((x, 54, x + 14, 68), 3, COLOURS[word])
        draw.text((x + 20, 52), f"{number} {word}", INK, font(15))
        x += 46 + draw.textlength(f"{number} {word}", font(15))
    y = 88
    for name, verdicts in groups.items():
        draw.text((16, y + 6), name, PALE, font(15))
        for index, verdict in enumerate(verdicts):
            tx = left + index % columns * width
            ty = y + index // columns * height
            box = (tx, ty, tx + width - 6, ty + height - 6)
            draw.rounded_rectangle(box, 5, COLOURS[verdict.status])
            label = verdict.path.partition(".")[2]
            ink = INK if verdict.status == "absent" else PAPER
            draw.text((tx + 8, ty + 4), label, ink, font(13))
        y += (len(verdicts) + columns - 1) // columns * height + 14
    return image


def luma(frame: bytes, size: tuple[int, int]) -> Image.Image:
    plane = np.frombuffer(frame[: size[0] * size[1]], np.uint8).reshape(size[1], size[0])
    return Image.fromarray(plane)


def filter_picture(machine: Machine, report, count: int = 6) -> Image.Image | None:
    """CPU filter, GPU filter and their difference, side by side, worst first."""
    judged = [v for v in report.verdicts if v.path.startswith("filter.") and "mean" in v.measured]
    broken = sorted((v for v in judged if v.status == "broken"), key=lambda v: -v.measured["mean"])
    good = [v for v in judged if v.status == "proven" and v.path != "filter.hwupload_cuda"]
    good.sort(key=lambda v: v.path not in ("filter.transpose_opencl", "filter.sobel_opencl"))
    chosen = [*broken[: count // 2], *good][:count]
    if not chosen:
        return None
    cell, gap, head = (320, 180), 12, 34
    width = 3 * (cell[0] + gap) + gap
    image = Image.new("RGB", (width, len(chosen) * (cell[1] + head) + 46), PAPER)
    draw = ImageDraw.Draw(image)
    for index, title in enumerate(("on the CPU", "on the device", "difference x 8")):
        draw.text((gap + index * (cell[0] + gap), 14), title, PALE, font(17))
    for row, verdict in enumerate(chosen):
        name = verdict.path.partition(".")[2]
        check = CHECKS[name]
        y = 46 + row * (cell[1] + head)
        runs = [checks._run_filter(machine, check, kind).out for kind in (None, device_of(name))]
        want, got = (luma(out, check.size) for out in runs)
        gap_pixels = np.abs(np.asarray(want, np.int16) - np.asarray(got, np.int16))
        gap_image = Image.fromarray(np.clip(gap_pixels * 8, 0, 255).astype(np.uint8))
        for column, picture in enumerate((want, got, gap_image)):
            shown = picture.copy()
            shown.thumbnail(cell)
            image.paste(shown.convert("RGB"), (gap + column * (cell[0] + gap), y + 24))
        draw.text((gap, y), f"{name}: {verdict.sentence}", COLOURS[verdict.status], font(15))
    return image


def film(frames: int = 75, width: int = 480, height: int = 270):
    """A small world of our own: hills, a sun on its way, and its mirror in the water."""
    y, x = np.mgrid[0:height, 0:width]
    for index in range(frames):
        time = index / frames
        sun = (width * (0.1 + 0.8 * time), height * (0.62 - 0.45 * np.sin(np.pi * time)))
        sky = np.stack([90 + 120 * y / height, 130 + 70 * y / height, 190 - 40 * y / height], 2)
        glow = np.exp(-((x - sun[0]) ** 2 + (y - sun[1]) ** 2) / 2600.0)[..., None]
        picture = sky + glow * np.array([165, 95, -60])
        for layer, shade in enumerate((0.62, 0.45, 0.3)):
            slope = 0.45 + 0.1 * layer + 0.07 * np.sin(x[0] / (47 - 9 * layer) + layer * 2 + time)
            hill = y > slope * height
            picture[hill] = np.array([60, 92, 74]) * (shade + 0.35)
        water = int(height * 0.76)
        mirror = picture[water - 1 : 2 * water - height - 1 : -1]
        ripple = (3 * np.sin(np.arange(height - water) / 2.2 + index / 3)).astype(int)
        for row in range(height - water):
            picture[water + row] = 0.62 * np.roll(mirror[row], ripple[row], axis=0) + [4, 16, 34]
        yield np.clip(picture, 0, 255).astype(np.uint8)


def clip_picture(path: Path) -> Image.Image:
    """Eight frames of the clip, as they come back out of it."""
    frames = list(read_frames(path, size=(240, 135)))
    chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, 8).astype(int)]
    sheet = Image.new("RGB", (4 * 246 + 6, 2 * 141 + 6), PAPER)
    for index, frame in enumerate(chosen):
        at = (6 + index % 4 * 246, 6 + index // 4 * 141)
        sheet.paste(Image.fromarray(frame), at)
    return sheet


def card(out: Path, report, clip: Path, pictures: list[dict[str, str]]) -> dict:
    counts, facts = report.counts(), report.facts
    figures = [{"label": f"paths {word}", "value": str(n)} for word, n in counts.items()]
    floor = facts.nvenc_driver_floor
    figures.append({"label": "NVENC needs driver", "value": floor or "no NVENC"})
    if facts.ptx:
        ptx = f"PTX {facts.ptx['version']}, {facts.ptx['target']}"
        figures.append({"label": "CUDA filters", "value": ptx})
    media = probe(clip)
    kilobytes = clip.stat().st_size // 1024
    figures.append({"label": "clip", "value": f"{media.frames} frames, {kilobytes} KiB"})
    return {
        "title": "ffmpeg-gpu-build",
        "summary": f"Every hardware path of FFmpeg {facts.version} on this machine was run and its "
        f"pixels compared with the CPU's: {counts['proven']} proven, {counts['broken']} broken "
        f"with "
        "exit code 0 or an error, the rest absent or not tried. Then frames made with numpy were "
        "encoded into a clip and read back. verdicts.html has the whole table with each command.",
        "figures": figures,
        "beside": {
            "result": "frames-2026-11-30.json",
            "case": "read 120 frames, engine av",
            "time": "cpu_ms",
        },
        "pictures": pictures,
        "code": CODE,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ffmpeg", help="default: $FFMPEG, PATH, imageio-ffmpeg")
    parser.add_argument("--build-ffmpeg", action="store_true", help="build `small` first (minutes)")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    line = Line()
    if arguments.build_ffmpeg:
        plan = resolve("small")
        prefix = out.absolute() / "ffmpeg"
        work = builder.default_work(plan)
        options = builder.Options(
            prefix=prefix, work=work, jobs=os.cpu_count() or 2, tell=line.step
        )
        arguments.ffmpeg = builder.build(plan, options).prefix
    program = Ffmpeg.at(arguments.ffmpeg)
    print(f"judging {program.path} ...", file=sys.stderr)
    report = verify(program, progress=lambda n, total, v: line.show(f"{n}/{total} {v.path}"))
    line.clear()
    (out / "verdicts.html").write_text(page(report), encoding="utf-8")
    (out / "verdicts.json").write_text(json.dumps(report.as_dict(), indent=1), encoding="utf-8")
    print("pictures ...", file=sys.stderr)
    verdict_picture(report).save(out / "verdicts.png")
    pictures = [{"file": "verdicts.png", "caption": "each path of this FFmpeg and its verdict"}]
    shown = filter_picture(Machine(program, {}, report.gpu), report)
    if shown:
        shown.save(out / "filters.png")
        text = "the same frame by the CPU filter and by the device, broken paths first"
        pictures.append({"file": "filters.png", "caption": text})
    print("clip ...", file=sys.stderr)
    clip = out / "clip.mp4"
    write_frames(clip, film(), fps=25, hw="auto", ffmpeg=program, overwrite=True)
    clip_picture(clip).save(out / "clip.png")
    text = "eight frames of clip.mp4: made with numpy, encoded, decoded"
    pictures.append({"file": "clip.png", "caption": text})
    content = card(out, report, clip, pictures)
    (out / "card.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
