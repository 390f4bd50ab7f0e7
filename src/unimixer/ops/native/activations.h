/* Sigmoid and GELU in forms that a compiler turns into few vector instructions. */

#ifndef ACTIVATIONS_H
#define ACTIVATIONS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline float clamped(float x, float low, float high) { return x > high ? high : x < low ? low : x; }

#define FLOAT float
#define BITS uint32_t
#define CLAMPED clamped
#include "sigmoid.h"

/* The normal distribution function at -size, from a polynomial for its binary logarithm. This one and that of
 * gelu_slope have the least largest absolute error up to 8, where the function is 6e-16. */
static inline float lower_tail(float size) {
    float q = -2.2760444e-6f;
    q = q * size + 3.2970318e-5f;
    q = q * size - 1.5729117e-4f;
    q = q * size - 2.0244437e-4f;
    q = q * size + 7.1427282e-3f;
    q = q * size - 5.2546389e-2f;
    q = q * size - 4.5919308e-1f;
    q = q * size - 1.1511070f;
    q = q * size - 0.99999994f;
    return power(q);
}

static inline float up_to_8(float size) { return size > 8.0f ? 8.0f : size; }

/* x Phi(x) = max(x, 0) - |x| Phi(-|x|), within 2e-7. */
static inline float gelu(float x) {
    float size = up_to_8(fabsf(x));
    return 0.5f * (x + fabsf(x)) - size * lower_tail(size);
}

/* The derivative of gelu, within 2e-7; ``value`` becomes gelu. At -size it is a polynomial times Phi(-size). */
static inline float gelu_slope(float x, float *value) {
    float size = up_to_8(fabsf(x)), tail = lower_tail(size);
    float r = -1.0961306e-5f;
    r = r * size + 1.4027020e-4f;
    r = r * size - 5.6187052e-4f;
    r = r * size - 9.1970799e-4f;
    r = r * size + 2.0079613e-2f;
    r = r * size - 1.0944920e-1f;
    r = r * size - 6.3652039e-1f;
    r = r * size - 7.9789281e-1f;
    r = r * size + 1.0000001f;
    *value = 0.5f * (x + fabsf(x)) - size * tail;
    return 0.5f + copysignf(0.5f - tail * r, x);
}

#endif
