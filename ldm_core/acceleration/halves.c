/* Products of matrices by float16 arithmetic, for networks in bfloat16 on processors with AVX512-FP16.
 *
 * Its multiply-adds have twice the rate of float32's, and four times that of the bfloat16 instruction of processors
 * without AMX. float16 has three more digits than bfloat16 but less range: each row and each column is scaled by a power
 * of two, its largest number to below one. PART terms are added up in float16, and those sums in float32, always in the
 * same order: a row's result depends on that row and the matrix alone. ldm_core/acceleration/halves.py calls it.
 */
#include "winograd.h"

#define ROWS 8     /* of a block of the result */
#define COLUMNS 64 /* of it; the matrix lies in panels of so many columns */
#define PART 64
#define MOST_ROWS 64   /* of a piece of work */
#define NEAR (256 << 10) /* bytes of panels that serve several pieces from the cache */
#define AT_ONCE (4 << 20) /* bytes of twins; more rows than that come one part after the other */
#define PLACES 16 /* in a tile */

typedef struct {
    const void *x;            /* (rows, depth) of a single product, float32 or bfloat16; of twice the depth if gated */
    const void *panels;       /* (products, panels, depth, COLUMNS), float16; beyond the last column zeros */
    const float *scales;      /* (products, columns): what the panels' columns have been divided by */
    const void *bias;         /* (columns), or NULL */
    const void *weight, *shift; /* (depth) of a LayerNorm that rows go through first; or NULL */
    const void *add;          /* as y, added to the result; or NULL */
    void *y;                  /* (products, rows, columns) */
    int64_t products, rows, depth, columns; /* depth is a multiple of 16 */
    int64_t gated;            /* whether the first half of a row is multiplied by the GELU of the second */
    int64_t bfloat16;         /* whether x and all others that are not said to be float16 or float are */
    double eps;               /* of the LayerNorm */
} Product;

typedef struct {
    Tiles in, out; /* their tiles are found here */
    const void *panels;
    const float *scales;
} Convolution;

typedef struct {
    uint32_t *twins; /* (products, rows rounded up to ROWS, depth): x in float16, each number twice */
    float *scales;   /* (products, rows rounded up): what the rows have been divided by */
} Rows;

#if defined(__x86_64__) && defined(__GNUC__) && (defined(__clang__) ? __clang_major__ >= 15 : __GNUC__ >= 12)
#include <immintrin.h>
#include <pthread.h>
#include <stdlib.h>
#define FOR_FLOAT16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512fp16")))

static inline int64_t blocks(int64_t n, int64_t size) { return (n + size - 1) / size; }

FOR_FLOAT16 static void read_row(const Product *p, int64_t row, float *x) {
    if (p->gated)
        gate(x, p->x, row, p->depth, p->bfloat16);
    else
        load(x, p->x, row * p->depth, p->depth, p->bfloat16);
    if (p->weight) layer_norm_row(x, p->weight, p->shift, p->depth, p->bfloat16, p->eps);
}

/* A row as twins, which a broadcast of 32 bits spreads over a register. */
FOR_FLOAT16 static void to_twins(const float *x, int64_t n, uint32_t *twins, float *scale) {
    __m512 most = _mm512_setzero_ps();
    for (int64_t k = 0; k < n; k += 16) most = _mm512_max_ps(_mm512_abs_ps(_mm512_loadu_ps(x + k)), most);
    union { float value; int32_t bits; } largest = {_mm512_reduce_max_ps(most)};
    int exponent = (largest.bits >> 23) - 126; /* that of the next power of two; NaN and infinity stay what they are */
    exponent = exponent < -100 ? -100 : exponent > 126 ? 126 : exponent;
    *scale = power_of_two(exponent);
    __m512 factor = _mm512_set1_ps(power_of_two(-exponent));
    for (int64_t k = 0; k < n; k += 16) {
        __m256h half = _mm512_cvtxps_ph(_mm512_mul_ps(_mm512_loadu_ps(x + k), factor));
        __m512i wide = _mm512_cvtepu16_epi32(_mm256_castph_si256(half));
        _mm512_storeu_si512(twins + k, _mm512_or_si512(wide, _mm512_slli_epi32(wide, 16)));
    }
}

/* Adds to ROWS rows of sums what `count` numbers of ROWS rows and as many lines of a panel give; or begins them.
 * With `fetch` the next part of the panel comes into the cache meanwhile: 1.06 x a step of Stable Diffusion 1.x.
 */
