/* A strip: the numbers of 64 samples, row by row, in a buffer that stays in cache. */

#ifndef STRIP_H
#define STRIP_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#ifdef __AVX512F__
#define NUMBERS 16 /* of a register of this processor */
#elif defined __AVX__
#define NUMBERS 8
#else
#define NUMBERS 4
#endif
#define LANES 16
#define PARTS 4
#define STRIP (LANES * PARTS)
#define SHARES (STRIP / NUMBERS) /* registers of a row of a strip */
#define INLINE static inline __attribute__((always_inline))

typedef float lane __attribute__((vector_size(4 * LANES), may_alias));
/* Sums are kept in this type, which is no wider than a register: GCC keeps wider ones in memory. */
typedef float vector __attribute__((vector_size(4 * NUMBERS), may_alias));

static inline float total_of(lane x) {
    float parts[LANES];
    memcpy(parts, &x, sizeof x);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) parts[i] += parts[i + width];
    return parts[0];
}

static inline lane *buffer(long rows) { return aligned_alloc(sizeof(lane), rows * PARTS * sizeof(lane)); }

/* Rows of a strip into a buffer, with zeros behind the last sample. */
static inline void gather(const float *from, lane *to, long rows, long batch, long lanes) {
    for (long row = 0; row < rows; row++, from += batch, to += PARTS)
        if (lanes == STRIP) {
            /* the next strip's row, which no processor guesses from rows that lie apart */
            for (int p = 1; p <= PARTS; p++) __builtin_prefetch(from + STRIP + LANES * p - 1);
            memcpy(to, from, STRIP * sizeof(float));
        } else {
            memset(to, 0, STRIP * sizeof(float));
            memcpy(to, from, lanes * sizeof(float));
        }
}

static inline void scatter(const lane *from, float *to, long rows, long batch, long lanes) {
    for (long row = 0; row < rows; row++, from += PARTS, to += batch)
        if (lanes == STRIP)
            memcpy(to, from, STRIP * sizeof(float));
        else
            memcpy(to, from, lanes * sizeof(float));
}

/* x = norm(x) w + b of the rows of a token; mean and scale are of this token and strip, mean is NULL for RMS. */
static inline void normalize(lane *strip, const float *w, const float *b, float *mean, float *scale, long width,
                             float eps, long lanes) {
    vector *x = (vector *)strip, centres[SHARES], factors[SHARES];
    for (int p = 0; p < SHARES; p++) {
        vector centre = {0}, factor = {0};
        for (long d = 0; mean && d < width; d++) centre += x[d * SHARES + p];
        centre /= (float)width;
        for (long d = 0; d < width; d++) {
            vector value = x[d * SHARES + p] - centre;
            factor += value * value;
        }
        for (int i = 0; i < NUMBERS; i++) factor[i] = 1.0f / sqrtf(factor[i] / width + eps);
        for (long d = 0; d < width; d++)
            x[d * SHARES + p] = (x[d * SHARES + p] - centre) * factor * w[d] + (b ? b[d] : 0);
        centres[p] = centre, factors[p] = factor;
    }
    if (mean) memcpy(mean, centres, lanes * sizeof(float));
    memcpy(scale, factors, lanes * sizeof(float));
}

/* x, what was normalized, becomes its gradient; by_w and by_b gain those of w and b. */
static inline void normalize_backward(lane *strip, const lane *above, const float *w, const float *mean,
                                      const float *scale, lane *by_w, lane *by_b, long width, long batch, long lanes) {
    vector *x = (vector *)strip, centres[SHARES] = {0}, factors[SHARES];
    const vector *grad = (const vector *)above;
    gather(scale, (lane *)factors, 1, batch, lanes); /* zero behind the last sample, and so is the gradient */
    if (mean) gather(mean, (lane *)centres, 1, batch, lanes);
    for (int p = 0; p < SHARES; p++) {
        vector centre = centres[p], factor = factors[p], along = {0}, total = {0};
        vector *to_w = (vector *)by_w + p % (LANES / NUMBERS), *to_b = (vector *)by_b + p % (LANES / NUMBERS);
        for (long d = 0; d < width; d++) {
            vector g = grad[d * SHARES + p], product = g * ((x[d * SHARES + p] - centre) * factor);
            to_w[d * (LANES / NUMBERS)] += product;
            to_b[d * (LANES / NUMBERS)] += g;
            along += product * w[d];
            total += g * w[d];
        }
        along /= (float)width;
        total /= (float)width;
        if (!mean) total = (vector){0};
        for (long d = 0; d < width; d++) {
            vector normed = (x[d * SHARES + p] - centre) * factor;
            x[d * SHARES + p] = factor * (grad[d * SHARES + p] * w[d] - normed * along - total);
        }
    }
}

#endif
