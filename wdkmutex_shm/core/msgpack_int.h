/* The msgpack forms of an int of 64 bits, as the msgpack package writes them: the shortest that fits.
 * See the "int format family" of the msgpack specification. */
#ifndef WDKM_SCALAR_H
#define WDKM_SCALAR_H

#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "only little-endian machines"
#endif

static inline void wdkm_put16(unsigned char *p, uint16_t v) { v = __builtin_bswap16(v); memcpy(p, &v, 2); }
static inline void wdkm_put32(unsigned char *p, uint32_t v) { v = __builtin_bswap32(v); memcpy(p, &v, 4); }
static inline void wdkm_put64(unsigned char *p, uint64_t v) { v = __builtin_bswap64(v); memcpy(p, &v, 8); }
static inline uint16_t wdkm_get16(const unsigned char *p) { uint16_t v; memcpy(&v, p, 2); return __builtin_bswap16(v); }
static inline uint32_t wdkm_get32(const unsigned char *p) { uint32_t v; memcpy(&v, p, 4); return __builtin_bswap32(v); }
static inline uint64_t wdkm_get64(const unsigned char *p) { uint64_t v; memcpy(&v, p, 8); return __builtin_bswap64(v); }

/* Writes at most 9 bytes and returns how many. */
static inline int wdkm_encode_int(int64_t n, unsigned char *p) {
    if (n >= -32 && n < 128) { p[0] = (unsigned char)n; return 1; }                       /* fixint */
    if (n >= 0) {
        if (n < 256) { p[0] = 0xcc; p[1] = (unsigned char)n; return 2; }                  /* uint 8 */
        if (n < 65536) { p[0] = 0xcd; wdkm_put16(p + 1, (uint16_t)n); return 3; }         /* uint 16 */
        if (n < INT64_C(4294967296)) { p[0] = 0xce; wdkm_put32(p + 1, (uint32_t)n); return 5; }
        p[0] = 0xcf; wdkm_put64(p + 1, (uint64_t)n); return 9;                            /* uint 64 */
    }
    if (n >= -128) { p[0] = 0xd0; p[1] = (unsigned char)n; return 2; }                    /* int 8 */
    if (n >= -32768) { p[0] = 0xd1; wdkm_put16(p + 1, (uint16_t)n); return 3; }           /* int 16 */
    if (n >= -INT64_C(2147483648)) { p[0] = 0xd2; wdkm_put32(p + 1, (uint32_t)n); return 5; }
    p[0] = 0xd3; wdkm_put64(p + 1, (uint64_t)n); return 9;                                /* int 64 */
}

/* 0: decoded; 1: an int above 63 bits, left in *n as its bits; -1: these bytes are no int. */
static inline int wdkm_decode_int(const unsigned char *p, size_t length, int64_t *n) {
    unsigned char first = length ? p[0] : 0xc0;
    if (length == 1 && (first < 0x80 || first >= 0xe0)) { *n = (int8_t)first; return 0; }
    if (length == 2 && first == 0xcc) { *n = p[1]; return 0; }
    if (length == 3 && first == 0xcd) { *n = wdkm_get16(p + 1); return 0; }
    if (length == 5 && first == 0xce) { *n = wdkm_get32(p + 1); return 0; }
    if (length == 9 && first == 0xcf) { *n = (int64_t)wdkm_get64(p + 1); return *n < 0; }
    if (length == 2 && first == 0xd0) { *n = (int8_t)p[1]; return 0; }
    if (length == 3 && first == 0xd1) { *n = (int16_t)wdkm_get16(p + 1); return 0; }
    if (length == 5 && first == 0xd2) { *n = (int32_t)wdkm_get32(p + 1); return 0; }
    if (length == 9 && first == 0xd3) { *n = (int64_t)wdkm_get64(p + 1); return 0; }
    return -1;
}

#endif
