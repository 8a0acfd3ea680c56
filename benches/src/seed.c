/* Preloaded into a server, for `make bench-guard`: what would be random is the same at each start. The seeds of hash tables
 * are, and with them which commands and keys share a bucket, which a look-up pays for. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

static int seed(void) {
    const char *text = getenv("SEED"); /* set by guard.rs */
    return text ? atoi(text) : 0;
}

/* The server reads its seed from /dev/urandom. */
static FILE *opened(const char *name, const char *path, const char *mode) {
    if (strcmp(path, "/dev/urandom") == 0) {
        static char bytes[4096];
        memset(bytes, seed(), sizeof bytes);
        return fmemopen(bytes, sizeof bytes, "r");
    }
    FILE *(*real)(const char *, const char *) = (FILE * (*)(const char *, const char *)) dlsym(RTLD_NEXT, name);
    return real(path, mode);
}

FILE *fopen(const char *path, const char *mode) {
    return opened("fopen", path, mode);
}

FILE *fopen64(const char *path, const char *mode) {
    return opened("fopen64", path, mode);
}

/* The module asks for its own. No two words are the same: keys that are made of equal ones give every tag the same hash. */
ssize_t getrandom(void *to, size_t len, unsigned flags) {
    (void)flags;
    static uint64_t state;
    state = state ? state : (uint64_t)seed() + 1;
    for (size_t at = 0; at < len; at++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        ((unsigned char *)to)[at] = state >> 56;
    }
    return len;
}
