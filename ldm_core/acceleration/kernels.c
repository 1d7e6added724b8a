/* What torch has no fast kernel for on CPUs: norms, GroupNorm over channels-last memory and with what stands around it;
 * GEGLU; what a convolution sees of a picture.
 *
 * Every sum is taken over the same numbers in the same order whatever rows come along and however many threads there
 * are, so a row's result depends on that row alone. Needs no headers of Python or torch; ldm_core/acceleration/native.py calls it.
 * OpenMP's threads are torch's own, because a process loads the library of that name once.
 */
#include <stdlib.h>

#include "kernels.h"

#define VERSION 5       /* as in ldm_core/acceleration/native.py */
#define MOST_PARTS 64   /* of a picture, each summed up on its own */
#define LEAST_PIXELS 32 /* of a part */

typedef struct {
    const void *x;              /* (rows, pixels, channels), float32 or bfloat16 */
    const void *add;            /* (rows, channels) of that dtype, added to x before all else; or NULL */
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

typedef struct {
    const char *x;              /* (rows, height, width, channels) */
    char *y;                    /* (rows, out_height, out_width, depth): of each 3 x 3 pixels all channels, then zeros */
    int64_t rows, height, width, channels, out_height, out_width, depth;
    int64_t stride, padding;    /* of the first pixels, to the left and above */
    int64_t size;               /* bytes of a number */
} Patches;

FOR_EACH_PROCESSOR static void add_up(
    const GroupNorm *g, int64_t row, int64_t first, int64_t last, double *restrict sums, double *restrict squares) {
    int64_t n = g->channels;
    float x[n], add[n];
    for (int64_t c = 0; c < n; c++) sums[c] = squares[c] = add[c] = 0;
    if (g->add) load(add, g->add, row * n, n, g->bfloat16);
    for (int64_t pixel = row * g->pixels + first; pixel < row * g->pixels + last; pixel++) {
        load(x, g->x, pixel * n, n, g->bfloat16);
        for (int64_t c = 0; c < n; c++) {
            double value = x[c] + add[c];
            sums[c] += value;
            squares[c] += value * value;
        }
    }
}

/* From the sums of a row's parts: what is taken from each channel, and what it is multiplied with. */
static void moments(const GroupNorm *g, int64_t row, int64_t parts, const double *sums, float *means, float *scales) {
    int64_t n = g->channels, width = n / g->groups;
    float weight[n], add[n];
    load(weight, g->weight, 0, n, g->bfloat16);
    if (g->add) load(add, g->add, row * n, n, g->bfloat16);
    for (int64_t group = 0; group < g->groups; group++) {
        double sum = 0, squares = 0, count = (double)(g->pixels * width);
        for (int64_t part = 0; part < parts; part++)
            for (int64_t c = group * width; c < (group + 1) * width; c++) {
                sum += sums[2 * part * n + c];
                squares += sums[(2 * part + 1) * n + c];
            }
        double mean = sum / count, variance = squares / count - mean * mean;
        for (int64_t c = group * width; c < (group + 1) * width; c++) {
            means[c] = (float)(g->add ? mean - add[c] : mean);
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

/* Every other function that Python calls says, like this one, whether there was memory for it. */
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
            moments(g, row, parts, sums + 2 * row * parts * n, means + 2 * row * n, means + (2 * row + 1) * n);
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

/* Lays the 3 x 3 pixels that a convolution sees side by side, so that it becomes a product of matrices. */
int patches(const Patches *p) {
    int64_t pixel = p->channels * p->size, line = p->depth * p->size;
#pragma omp parallel for
    for (int64_t i = 0; i < p->rows * p->out_height; i++) {
        int64_t row = i / p->out_height, top = i % p->out_height * p->stride - p->padding;
        for (int64_t j = 0; j < p->out_width; j++) {
            char *to = p->y + (i * p->out_width + j) * line;
            memset(to + 9 * pixel, 0, line - 9 * pixel);
            for (int k = 0; k < 9; k++) {
                int64_t y = top + k / 3, x = j * p->stride - p->padding + k % 3;
                if (y >= 0 && y < p->height && x >= 0 && x < p->width)
                    memcpy(to + k * pixel, p->x + ((row * p->height + y) * p->width + x) * pixel, pixel);
                else
                    memset(to + k * pixel, 0, pixel);
            }
        }
    }
    return 1;
}
