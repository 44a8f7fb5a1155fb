# cython: language_level=3
"""XXH3, from the header that pyarrow brings along.

Two kinds of hashes: `series_hash` is the unseeded one of the file format, the same everywhere.
Everything that only this process sees is hashed with a seed that a sender cannot know, so that it
can neither slow the tables down nor make two label sets look the same.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint64_t

from bridge.wire._tables cimport Fingerprint

cdef extern from * nogil:
    """
    #ifndef XXH_INLINE_ALL
    #define XXH_INLINE_ALL
    #endif
    #include "arrow/vendored/xxhash/xxhash.h"

    typedef struct {
        unsigned char secret[XXH3_SECRET_DEFAULT_SIZE];
        uint64_t seed;
    } HashKey;

    static void hash_key_make(HashKey *key, uint64_t seed) {
        key->seed = seed;
        XXH3_generateSecret_fromSeed(key->secret, seed);
    }

    static uint64_t series_hash(const void *text, size_t length) {
        return XXH3_64bits(text, length);
    }

    static uint64_t keyed_hash(const HashKey *key, const void *text, size_t length) {
        return XXH3_64bits_withSecretandSeed(text, length, key->secret, sizeof key->secret,
                                             key->seed);
    }

    static void keyed_fingerprint(const HashKey *key, const void *text, size_t length,
                                  uint64_t *low, uint64_t *high) {
        XXH128_hash_t made = XXH3_128bits_withSecretandSeed(
            text, length, key->secret, sizeof key->secret, key->seed);
        *low = made.low64;
        *high = made.high64;
    }

    /* The finalizer of MurmurHash3: every bit of the input moves every bit of the result. */
    static inline uint64_t mix_u64(uint64_t value) {
        value = (value ^ (value >> 33)) * 0xFF51AFD7ED558CCDULL;
        value = (value ^ (value >> 33)) * 0xC4CEB9FE1A85EC53ULL;
        return value ^ (value >> 33);
    }
    """
    ctypedef struct HashKey:
        uint64_t seed

    void hash_key_make(HashKey* key, uint64_t seed)
    uint64_t series_hash(const void* text, size_t length)
    uint64_t keyed_hash(const HashKey* key, const void* text, size_t length)
    void keyed_fingerprint(
        const HashKey* key, const void* text, size_t length, uint64_t* low, uint64_t* high
    )
    uint64_t mix_u64(uint64_t value)


cdef inline Fingerprint fingerprint_of(
    const HashKey* key, const void* text, size_t length
) noexcept nogil:
    cdef Fingerprint made
    keyed_fingerprint(key, text, length, &made.low, &made.high)
    return made
