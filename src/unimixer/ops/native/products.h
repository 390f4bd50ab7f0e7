/* Matrix products of small numbers of rows, tile by tile, whose sums stay in registers. */

#ifndef PRODUCTS_H
#define PRODUCTS_H

#include "strip.h"

#if NUMBERS == 16
#define COLUMNS 4 /* registers of a row of a tile, whose sums stay there */
#else
#define COLUMNS 2
#endif
#define ROWS 6

/* to += a b for a tile: a[r, k] stands at r * row + k * step, b and to have a row every so many vectors. */
INLINE void tile(const float *a, long row, long step, const vector *b, long b_row, vector *to, long to_row, long depth,
                 int rows, int columns) {
    vector sums[ROWS][COLUMNS];
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int p = 0; p < columns; p++) sums[r][p] = to[r * to_row + p];
    for (long k = 0; k < depth; k++)
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++) {
            float own = a[r * row + k * step];
#pragma GCC unroll 4
            for (int p = 0; p < columns; p++) sums[r][p] += own * b[k * b_row + p];
        }
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int p = 0; p < columns; p++) to[r * to_row + p] = sums[r][p];
}

INLINE void tiles(const float *a, long row, long step, const vector *b, long b_row, vector *to, long to_row, long rows,
                  long depth, int columns) {
    for (; rows >= ROWS; rows -= ROWS, a += ROWS * row, to += ROWS * to_row)
        tile(a, row, step, b, b_row, to, to_row, depth, ROWS, columns);
    switch (rows) {
    case 1: tile(a, row, step, b, b_row, to, to_row, depth, 1, columns); break;
    case 2: tile(a, row, step, b, b_row, to, to_row, depth, 2, columns); break;
    case 3: tile(a, row, step, b, b_row, to, to_row, depth, 3, columns); break;
    case 4: tile(a, row, step, b, b_row, to, to_row, depth, 4, columns); break;
    case 5: tile(a, row, step, b, b_row, to, to_row, depth, 5, columns); break;
    }
}

/* to (rows, lanes) += a (rows, depth) b (depth, lanes): a[r, k] stands at r * row + k * step, b and to have a row every
 * so many lanes. */
static inline void multiply(const float *a, long row, long step, const lane *right, long right_row, lane *sums,
                            long sums_row, long rows, long depth, long lanes) {
    const vector *b = (const vector *)right;
    vector *to = (vector *)sums;
    long p = 0, share = LANES / NUMBERS, parts = lanes * share, b_row = right_row * share, to_row = sums_row * share;
    for (; p + COLUMNS <= parts; p += COLUMNS)
        tiles(a, row, step, b + p, b_row, to + p, to_row, rows, depth, COLUMNS);
    switch (parts - p) { /* without AVX-512 there is no rest */
    case 1: tiles(a, row, step, b + p, b_row, to + p, to_row, rows, depth, 1); break;
#if COLUMNS > 2
    case 2: tiles(a, row, step, b + p, b_row, to + p, to_row, rows, depth, 2); break;
    case 3: tiles(a, row, step, b + p, b_row, to + p, to_row, rows, depth, 3); break;
#endif
    }
}

#endif
