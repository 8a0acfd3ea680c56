/* What servers call of jemalloc besides the C library's names, by means of the latter: preloaded after AddressSanitizer,
 * which knows only those. */
#include <stdlib.h>

#define MALLOCX_ZERO 0x40

void *mallocx(size_t size, int flags) {
    return flags & MALLOCX_ZERO ? calloc(1, size) : malloc(size);
}

void *rallocx(void *old, size_t size, int flags) {
    (void)flags;
    return realloc(old, size);
}

void dallocx(void *old, int flags) {
    (void)flags;
    free(old);
}
