/* A driver without a GPU: what it answers is read from the environment.
 *
 *   STUB_CUINIT=n     result of cuInit          STUB_DEVICES=n    number of GPUs
 *   STUB_CC=9.0       compute capability        STUB_NAME=text    name of each GPU
 *   STUB_MODULE=n     result of cuModuleLoadData
 *   STUB_MEMORY=n     result of cuMemAlloc      STUB_CORRUPT=1    spoil what is copied to the host
 *
 * Memory is the host's, so frames travel up and down unchanged; kernels do nothing.
 * Every other function that FFmpeg looks up is a weak one that returns 0 (generated).
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uintptr_t ptr;

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

static const struct { int code; const char *name; } NAMES[] = {
    {2, "CUDA_ERROR_OUT_OF_MEMORY"}, {100, "CUDA_ERROR_NO_DEVICE"},
    {101, "CUDA_ERROR_INVALID_DEVICE"}, {200, "CUDA_ERROR_INVALID_IMAGE"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU"}, {218, "CUDA_ERROR_INVALID_PTX"},
    {222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"}, {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"},
    {804, "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE"}, {999, "CUDA_ERROR_UNKNOWN"},
};

int cuGetErrorName(int code, const char **out) {
    *out = "CUDA_ERROR_OF_THE_STUB";
    for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++)
        if (NAMES[i].code == code) *out = NAMES[i].name;
    return 0;
}
int cuGetErrorString(int code, const char **out) { *out = "as the stub was told"; return 0; }

int cuInit(unsigned flags) { return number("STUB_CUINIT", 0); }
int cuDriverGetVersion(int *out) { *out = 13000; return 0; }
int cuDeviceGetCount(int *out) { *out = number("STUB_DEVICES", 1); return 0; }
int cuDeviceGet(int *out, int index) {
    *out = index;
    return index < number("STUB_DEVICES", 1) ? 0 : 101;
}
int cuDeviceGetName(char *out, int size, int device) {
    const char *name = getenv("STUB_NAME");
    snprintf(out, size, "%s", name ? name : "Stub GPU");
    return 0;
}
static void capability(int *major, int *minor) {
    const char *text = getenv("STUB_CC");
    if (!text || sscanf(text, "%d.%d", major, minor) != 2) *major = 8, *minor = 9;
}
int cuDeviceComputeCapability(int *major, int *minor, int device) {
    capability(major, minor);
    return 0;
}
int cuDeviceGetAttribute(int *out, int attribute, int device) {
    int major, minor;
    capability(&major, &minor);
    *out = attribute == 75 ? major : attribute == 76 ? minor : attribute == 14 ? 512 : 0;
    return 0;
}

static char a_context;
static ptr current;
int cuCtxCreate_v2(ptr *out, unsigned flags, int device) {
    *out = (ptr) &a_context;
    return 0;
}
int cuDevicePrimaryCtxRetain(ptr *out, int device) { *out = (ptr) &a_context; return 0; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) {
    *flags = 0, *active = 0;
    return 0;
}
int cuCtxPushCurrent_v2(ptr context) { current = context; return 0; }
int cuCtxPopCurrent_v2(ptr *out) { if (out) *out = current; return 0; }

int cuMemAlloc_v2(ptr *out, size_t size) {
    int code = number("STUB_MEMORY", 0);
    if (code == 0) *out = (ptr) calloc(1, size);
    return code;
}
int cuMemAllocPitch_v2(ptr *out, size_t *pitch, size_t width, size_t height, unsigned element) {
    *pitch = (width + 511) / 512 * 512;
    return cuMemAlloc_v2(out, *pitch * height);
}
int cuMemFree_v2(ptr memory) { free((void *) memory); return 0; }

typedef struct {
    size_t src_x, src_y; int src_kind; const void *src_host; ptr src_device, src_array; size_t src_pitch;
    size_t dst_x, dst_y; int dst_kind; void *dst_host; ptr dst_device, dst_array; size_t dst_pitch;
    size_t width, height;
} copy_2d;   /* CUDA_MEMCPY2D */

int cuMemcpy2D_v2(const copy_2d *c) {
    enum { HOST = 1 };
    const char *from = c->src_kind == HOST ? c->src_host : (const char *) c->src_device;
    char *to = c->dst_kind == HOST ? c->dst_host : (char *) c->dst_device;
    int spoil = c->dst_kind == HOST && number("STUB_CORRUPT", 0);
    for (size_t y = 0; y < c->height; y++) {
        char *row = to + (c->dst_y + y) * c->dst_pitch + c->dst_x;
        memcpy(row, from + (c->src_y + y) * c->src_pitch + c->src_x, c->width);
        if (spoil) row[y % c->width] ^= 0x40;
    }
    return 0;
}
int cuMemcpy2DAsync_v2(const copy_2d *c, ptr stream) { return cuMemcpy2D_v2(c); }
int cuMemcpy2D(const copy_2d *c) { return cuMemcpy2D_v2(c); }

int cuModuleLoadData(ptr *out, const void *image) {
    *out = (ptr) &a_context;
    return number("STUB_MODULE", 0);
}
int cuModuleGetFunction(ptr *out, ptr module, const char *name) { *out = (ptr) &a_context; return 0; }
int cuLinkCreate_v2(unsigned n, void *options, void *values, ptr *out) { *out = (ptr) &a_context; return 0; }
static char image[64];
int cuLinkComplete(ptr state, void **out, size_t *size) { *out = image; *size = sizeof image; return 0; }
