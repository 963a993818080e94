/* libnvcuvid.so.1 that takes every picture and decodes none.
 *
 *   STUB_DECODERS=4,8   the cudaVideoCodec numbers it says it supports (default: all)
 *   STUB_MAX_WIDTH=n    the widest picture it says it takes (default 8192)
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    int codec, chroma;
    unsigned depth_minus_8, reserved_1[3];
    unsigned char supported, engines;
    unsigned short formats;
    unsigned max_width, max_height, max_macroblocks;
    unsigned short min_width, min_height;
    unsigned reserved_2[16];
} caps;   /* CUVIDDECODECAPS */

static int listed(int codec) {
    const char *text = getenv("STUB_DECODERS");
    if (!text) return 1;
    char copy[256];
    snprintf(copy, sizeof copy, "%s", text);
    for (char *word = strtok(copy, ","); word; word = strtok(NULL, ","))
        if (atoi(word) == codec) return 1;
    return 0;
}

int cuvidGetDecoderCaps(caps *c) {
    const char *width = getenv("STUB_MAX_WIDTH");
    c->supported = listed(c->codec);
    c->engines = 7;
    c->formats = 0xf;
    c->max_width = width ? atoi(width) : 8192;
    c->max_height = 8192;
    c->max_macroblocks = 262144;
    c->min_width = c->min_height = 16;
    return 0;
}

static char a_decoder;
int cuvidCreateDecoder(void **out, void *info) { *out = &a_decoder; return 0; }
int cuvidCtxLockCreate(void **out, void *context) { *out = &a_decoder; return 0; }

enum { PITCH = 512, ROWS = 4096 };
int cuvidMapVideoFrame64(void *decoder, int index, uintptr_t *memory, unsigned *pitch, void *parameters) {
    static char picture[PITCH * ROWS];   /* all zero: one flat colour */
    *memory = (uintptr_t) picture;
    *pitch = PITCH;
    return 0;
}
