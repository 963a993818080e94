"""A profile of version 0.1 is read for ever, every key of it."""

from pathlib import Path

from ffmpeg_gpu_build.build.description import PROFILE_KEYS, load_profile, resolve

PROFILE = Path(__file__).parent / "data" / "profile_0_1.toml"


def test_a_profile_of_version_0_1_is_resolved_with_what_each_key_says():
    _, table = load_profile(PROFILE)
    assert set(table) == set(PROFILE_KEYS)
    plan = resolve(PROFILE)
    assert (plan.profile, plan.version, plan.cuda) == ("profile_0_1", "9.0.2", "llvm")
    assert set(plan.components) == {"nvenc", "cuda-filters"}
    assert {"--disable-doc", "--enable-gpl"} <= set(plan.configure)
    assert plan.licence == "gpl"
    added = {(part.kind, part.name) for part in plan.parts if part.component == "profile"}
    assert added == {
        ("decoder", "h264"),
        ("decoder", "hevc"),
        ("filter", "scale"),
        ("filter", "null"),
    }
