/* A strip: the numbers of 64 samples, row by row, in a buffer that stays in cache. */

#ifndef STRIP_H
#define STRIP_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LANES 16 /* numbers of a vector register */
#define PARTS 4
#define STRIP (LANES * PARTS)
#define INLINE static inline __attribute__((always_inline))

typedef float lane __attribute__((vector_size(4 * LANES), may_alias));

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
static inline void normalize(lane *x, const float *w, const float *b, float *mean, float *scale, long width, float eps,
                             long lanes) {
    lane centre[PARTS] = {0}, factor[PARTS] = {0};
    for (long d = 0; mean && d < width; d++)
        for (int p = 0; p < PARTS; p++) centre[p] += x[d * PARTS + p];
    for (int p = 0; p < PARTS; p++) centre[p] /= (float)width;
    for (long d = 0; d < width; d++)
        for (int p = 0; p < PARTS; p++) {
            lane value = x[d * PARTS + p] - centre[p];
            factor[p] += value * value;
        }
    for (int p = 0; p < PARTS; p++)
        for (int i = 0; i < LANES; i++) factor[p][i] = 1.0f / sqrtf(factor[p][i] / width + eps);
    if (mean) memcpy(mean, centre, lanes * sizeof(float));
    memcpy(scale, factor, lanes * sizeof(float));
    for (long d = 0; d < width; d++)
        for (int p = 0; p < PARTS; p++)
            x[d * PARTS + p] = (x[d * PARTS + p] - centre[p]) * factor[p] * w[d] + (b ? b[d] : 0);
}

/* x, what was normalized, becomes its gradient; by_w and by_b gain those of w and b. */
static inline void normalize_backward(lane *x, const lane *grad, const float *w, const float *mean, const float *scale,
                                      lane *by_w, lane *by_b, long width, long batch, long lanes) {
    lane centre[PARTS] = {0}, factor[PARTS], along[PARTS] = {0}, total[PARTS] = {0};
    gather(scale, factor, 1, batch, lanes); /* zero behind the last sample, and so is the gradient */
    if (mean) gather(mean, centre, 1, batch, lanes);
    for (long d = 0; d < width; d++)
        for (int p = 0; p < PARTS; p++) {
            lane g = grad[d * PARTS + p], product = g * ((x[d * PARTS + p] - centre[p]) * factor[p]);
            by_w[d] += product;
            by_b[d] += g;
            along[p] += product * w[d];
            total[p] += g * w[d];
        }
    for (int p = 0; p < PARTS; p++) {
        along[p] /= (float)width;
        total[p] /= (float)width;
        if (!mean) total[p] = (lane){0};
    }
    for (long d = 0; d < width; d++)
        for (int p = 0; p < PARTS; p++) {
            lane normed = (x[d * PARTS + p] - centre[p]) * factor[p];
            x[d * PARTS + p] = factor[p] * (grad[d * PARTS + p] * w[d] - normed * along[p] - total[p]);
        }
}

#endif
