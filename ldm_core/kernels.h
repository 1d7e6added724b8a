/* What the kernels share. They take float32 and bfloat16, and compute in float32. */
#include <stdint.h>
#include <string.h>

/* Built on one machine, run on another: the loops exist for each level of x86-64, and the processor's own is chosen. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

static inline float widened(uint16_t bfloat16) {
    union { uint32_t bits; float value; } u = {(uint32_t)bfloat16 << 16};
    return u.value;
}

static inline uint16_t narrowed(float value) { /* to the nearest bfloat16, ties to even */
    union { float value; uint32_t bits; } u = {value};
    return (uint16_t)((u.bits + 0x7fffu + ((u.bits >> 16) & 1)) >> 16);
}

static inline void load(float *restrict to, const void *restrict from, int64_t at, int64_t n, int64_t bfloat16) {
    if (bfloat16)
        for (int64_t i = 0; i < n; i++) to[i] = widened(((const uint16_t *)from)[at + i]);
    else
        memcpy(to, (const float *)from + at, n * sizeof *to);
}

static inline void store(void *restrict to, int64_t at, const float *restrict from, int64_t n, int64_t bfloat16) {
    if (bfloat16)
        for (int64_t i = 0; i < n; i++) ((uint16_t *)to)[at + i] = narrowed(from[i]);
    else
        memcpy((float *)to + at, from, n * sizeof *from);
}
