/* libnvidia-encode.so.1 without an encoder.
 *
 *   STUB_NVENC_API=12.2   the API version it claims (default 13.1)
 *   STUB_OPEN=n           NVENCSTATUS of opening a session (default 2: unsupported device)
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef int (*function)(void);
enum { OPEN_SESSION_EX = 29, LAST_ERROR = 37, SLOTS = 43 };   /* of NV_ENCODE_API_FUNCTION_LIST */

static int refuse(void) { return 2; }
static int open_session(void) {
    const char *text = getenv("STUB_OPEN");
    return text ? atoi(text) : 2;
}
static const char *last_error(void *encoder) { return "as the stub was told"; }

uint32_t NvEncodeAPIGetMaxSupportedVersion(uint32_t *version) {
    unsigned major = 13, minor = 1;
    const char *text = getenv("STUB_NVENC_API");
    if (text) sscanf(text, "%u.%u", &major, &minor);
    *version = major << 4 | minor;
    return 0;
}

int NvEncodeAPICreateInstance(void *list) {
    function *slots = (function *) ((char *) list + 8);   /* behind version and reserved */
    for (int i = 0; i < SLOTS; i++) slots[i] = refuse;
    slots[OPEN_SESSION_EX] = open_session;
    slots[LAST_ERROR] = (function) last_error;
    return 0;
}
