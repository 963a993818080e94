"""What must hold for any input, tried on thousands."""

import posixpath
import tarfile
from pathlib import PurePosixPath

from hypothesis import given, settings
from hypothesis import strategies as st

from ffmpeg_gpu_build.build import source
from ffmpeg_gpu_build.build.apt import _deb822, _one_line
from ffmpeg_gpu_build.build.description import version_key
from ffmpeg_gpu_build.doctor.failures import FAILURES, diagnose
from ffmpeg_gpu_build.doctor.traps import TRAPS, recognise
from ffmpeg_gpu_build.ffmpeg import file_argument

TOP = "ffmpeg-9.9.9"
pieces = st.lists(st.sampled_from([TOP, "..", ".", "a", "b", "", "/", "-", "..."]), max_size=7)
paths = pieces.map("/".join)


@settings(max_examples=600, deadline=None)
@given(
    name=paths,
    link=paths,
    kind=st.sampled_from([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE]),
)
def test_a_member_that_is_not_refused_stays_inside(name, link, kind):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    links = {PurePosixPath(name)} if member.issym() else set()
    if source._refuse(member, TOP, links) is not None:
        return
    places = [name]
    if kind == tarfile.SYMTYPE:
        places.append(posixpath.join(posixpath.dirname(name), link))
    elif kind == tarfile.LNKTYPE:
        places.append(link)
    for place in places:
        assert not posixpath.isabs(place)
        assert posixpath.normpath(posixpath.join("/top", place)).startswith("/top/")


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1))
def test_any_file_name_is_given_to_ffmpeg_as_a_file(name):
    if name in (".", ".."):
        return
    argument = file_argument("/folder/" + name)
    assert argument == "file:/folder/" + name
    assert not file_argument(name).startswith("-")


words = [p for f in (*FAILURES, *TRAPS) for p in f.pattern.replace("\\", "").split("|")]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.text(), st.sampled_from(words)), max_size=6).map("\n".join))
def test_a_diagnosis_quotes_the_log_and_never_fails(log):
    for found in (diagnose(log), recognise(log)):
        if found:
            assert found.line in log
            assert found.sentence
            assert found.cure


@settings(max_examples=150, deadline=None)
@given(st.text())
def test_any_sources_list_can_be_read(text):
    for archive in (*_deb822(text), *_one_line(text)):
        assert archive.uri


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=5))
def test_versions_are_compared_by_their_numbers(numbers):
    assert version_key(".".join(map(str, numbers))) == tuple(numbers)
    assert version_key("12.1.14.0-1") > version_key("12.1.9")