FOR_FLOAT16 static void add_part(
    const uint32_t *x, int64_t depth, const _Float16 *panel, int64_t count, float sums[ROWS][COLUMNS], int begin,
    int fetch) {
    __m512h part[ROWS][2];
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++) part[i][0] = part[i][1] = _mm512_setzero_ph();
    for (int64_t k = 0; k < count; k++) {
        if (fetch) {
            _mm_prefetch((const char *)(panel + (k + PART) * COLUMNS), _MM_HINT_T0);
            _mm_prefetch((const char *)(panel + (k + PART) * COLUMNS + 32), _MM_HINT_T0);
        }
        __m512h left = _mm512_loadu_ph(panel + k * COLUMNS), right = _mm512_loadu_ph(panel + k * COLUMNS + 32);
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; i++) {
            __m512h each = _mm512_castsi512_ph(_mm512_set1_epi32((int)x[i * depth + k]));
            part[i][0] = _mm512_fmadd_ph(each, left, part[i][0]);
            part[i][1] = _mm512_fmadd_ph(each, right, part[i][1]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            __m512i both = _mm512_castph_si512(part[i][j / 2]);
            __m256i quarter = j % 2 ? _mm512_extracti64x4_epi64(both, 1) : _mm512_castsi512_si256(both);
            float *sum = sums[i] + 16 * j;
            __m512 wide = _mm512_cvtxph_ps(_mm256_castsi256_ph(quarter));
            _mm512_storeu_ps(sum, begin ? wide : _mm512_add_ps(_mm512_loadu_ps(sum), wide));
        }
}

FOR_FLOAT16 static inline void finish(
    const Product *p, const float *restrict scales, const float *restrict bias, float scale, float *restrict sums,
    int64_t to, int64_t n) {
    for (int64_t i = 0; i < n; i++) sums[i] = sums[i] * (scale * scales[i]) + bias[i];
    if (p->add) {
        float add[n];
        load(add, p->add, to, n, p->bfloat16);
        for (int64_t i = 0; i < n; i++) sums[i] += add[i];
    }
    store(p->y, to, sums, n, p->bfloat16);
}

/* Some rows times one panel. A part of the panel serves all of the rows while it is near. */
FOR_FLOAT16 static void piece(
    const Product *p, const Rows *r, int64_t product, int64_t panel, int64_t first, int64_t last) {
    int64_t padded = blocks(p->rows, ROWS) * ROWS, panels = blocks(p->columns, COLUMNS), depth = p->depth;
    const uint32_t *x = r->twins + (product * padded + first) * depth;
    const _Float16 *matrix = (const _Float16 *)p->panels + (product * panels + panel) * depth * COLUMNS;
    float sums[MOST_ROWS][COLUMNS], bias[COLUMNS] = {0};
    for (int64_t k = 0; k < depth; k += PART) {
        int64_t count = depth - k < PART ? depth - k : PART;
        for (int64_t row = 0; row < last - first; row += ROWS)
            add_part(x + row * depth + k, depth, matrix + k * COLUMNS, count, sums + row, !k, !row);
    }
    int64_t column = panel * COLUMNS, n = p->columns - column < COLUMNS ? p->columns - column : COLUMNS;
    const float *scales = p->scales + product * p->columns + column;
    if (p->bias) load(bias, p->bias, column, n, p->bfloat16);
    for (int64_t row = first; row < last && row < p->rows; row++) {
        int64_t to = (product * p->rows + row) * p->columns + column;
        float scale = r->scales[product * padded + row];
        if (n == COLUMNS) /* known to the compiler */
            finish(p, scales, bias, scale, sums[row - first], to, COLUMNS);
        else
            finish(p, scales, bias, scale, sums[row - first], to, n);
    }
}

/* All pieces, shared out among the threads that are here. */
FOR_FLOAT16 static void multiply(const Product *p, const Rows *r) {
    int64_t padded = blocks(p->rows, ROWS) * ROWS, panels = blocks(p->columns, COLUMNS);
    int64_t many = p->rows >= 4 * MOST_ROWS ? MOST_ROWS : 2 * ROWS, pieces = blocks(padded, many);
    int64_t near = NEAR / (p->depth * COLUMNS * (int64_t)sizeof(_Float16)), group = near < 1 || pieces < 4 ? 1 : near;
    int64_t groups = blocks(panels, group);
#pragma omp for
    for (int64_t i = 0; i < p->products * groups * pieces; i++) {
        int64_t product = i / (groups * pieces), from = i / pieces % groups * group, first = i % pieces * many;
        int64_t last = first + many < padded ? first + many : padded;
        for (int64_t panel = from; panel < from + group && panel < panels; panel++)
            piece(p, r, product, panel, first, last);
    }
}

