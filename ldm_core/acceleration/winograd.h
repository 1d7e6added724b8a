/* The two ends of a 3 x 3 convolution (winograd.c). */
#include "kernels.h"

typedef struct {
    void *x;              /* (rows, height, width, channels), float32 or bfloat16: the picture read or written */
    float *tiles;         /* (16, tiles, channels) */
    const void *bias;     /* (channels); NULL where the picture is read */
    const void *add;      /* as the picture that is written, added to it; or NULL */
    int64_t first, last;  /* lines of tiles, over all rows: line / half(height) is the row */
    int64_t height, width, channels;
    int64_t bfloat16;     /* whether */
} Tiles;

static inline int64_t half(int64_t pixels) { return (pixels + 1) / 2; }

/* One tile of a line, its 16 places so many numbers apart. */
void tile_in(const Tiles *t, int64_t line, int64_t tile, float *to, int64_t apart);

/* All pixels of a line of tiles. */
void line_from_tiles(const Tiles *t, int64_t line);
