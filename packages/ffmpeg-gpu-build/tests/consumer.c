/* What a user of the installed libraries writes: count the frames of a video. */
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <stdio.h>

int main(int argc, char **argv) {
    AVFormatContext *file = NULL;
    const AVCodec *codec = NULL;
    if (argc != 2 || avformat_open_input(&file, argv[1], NULL, NULL) < 0) return 2;
    if (avformat_find_stream_info(file, NULL) < 0) return 3;
    int stream = av_find_best_stream(file, AVMEDIA_TYPE_VIDEO, -1, -1, &codec, 0);
    if (stream < 0) return 4;
    AVCodecContext *decoder = avcodec_alloc_context3(codec);
    avcodec_parameters_to_context(decoder, file->streams[stream]->codecpar);
    if (avcodec_open2(decoder, codec, NULL) < 0) return 5;
    AVPacket *packet = av_packet_alloc();
    AVFrame *frame = av_frame_alloc();
    int frames = 0, more = 1;
    while (more) {
        more = av_read_frame(file, packet) >= 0;
        if (more && packet->stream_index != stream) continue;
        avcodec_send_packet(decoder, more ? packet : NULL);
        av_packet_unref(packet);
        while (avcodec_receive_frame(decoder, frame) >= 0) frames++;
    }
    printf("%d frames %dx%d\n", frames, decoder->width, decoder->height);
    return 0;
}
