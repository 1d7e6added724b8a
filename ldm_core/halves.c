/* Products of matrices by float16 arithmetic, for networks in bfloat16 on processors with AVX512-FP16.
 *
 * Its multiply-adds have twice the rate of float32's, and four times that of the bfloat16 instruction of processors
 * without AMX. float16 has three more digits than bfloat16 but less range: each row and each column is scaled by a power
 * of two, its largest number to below one. PART terms are added up in float16, and those sums in float32, always in the
 * same order: a row's result depends on that row and the matrix alone. ldm_core/halves.py calls it.
 */
#include <math.h>
#include <stdlib.h>

#include "kernels.h"

#define ROWS 8     /* of a block of the result */
#define COLUMNS 64 /* of it; the matrix lies in panels of so many columns */
#define PART 64
#define MOST_ROWS 64   /* of a piece of work */
#define NEAR (256 << 10) /* bytes of panels that serve several pieces from the cache */

typedef struct {
    const void *x;            /* (products, rows, depth), float32 or bfloat16 */
    const void *panels;       /* (products, panels, depth, COLUMNS), float16; beyond the last column zeros */
    const float *scales;      /* (products, columns): what the panels' columns have been divided by */
    const void *bias;         /* (columns) of the dtype of y, or NULL */
    void *y;                  /* (products, rows, columns), of the dtype of x */
    int64_t products, rows, depth, columns; /* depth is a multiple of 16 */
    int64_t bfloat16;         /* whether x, bias and y are */
} Product;

typedef struct {
    uint32_t *twins; /* (products, rows rounded up to ROWS, depth): x in float16, each number twice */
    float *scales;   /* (products, rows rounded up): what the rows have been divided by */
} Rows;

static inline int64_t blocks(int64_t n, int64_t size) { return (n + size - 1) / size; }

#if defined(__x86_64__) && defined(__GNUC__) && (defined(__clang__) ? __clang_major__ >= 15 : __GNUC__ >= 12)
#include <immintrin.h>
#define FOR_FLOAT16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512fp16")))

/* A row of x as twins, which a broadcast of 32 bits spreads over a register. */
FOR_FLOAT16 static void to_twins(const Product *p, const Rows *r, int64_t product, int64_t row) {
    int64_t n = p->depth, padded = blocks(p->rows, ROWS) * ROWS, to = product * padded + row;
    uint32_t *twins = r->twins + to * n;
    if (row >= p->rows) {
        memset(twins, 0, n * sizeof *twins);
        return;
    }
    float x[n];
    load(x, p->x, (product * p->rows + row) * n, n, p->bfloat16);
    __m512 most = _mm512_setzero_ps();
    for (int64_t k = 0; k < n; k += 16) most = _mm512_max_ps(_mm512_abs_ps(_mm512_loadu_ps(x + k)), most);
    float largest = _mm512_reduce_max_ps(most);
    int exponent = 0;
    if (largest > 0 && isfinite(largest)) frexpf(largest, &exponent);
    exponent = exponent < -100 ? -100 : exponent;
    r->scales[to] = ldexpf(1, exponent);
    __m512 factor = _mm512_set1_ps(ldexpf(1, -exponent));
    for (int64_t k = 0; k < n; k += 16) {
        __m256h half = _mm512_cvtxps_ph(_mm512_mul_ps(_mm512_loadu_ps(x + k), factor));
        __m512i wide = _mm512_cvtepu16_epi32(_mm256_castph_si256(half));
        _mm512_storeu_si512(twins + k, _mm512_or_si512(wide, _mm512_slli_epi32(wide, 16)));
    }
}

/* Adds to ROWS rows of sums what `count` numbers of ROWS rows and as many lines of a panel give; or begins them. */
FOR_FLOAT16 static void add_part(
    const uint32_t *x, int64_t depth, const _Float16 *panel, int64_t count, float sums[ROWS][COLUMNS], int begin) {
    __m512h part[ROWS][2];
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++) part[i][0] = part[i][1] = _mm512_setzero_ph();
    for (int64_t k = 0; k < count; k++) {
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
            add_part(x + row * depth + k, depth, matrix + k * COLUMNS, count, sums + row, !k);
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

/* Whether there was memory for it. Without a product: whether it is compiled here. */
int half_product(const Product *p) {
    if (!p) return 1;
    int64_t padded = blocks(p->rows, ROWS) * ROWS, panels = blocks(p->columns, COLUMNS);
    int64_t many = p->rows >= 4 * MOST_ROWS ? MOST_ROWS : 2 * ROWS, pieces = blocks(padded, many);
    int64_t near = NEAR / (p->depth * COLUMNS * (int64_t)sizeof(_Float16)), group = near < 1 || pieces < 4 ? 1 : near;
    int64_t groups = blocks(panels, group);
    Rows r = {malloc(p->products * padded * p->depth * sizeof *r.twins), malloc(p->products * padded * sizeof *r.scales)};
    if (r.twins && r.scales)
#pragma omp parallel
    {
#pragma omp for
        for (int64_t i = 0; i < p->products * padded; i++) to_twins(p, &r, i / padded, i % padded);
#pragma omp for
        for (int64_t i = 0; i < p->products * groups * pieces; i++) {
            int64_t product = i / (groups * pieces), from = i / pieces % groups * group, first = i % pieces * many;
            int64_t last = first + many < padded ? first + many : padded;
            for (int64_t panel = from; panel < from + group && panel < panels; panel++)
                piece(p, &r, product, panel, first, last);
        }
    }
    int done = r.twins && r.scales;
    free(r.twins);
    free(r.scales);
    return done;
}
#else
int half_product(const Product *p) { return (void)p, 0; }
#endif
