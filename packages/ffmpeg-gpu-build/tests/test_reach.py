"""What a reading may open besides what it was given: heard by a server on the loopback."""

import base64
import socket
import subprocess
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ffmpeg_gpu_build import FfmpegError, Video, probe, read_audio, read_frames, transcode
from ffmpeg_gpu_build.__main__ import main
from ffmpeg_gpu_build.media import pipeline, reach
from ffmpeg_gpu_build.media.graph import filters_of

ENGINES = ("pipe", "av")


class Heard(SimpleHTTPRequestHandler):
    """Serves a folder and notes what is asked for."""

    def log_message(self, *_):
        pass

    def handle(self):
        self.server.heard.append(self.client_address)
        super().handle()


@pytest.fixture(scope="module")
def folder(ffmpeg, tmp_path_factory):
    """A film of one second with a tone, in two containers."""
    folder = tmp_path_factory.mktemp("reach")
    made = ffmpeg.run(
        "-f", "lavfi", "-i", "testsrc2=s=64x48:r=10:d=1", "-f", "lavfi", "-i", "sine=d=1",
        "-c:v", "mpeg2video", "-c:a", "mp2", str(folder / "a.ts"), "-c:v", "mpeg4",
        str(folder / "a.mkv"),
    )  # fmt: skip
    assert made.ok, made.err
    return folder


@pytest.fixture
def server(folder):
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Heard, directory=str(folder))) as server:
        server.heard = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def hls(segment):
    return (
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:0\n"
        f"#EXTINF:1.0,\n{segment}\n#EXT-X-ENDLIST\n"
    )


def dash(segment):
    return (
        '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011">'
        '<Period><AdaptationSet mimeType="video/webm"><Representation id="1" bandwidth="1000">'
        f"<BaseURL>{segment}</BaseURL></Representation></AdaptationSet></Period></MPD>\n"
    )


