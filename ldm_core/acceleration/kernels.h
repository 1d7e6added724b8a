/* What the kernels share. They take float32 and bfloat16, and compute in float32. */
#include <math.h>
#include <stdint.h>
#include <string.h>

/* Built on one machine, run on another: the loops exist for each level of x86-64, and the processor's own is chosen. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

#define LANES 16 /* numbers at a time */
typedef float Lanes __attribute__((vector_size(LANES * sizeof(float))));

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

static inline float power_of_two(int32_t n) { /* from -126 to 127 */
    union { int32_t bits; float value; } u = {(n + 127) << 23};
    return u.value;
}

/* 2^n e^r, the latter by a polynomial for |r| <= ln 2 / 2 (Cephes' expf): code that a compiler can do many at once of. */
static inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
    float n = rintf(x * 1.44269504f);
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * power_of_two((int32_t)n);
}
