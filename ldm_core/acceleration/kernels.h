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

/* A row of 2n numbers, the first half times the GELU of the second. */
static inline void gate(float *restrict value, const void *restrict x, int64_t row, int64_t n, int64_t bfloat16) {
    float gates[n];
    load(value, x, 2 * row * n, n, bfloat16);
    load(gates, x, (2 * row + 1) * n, n, bfloat16);
    for (int64_t i = 0; i < n; i++) {
        /* the error function to 1.5e-7 (Abramowitz and Stegun 7.1.26) */
        float z = fabsf(gates[i]) * 0.70710678f, t = 1.0f / (1.0f + 0.3275911f * z);
        float p = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
        float erf = copysignf(1.0f - p * exponential(-z * z), gates[i]);
        value[i] *= 0.5f * gates[i] * (1.0f + erf);
    }
}

static inline float summed(const Lanes *lanes) {
    float sum = 0;
    for (int i = 0; i < LANES; i++) sum += (*lanes)[i];
    return sum;
}

/* LayerNorm of n numbers, a multiple of LANES. */
static inline void layer_norm_row(
    float *restrict x, const void *weight, const void *shift, int64_t n, int64_t bfloat16, double eps) {
    float weights[n], shifts[n];
    Lanes sum = {0}, squares = {0}, part;
    for (int64_t k = 0; k < n; k += LANES) {
        memcpy(&part, x + k, sizeof part);
        sum += part;
    }
    float mean = summed(&sum) / n;
    for (int64_t k = 0; k < n; k += LANES) {
        memcpy(&part, x + k, sizeof part);
        part -= mean;
        squares += part * part;
    }
    float scale = 1 / sqrtf(summed(&squares) / n + (float)eps);
    load(weights, weight, 0, n, bfloat16);
    load(shifts, shift, 0, n, bfloat16);
    for (int64_t k = 0; k < n; k++) x[k] = (x[k] - mean) * scale * weights[k] + shifts[k];
}