def sdp(segment):
    port = segment.split(":")[2].partition("/")[0] if segment.count(":") > 1 else "5004"
    return (
        f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        f"m=video {port} TCP/RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    )


def forged(line):
    """HLS that has FFmpeg write a line into its log, before it says what it opened."""
    return lambda segment: hls(segment).replace("#EXT-X-V", f"{line}\n#EXT-X-V", 1)


LISTS = {
    "a.m3u8": hls,
    "b.ffconcat": lambda segment: f"ffconcat version 1.0\nfile '{segment}'\n",
    "c.mpd": dash,
    "d.sdp": sdp,
    "e.mp4": hls,  # in disguise
    "f.mp4": forged("#Input #0, mpegts, from"),
    "g.mp4": forged(("#" + "x" * 900 + "\n") * 5000),  # more than is kept of a log
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("far", [True, False], ids=["address", "file"])
@pytest.mark.parametrize("name", LISTS)
def test_a_playlist_opens_nothing_unasked(folder, server, tmp_path, name, far, engine):
    pytest.importorskip("av")
    for clip in folder.iterdir():
        (tmp_path / clip.name).write_bytes(clip.read_bytes())
    segment = f"http://127.0.0.1:{server.server_port}/a.ts" if far else "a.ts"
    file = tmp_path / name
    file.write_text(LISTS[name](segment))
    jobs = [
        lambda: list(read_frames(file, engine=engine)),
        lambda: list(read_frames(file, engine=engine, start=0.5)),
        lambda: list(read_frames(file.read_bytes(), engine=engine)),
        lambda: Video(file, engine=engine),
    ]
    if engine == "pipe":
        jobs += [
            lambda: list(read_audio(file)),
            lambda: probe(file),
            lambda: transcode(file, tmp_path / "out.mkv", hw="cpu"),
        ]
    for job in jobs:
        with pytest.raises(FfmpegError, match="urls=True") as caught:
            job()
        assert caught.value.code == "playlist"
    assert server.heard == []


@pytest.mark.parametrize("engine", ENGINES)
def test_a_playlist_opens_what_it_names_where_that_was_asked_for(folder, server, tmp_path, engine):
    pytest.importorskip("av")
    file = tmp_path / "a.m3u8"
    file.write_text(hls(f"http://127.0.0.1:{server.server_port}/a.ts"))
    assert len(list(read_frames(file, engine=engine, urls=True))) == 10
    assert server.heard
    with pytest.raises(FfmpegError):  # also what was asked for before is not open for good
        list(read_frames(file, engine=engine))
    assert probe(file, urls=True).video.size == (64, 48)
    near = folder / "near.m3u8"
    near.write_text(hls("a.ts"))
    assert len(Video(near, engine=engine, urls=True)) == 10
    with pytest.raises(FfmpegError, match="playlist"):
        Video(near, engine=engine)
    assert transcode(near, tmp_path / "o.mkv", hw="cpu", urls=True).frames == 10
    assert main(["probe", str(near)]) == 1
    assert main(["probe", "--urls", str(near)]) == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_a_picture_with_a_pattern_for_a_name_is_read_itself(ffmpeg, tmp_path, engine):
    pytest.importorskip("av")
    for name, tone in (("im1.png", "red"), ("im2.png", "red"), ("one.png", "blue")):
        source = f"color={tone}:s=16x16:d=1"
        assert ffmpeg.run("-f", "lavfi", "-i", source, "-frames:v", "1", str(tmp_path / name)).ok
    for name in ("im%d.png", "im%*.png"):
        file = (tmp_path / "one.png").rename(tmp_path / name)
        (frame,) = read_frames(file, engine=engine)
        assert frame[0, 0].argmax() == 2
        assert len(Video(file, engine=engine)) == 1
        assert probe(file).video.size == (16, 16)
        file.rename(tmp_path / "one.png")


@pytest.mark.parametrize("engine", ENGINES)
def test_an_address_longer_than_a_file_name_is_one(engine):
    pytest.importorskip("av")
    with pytest.raises(ValueError, match="urls=True opens it"):
        read_frames("http://" + "x" * 5000, engine=engine)
    with pytest.raises(FfmpegError):
        list(read_frames("lavfi:color=s=16x16:d=1," + "null," * 2000 + "nil", urls=True))


def test_a_trial_on_a_device_opens_what_the_reading_may(ffmpeg, folder, tmp_path):
    (tmp_path / "a.ts").write_bytes((folder / "a.ts").read_bytes())
    (tmp_path / "a.m3u8").write_text(hls("a.ts"))
    asked = []

    class Told(type(ffmpeg)):
        def run(self, *arguments, **options):
            asked.append(arguments)
            return super().run(*arguments, **options)

    for urls in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline, "Ffmpeg", Told)
            video = probe(tmp_path / "a.m3u8", urls=True).video
            pipeline.tried(ffmpeg, tmp_path / "a.m3u8", video, "vaapi", "", urls)
    shut, opened = asked
    assert ("-format_whitelist" in shut, "-format_whitelist" in opened) == (True, False)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_playlist_of_the_web_names_no_file_of_this_machine(folder, server, engine):
    pytest.importorskip("av")
    address = f"http://127.0.0.1:{server.server_port}"
    (folder / "far.m3u8").write_text(hls(f"{address}/a.ts"))
    (folder / "theft.m3u8").write_text(hls(f"file://{folder}/a.ts"))
    assert len(list(read_frames(f"{address}/far.m3u8", engine=engine, urls=True))) == 10
    with pytest.raises(FfmpegError):
        list(read_frames(f"{address}/theft.m3u8", engine=engine, urls=True))


@pytest.mark.parametrize("scheme", ["udp", "rtp"])
def test_a_stream_is_an_address_too_and_names_no_file(ffmpeg, folder, scheme):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"{scheme}://127.0.0.1:{port}"
    send = "rtp_mpegts" if scheme == "rtp" else "mpegts"
    command = [
        ffmpeg.path, "-v", "error", "-re", "-stream_loop", "-1", "-i", folder / "a.ts", "-c",
        "copy", "-f", send, address,
    ]  # fmt: skip
    sender = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(1)
        (frame,) = read_frames(f"{address}?timeout=60000000", urls=True, count=1, strict=False)
        assert frame.shape == (48, 64, 3)
    finally:
        sender.kill()
        sender.wait()
    assert "file" not in reach.protocols(True, address)[1].split(",")
    with pytest.raises(ValueError, match="urls=True opens it"):
        read_frames(address)


@pytest.mark.parametrize("scheme", ["rtsp", "rtsps", "srt", "rtmp", "sftp"])
def test_the_protocols_of_a_stream_are_those_of_its_kind(scheme):
    allowed = reach.protocols(True, f"{scheme}://host/a")[1].split(",")
    assert {scheme, "rtp", "udp", "tcp"} <= {*allowed}
    assert not {"file", "unix", "pipe", "fd", "concat", "subfile"} & {*allowed}


GRAPHS = (
    r"movie=http\://127.0.0.1\:{port}/a.mkv",
    "movie='http:'//127.0.0.1':{port}'/a.mkv",
    r"mo\vie=tcp\:127.0.0.1\:{port}",
    "testsrc2=d=1[a];movie@x='http://127.0.0.1:{port}/a.mkv'[b];[a][b]overlay",
    r"nullsrc=s=\[a,movie=http\\://127.0.0.1\\:{port}/a.mkv,null=\]",
    r"testsrc2=s=64x48:d=1,subtitles=http\\://127.0.0.1\\:{port}/a.srt",
    "testsrc2=s=64x48:d=1,zmq",
    "movie={folder}/a.mkv",
    "testsrc2=s=64x48:d=1,metadata=print:file={folder}/written",
    "testsrc2=s=64x48:d=1,frei0r=x",
)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("graph", GRAPHS)
def test_a_graph_of_lavfi_opens_loads_and_writes_nothing(folder, server, graph, engine):
    pytest.importorskip("av")
    text = "lavfi:" + graph.format(port=server.server_port, folder=folder)
    with pytest.raises(ValueError, match="urls=True takes any"):
        list(read_frames(text, engine=engine))
    with pytest.raises(ValueError, match="urls=True takes any"):
        list(read_audio(text))
    assert server.heard == []
    assert not (folder / "written").exists()


@pytest.mark.parametrize("engine", ENGINES)
def test_the_server_hears_a_graph_that_was_asked_for(server, engine):
    pytest.importorskip("av")
    text = f"lavfi:movie=http\\\\://127.0.0.1\\\\:{server.server_port}/a.mkv"
    assert len(list(read_frames(text, engine=engine, urls=True))) == 10
    assert server.heard


@pytest.mark.parametrize(
    "graph",
    [
        "testsrc2=s=64x48:r=10:d=1", "color=red:s=64x48,format=rgb24", "sine=440:d=1",
        "testsrc2=d=1[a];color=blue[b];[a][b]hstack=inputs=2[out0]", "smptebars, scale=64:48",
        "sws_flags=bicubic;testsrc=d=1", "testsrc@first=d=1,drawbox@x=c=red", r"geq=lum='p(X\,Y)'",
        "testsrc,rotate='if(lt(t,2),t,2)'", "testsrc,geq=lum='if(gt(X,100),Y,N)'",
        "sine,aresample=8000,afade=d=1,atempo=2", "testsrc[a];testsrc[b];[a][b]xfade,gblur",
        "sine,showwaves", "testsrc,lutyuv=y=negval,tile=2x2,tpad=stop=1",
    ],
)  # fmt: skip
def test_pictures_that_are_computed_are_graphs_as_before(graph):
    reach.refuse_graph("read_frames", graph)


CHAINS = (
    r"subtitles=http\\://127.0.0.1\\:{port}/a.srt",
    r"movie='http\://127.0.0.1\:{port}/a.mkv'[b];[in][b]overlay",
    r"removelogo=HTTP\\://127.0.0.1\\:{port}/a.png",
    r"metadata=print:file=tcp\\:127.0.0.1\\:{port}",
    r"movie=async\\:http\\:127.0.0.1\\:{port}[b];[in][b]overlay",
    "zmq=bind_address='tcp://127.0.0.1:5555'",
    "scale=64:48,zmq",
    "subtitles=/filename=address.txt",
    "subtitles=/filename =address.txt",
    r"movie='data\:application/x-mpegurl;base64,{playlist}'[b];[in][b]overlay",
    r"movie='cache\:data\:application/x-mpegurl;base64,{playlist}'[b];[in][b]overlay",
    r"movie='subfile,,start,0,end,0,,\:http\://127.0.0.1\:{port}/a.mkv'[b];[in][b]overlay",
    r"subtitles=filename='concat\:a|http\://127.0.0.1\:{port}/a.srt'",
    r"movie=f=lavfi:filename='movie=http\\\\\://127.0.0.1/a.mkv'[b];[in][b]overlay",
    r"movie=x:f=X11grab[b];[in][b]overlay",
    r"sws_flags=';movie=http\\://127.0.0.1\\:{port}/a.mkv[b];[in][b]overlay'",
    r"[in'];null['][x];movie=http\\://127.0.0.1\\:{port}/a.mkv[b];[x][b]overlay",
    "movie = x:format_opts='protocol_whitelist=http'[b];[in][b]overlay",
)


@pytest.mark.parametrize("chain", CHAINS)
def test_filters_of_a_transcode_open_no_address(folder, server, tmp_path, chain):
    address = hls(f"http://127.0.0.1:{server.server_port}/a.ts")
    playlist = base64.b64encode(address.encode()).decode()
    filters = chain.format(port=server.server_port, playlist=playlist)
    with pytest.raises(ValueError, match="transcode: filters must"):
        transcode(folder / "a.mkv", tmp_path / "o.mkv", hw="cpu", filters=filters)
    assert server.heard == []


@pytest.mark.parametrize(
    "chain",
    ["unsharp_opencl=la=1.5", "subtitles=/a/b.srt", "drawtext=text='12:30':x=4", "movie=logo.png",
     r"drawtext=text='%{pts\:hms}'", "lut3d=file=/luts/a.cube", "crop=iw/2:ih/2", "",
     r"drawtext=text='https\://example.org'", r"drawtext=text='HTTP\: ok'", "drawtext=text='UDP'",
     "subtitles=/a/my_srt:force_style='Fontsize=20,Outline=1'", "drawtext=textfile=/a/udp:reload=1",
     "subtitles=filename=/mnt=1/x.srt", "metadata=add:key=x:value='http\\://a'",
     "movie=file\\:///a/b.mkv", r"drawtext=timecode='00\:00\:00\:00':r=25"],
)  # fmt: skip
def test_filters_that_name_files_of_this_machine_are_taken(chain):
    reach.refuse_addresses("transcode", chain)


@pytest.mark.parametrize(
    "display",
    [
        "10.0.0.1:0",
        "tcp/127.0.0.1:0",
        "[::1]:0",
        "host:0.0",
        "::1:77",
        ":::1:77",
        "unix:::1:7",
        ":0:1",
    ],
)
def test_a_screen_of_another_machine_is_not_read_unasked(display):
    with pytest.raises(ValueError, match="a screen of this machine"):
        read_frames(f"x11grab:{display}")
    for own in ("", ":0", ":0.0+10,20", "unix:0", "/tmp/.X11-unix/X0", "+1,2"):
        reach.refuse_screen("read_frames", own)


@pytest.mark.parametrize(
    ("text", "filters"),
    [
        ("scale=64:48, hflip", [("scale", [("", "64"), ("", "48")]), ("hflip", [])]),
        (r"[in]a@b=x='1,2'\:3[o];[o]c", [("a", [("x", "1,2"), ("", "3")]), ("c", [])]),
        (r"[in]a@b='x=1,2:y=\'\''[o];c", [("a", [("x", "1,2"), ("y", "'[o];c")])]),
        (r"movie=a\\:b\,c:s=v", [("movie", [("", "a:b,c"), ("s", "v")])]),
        ("sws_flags=bicubic;null", [("null", [])]),
        ("sws_flags=bicubic", []),
        ("a= k = ' v ' :/x/y=1", [("a", [("k", "v"), ("/x/y", "1")])]),
        ("a='open", [("a", [("", "open")])]),
        ("a\\", [("a\\", [])]),
    ],
)
def test_a_graph_is_taken_apart_as_ffmpeg_does(text, filters):
    assert [(one.name, list(one.options)) for one in filters_of(text)] == filters
