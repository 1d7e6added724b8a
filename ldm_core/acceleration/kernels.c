/* What torch has no fast kernel for on CPUs: norms, GroupNorm over channels-last memory and with its SiLU; GEGLU.
 *
 * Every sum is taken over the same numbers in the same order whatever rows come along and however many threads there
 * are, so a row's result depends on that row alone. Needs no headers of Python or torch; ldm_core/acceleration/native.py calls it.
 * OpenMP's threads are torch's own, because a process loads the library of that name once.
 */
#include <stdlib.h>

#include "kernels.h"

#define VERSION 6       /* as in ldm_core/acceleration/native.py */
#define MOST_PARTS 64   /* of an image, each summed up on its own */
#define LEAST_PIXELS 32 /* of a part */

typedef struct {
    const void *x;              /* (rows, pixels, channels), float32 or bfloat16 */
    const void *weight, *bias;  /* (channels) of that dtype */
    void *y;                    /* as x */
    int64_t rows, pixels, channels, groups;
    int64_t bfloat16, silu;     /* whether */
    double eps;
} GroupNorm;

typedef struct {
    const void *x;         /* (rows, 2 width), float32 or bfloat16 */
    void *y;               /* (rows, width): the first half of x times the GELU of the second */
    int64_t rows, width, bfloat16;
} Geglu;

typedef struct {
    const void *x, *weight, *shift; /* (rows, width), (width), (width), float32 or bfloat16; width: a multiple of LANES */
    void *y;                        /* as x */
    int64_t rows, width, bfloat16;
    double eps;
} LayerNorm;

FOR_EACH_PROCESSOR static void add_up(
    const GroupNorm *g, int64_t row, int64_t first, int64_t last, double *restrict sums, double *restrict squares) {
    int64_t n = g->channels;
    float x[n];
    for (int64_t c = 0; c < n; c++) sums[c] = squares[c] = 0;
    for (int64_t pixel = row * g->pixels + first; pixel < row * g->pixels + last; pixel++) {
        load(x, g->x, pixel * n, n, g->bfloat16);
        for (int64_t c = 0; c < n; c++) {
            double value = x[c];
            sums[c] += value;
            squares[c] += value * value;
        }
    }
}

/* From the sums of a row's parts: what is taken from each channel, and what it is multiplied with. */
static void moments(const GroupNorm *g, int64_t parts, const double *sums, float *means, float *scales) {
    int64_t n = g->channels, width = n / g->groups;
    float weight[n];
    load(weight, g->weight, 0, n, g->bfloat16);
    for (int64_t group = 0; group < g->groups; group++) {
        double sum = 0, squares = 0, count = (double)(g->pixels * width);
        for (int64_t part = 0; part < parts; part++)
            for (int64_t c = group * width; c < (group + 1) * width; c++) {
                sum += sums[2 * part * n + c];
                squares += sums[(2 * part + 1) * n + c];
            }
        double mean = sum / count, variance = squares / count - mean * mean;
        for (int64_t c = group * width; c < (group + 1) * width; c++) {
            means[c] = (float)mean;
            scales[c] = (float)(weight[c] / sqrt((variance > 0 ? variance : 0) + g->eps));
        }
    }
}

FOR_EACH_PROCESSOR static void normalise(
    const GroupNorm *g, int64_t row, int64_t first, int64_t last, const float *means, const float *scales) {
    int64_t n = g->channels;
    float x[n], bias[n];
    load(bias, g->bias, 0, n, g->bfloat16);
    for (int64_t pixel = row * g->pixels + first; pixel < row * g->pixels + last; pixel++) {
        load(x, g->x, pixel * n, n, g->bfloat16);
        for (int64_t c = 0; c < n; c++) x[c] = (x[c] - means[c]) * scales[c] + bias[c];
        if (g->silu)
            for (int64_t c = 0; c < n; c++) x[c] = x[c] / (1.0f + exponential(-x[c]));
        store(g->y, pixel * n, x, n, g->bfloat16);
    }
}

int version(void) { return VERSION; }

/* Returns 0 if an allocation failed, as do all functions that Python calls. */
int group_norm(const GroupNorm *g) {
    int64_t n = g->channels, parts = g->pixels / LEAST_PIXELS;
    parts = parts < 1 ? 1 : parts > MOST_PARTS ? MOST_PARTS : parts;
    double *sums = malloc(g->rows * parts * 2 * n * sizeof *sums);
    float *means = malloc(g->rows * 2 * n * sizeof *means);
    if (sums && means)
#pragma omp parallel
    {
#pragma omp for
        for (int64_t i = 0; i < g->rows * parts; i++) {
            int64_t part = i % parts;
            double *own = sums + 2 * i * n;
            add_up(g, i / parts, part * g->pixels / parts, (part + 1) * g->pixels / parts, own, own + n);
        }
#pragma omp for
        for (int64_t row = 0; row < g->rows; row++)
            moments(g, parts, sums + 2 * row * parts * n, means + 2 * row * n, means + (2 * row + 1) * n);
#pragma omp for
        for (int64_t i = 0; i < g->rows * parts; i++) {
            int64_t row = i / parts, part = i % parts;
            const float *own = means + 2 * row * n;
            normalise(g, row, part * g->pixels / parts, (part + 1) * g->pixels / parts, own, own + n);
        }
    }
    int done = sums && means;
    free(sums);
    free(means);
    return done;
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

FOR_EACH_PROCESSOR static void gate_row(const void *x, void *y, int64_t row, int64_t n, int64_t bfloat16) {
    float value[n];
    gate(value, x, row, n, bfloat16);
    store(y, row * n, value, n, bfloat16);
}

int geglu(const Geglu *g) {
#pragma omp parallel for
    for (int64_t row = 0; row < g->rows; row++) gate_row(g->x, g->y, row, g->width, g->bfloat16);
    return 1;
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

FOR_EACH_PROCESSOR static void norm_row(const LayerNorm *l, int64_t row) {
    float x[l->width];
    load(x, l->x, row * l->width, l->width, l->bfloat16);
    layer_norm_row(x, l->weight, l->shift, l->width, l->bfloat16, l->eps);
    store(l->y, row * l->width, x, l->width, l->bfloat16);
}

int layer_norm(const LayerNorm *l) {
#pragma omp parallel for
    for (int64_t row = 0; row < l->rows; row++) norm_row(l, row);
    return 1;
}
