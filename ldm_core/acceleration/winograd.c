/* The two ends of a 3 x 3 convolution by Winograd's F(2 x 2, 3 x 3) (Lavin and Gray 2015, arXiv:1509.09308, section 4.1),
 * and the transform of its weight, which is made once.
 *
 * Every 2 x 2 pixels of the result, a tile, come from 4 x 4 pixels of the input. Between the ends stand 16 products of
 * matrices, one for each place in a tile, instead of 36 multiplications for its pixels; winograd.py has them.
 * Both ends take lines of tiles, counted over all rows, so that a large image can go through in pieces.
 */
#include "kernels.h"

typedef struct {
    void *x;              /* (rows, height, width, channels), float32 or bfloat16: the image read or written */
    float *tiles;         /* (16, tiles, channels) */
    const void *bias;     /* (channels); NULL where the image is read */
    int64_t first, last;  /* lines of tiles, over all rows: line / half(height) is the row */
    int64_t height, width, channels;
    int64_t bfloat16;     /* whether */
} Tiles;

static inline int64_t half(int64_t pixels) { return (pixels + 1) / 2; }

/* One tile of a line, its 16 places so many numbers apart. The number of channels must be a multiple of LANES. */
FOR_EACH_PROCESSOR static void tile_in(const Tiles *t, int64_t line, int64_t tile, float *restrict to, int64_t apart) {
    int64_t n = t->channels, row = line / half(t->height), top = 2 * (line % half(t->height)) - 1;
    int64_t at[4][4]; /* where a pixel's channels are; beyond the edge there are zeros */
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) {
            int64_t y = top + i, x = 2 * tile - 1 + j;
            int inside = y >= 0 && y < t->height && x >= 0 && x < t->width;
            at[i][j] = inside ? ((row * t->height + y) * t->width + x) * n : -1;
        }
    for (int64_t c = 0; c < n; c += LANES) {
        Lanes d[4][4], e[4][4];
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 4; j++)
                if (at[i][j] < 0)
                    d[i][j] = (Lanes){0};
                else
                    load((float *)&d[i][j], t->x, at[i][j] + c, LANES, t->bfloat16);
        for (int j = 0; j < 4; j++) {
            e[0][j] = d[0][j] - d[2][j];
            e[1][j] = d[1][j] + d[2][j];
            e[2][j] = d[2][j] - d[1][j];
            e[3][j] = d[1][j] - d[3][j];
        }
        for (int i = 0; i < 4; i++) {
            Lanes v[4] = {e[i][0] - e[i][2], e[i][1] + e[i][2], e[i][2] - e[i][1], e[i][1] - e[i][3]};
            for (int j = 0; j < 4; j++) memcpy(to + (4 * i + j) * apart + c, &v[j], sizeof v[j]);
        }
    }
}

/* All pixels of a line of tiles. */
FOR_EACH_PROCESSOR static void line_from_tiles(const Tiles *t, int64_t line) {
    int64_t n = t->channels, across = half(t->width), apart = (t->last - t->first) * across * n;
    int64_t row = line / half(t->height), top = 2 * (line % half(t->height));
    for (int64_t tile = 0; tile < across; tile++) {
        const float *from = t->tiles + ((line - t->first) * across + tile) * n;
        for (int64_t c = 0; c < n; c += LANES) {
            Lanes bias, m[4][4], e[2][4], y[2][2];
            load((float *)&bias, t->bias, c, LANES, t->bfloat16);
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 4; j++) memcpy(&m[i][j], from + (4 * i + j) * apart + c, sizeof m[i][j]);
            for (int j = 0; j < 4; j++) {
                e[0][j] = m[0][j] + m[1][j] + m[2][j];
                e[1][j] = m[1][j] - m[2][j] - m[3][j];
            }
            for (int i = 0; i < 2; i++) {
                y[i][0] = e[i][0] + e[i][1] + e[i][2] + bias;
                y[i][1] = e[i][1] - e[i][2] - e[i][3] + bias;
            }
            for (int i = 0; i < 2 && top + i < t->height; i++)
                for (int j = 0; j < 2 && 2 * tile + j < t->width; j++) {
                    int64_t at = ((row * t->height + top + i) * t->width + 2 * tile + j) * n + c;
                    store(t->x, at, (const float *)&y[i][j], LANES, t->bfloat16);
                }
        }
    }
}

int to_tiles(const Tiles *t) {
    int64_t across = half(t->width), apart = (t->last - t->first) * across * t->channels;
#pragma omp parallel for
    for (int64_t line = t->first; line < t->last; line++)
        for (int64_t tile = 0; tile < across; tile++)
            tile_in(t, line, tile, t->tiles + ((line - t->first) * across + tile) * t->channels, apart);
    return 1;
}

int from_tiles(const Tiles *t) {
#pragma omp parallel for
    for (int64_t line = t->first; line < t->last; line++) line_from_tiles(t, line);
    return 1;
}

typedef struct {
    const void *weight; /* (outs, ins, 3, 3), float32 or bfloat16 */
    float *transformed; /* (16, ins, outs) */
    int64_t outs, ins;  /* outs is a multiple of LANES */
    int64_t bfloat16;   /* whether */
} Weight;

typedef double Wide __attribute__((vector_size(LANES * sizeof(double))));

/* y = G x, strides counted in vectors: what three taps are in Winograd's space. */
#define SPREAD(x, apart, y, step)                            \
    do {                                                     \
        y[0] = x[0];                                         \
        y[step] = 0.5 * (x[0] + x[apart] + x[2 * apart]);     \
        y[2 * step] = 0.5 * (x[0] - x[apart] + x[2 * apart]); \
        y[3 * step] = x[2 * apart];                          \
    } while (0)

/* G g G^T for one input channel and LANES output channels. In double, so that each result is rounded once. */
FOR_EACH_PROCESSOR static void spread(const Weight *w, int64_t in, int64_t out) {
    float g[LANES][9], across[9][LANES];
    Wide taps[9], half[12], whole[16];
    for (int64_t lane = 0; lane < LANES; lane++)
        load(g[lane], w->weight, ((out + lane) * w->ins + in) * 9, 9, w->bfloat16);
    for (int tap = 0; tap < 9; tap++) {
        Lanes narrow;
        for (int lane = 0; lane < LANES; lane++) across[tap][lane] = g[lane][tap];
        memcpy(&narrow, across[tap], sizeof narrow);
        taps[tap] = __builtin_convertvector(narrow, Wide);
    }
    for (int j = 0; j < 3; j++) SPREAD((taps + j), 3, (half + j), 3);
    for (int i = 0; i < 4; i++) SPREAD((half + 3 * i), 1, (whole + 4 * i), 1);
    for (int place = 0; place < 16; place++) {
        Lanes rounded = __builtin_convertvector(whole[place], Lanes);
        memcpy(w->transformed + (place * w->ins + in) * w->outs + out, &rounded, sizeof rounded);
    }
}

int transform(const Weight *w) {
#pragma omp parallel for schedule(dynamic, LANES)
    for (int64_t in = 0; in < w->ins; in++)
        for (int64_t out = 0; out < w->outs; out += LANES) spread(w, in, out);
    return 1;
}