static pthread_key_t kept;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static void keep(void) { pthread_key_create(&kept, free); }

/* Memory until this thread asks again. A fresh piece a call would cost more than some products. */
static void *room(int64_t bytes) {
    pthread_once(&once, keep);
    int64_t *had = pthread_getspecific(kept), head = 64; /* cache lines begin there: loads would touch two of them */
    if (!had || *had < bytes) {
        free(had);
        had = aligned_alloc(64, head + blocks(bytes, 64) * 64);
        pthread_setspecific(kept, had);
        if (!had) return NULL;
        *had = bytes;
    }
    return (char *)had + head;
}

/* Rows in this memory; those that only fill up the last block are zeros. */
static Rows rows_in(void *at, int64_t products, int64_t rows, int64_t depth) {
    int64_t padded = blocks(rows, ROWS) * ROWS;
    Rows r = {at, (float *)at + products * padded * depth};
    for (int64_t i = 0; i < products; i++)
        memset(r.twins + (i * padded + rows) * depth, 0, (padded - rows) * depth * sizeof *r.twins);
    return r;
}

/* Whether there was memory for it. Without a product: whether it is compiled here. */
int half_product(const Product *p) {
    if (!p) return 1;
    int64_t n = p->depth, size = p->bfloat16 ? 2 : 4, most = blocks(AT_ONCE / (4 * n), MOST_ROWS) * MOST_ROWS;
    for (int64_t first = 0; first < p->rows; first += most) {
        Product part = *p;
        part.rows = p->rows - first < most ? p->rows - first : most;
        part.x = (const char *)p->x + first * (p->gated ? 2 * n : n) * size;
        part.y = (char *)p->y + first * p->columns * size;
        if (p->add) part.add = (const char *)p->add + first * p->columns * size;
        void *at = room(blocks(part.rows, ROWS) * ROWS * (n + 1) * 4);
        if (!at) return 0;
        Rows r = rows_in(at, 1, part.rows, n);
#pragma omp parallel
        {
#pragma omp for
            for (int64_t row = 0; row < part.rows; row++) {
                float x[n];
                read_row(&part, row, x);
                to_twins(x, n, r.twins + row * n, r.scales + row);
            }
            multiply(&part, &r);
        }
    }
    return 1;
}

/* The 3 x 3 convolution from `in` to `out`: a product for each place in their tiles. */
int half_convolution(const Convolution *c) {
    int64_t across = half(c->in.width), tiles = (c->in.last - c->in.first) * across, padded = blocks(tiles, ROWS) * ROWS;
    int64_t n = c->in.channels;
    void *at = room(PLACES * (padded * (n + 1) + tiles * c->out.channels) * 4);
    if (!at) return 0;
    Rows r = rows_in(at, PLACES, tiles, n);
    Tiles out = c->out;
    out.tiles = r.scales + PLACES * padded;
    Product p = {.panels = c->panels, .scales = c->scales, .y = out.tiles};
    p.products = PLACES;
    p.rows = tiles;
    p.depth = n;
    p.columns = out.channels;
#pragma omp parallel
    {
#pragma omp for collapse(2)
        for (int64_t line = c->in.first; line < c->in.last; line++)
            for (int64_t tile = 0; tile < across; tile++) {
                float places[PLACES * n];
                tile_in(&c->in, line, tile, places, n);
                for (int64_t place = 0; place < PLACES; place++) {
                    int64_t to = place * padded + (line - c->in.first) * across + tile;
                    to_twins(places + place * n, n, r.twins + to * n, r.scales + to);
                }
            }
        multiply(&p, &r);
#pragma omp for
        for (int64_t line = out.first; line < out.last; line++) line_from_tiles(&out, line);
    }
    return 1;
}
#else
int half_convolution(const Convolution *c) { return (void)c, 0; }
int half_product(const Product *p) { return (void)p, 0; }
#endif
