/* Exponentials, sigmoids and the normal distribution, in forms that a compiler turns into vector instructions. */

#ifndef ACTIVATIONS_H
#define ACTIVATIONS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline float clamped(float x, float low, float high) { return x > high ? high : x < low ? low : x; }

#define FLOAT float
#define BITS uint32_t
#define CLAMPED clamped
#include "exponential.h"

static inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

/* The normal distribution function, from the rational form of erf in Abramowitz and Stegun, 7.1.26, and its density. */
static inline float normal(float x, float *density) {
    float size = fabsf(x), tail = exponential(-0.5f * x * x);
    float t = 1.0f / (1.0f + 0.3275911f * 0.70710678f * size);
    float p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    float half = 0.5f * p * t * tail;
    *density = 0.39894228f * tail;
    return x < 0 ? half : 1.0f - half;
}

#endif
