/* Float32 kernels on batch-last tensors: one pass over memory where separate operations take many.
 *
 * Tensors are contiguous (T, D, B), samples last. A row is the B numbers of one feature of one token. Threads share out
 * tokens or rows, and every sum has one order, so that results do not depend on the number of threads. */

#include <math.h>
#include <string.h>

#include "activations.h"
#include "bfloat16.h"

#define LANES 128 /* samples that a norm takes through all features of a token at a time, so that they stay in cache */

#define NUMBER float
#define READ(x) (x)
#define WRITE(x) (x)
#define NAMED(name) name
#include "activate.h"

#define NUMBER bfloat16
#define READ(x) widened(x)
#define WRITE(x) narrowed(x)
#define NAMED(name) name##_bf16
#include "activate.h"

static const float ZEROS[LANES];

/* out = norm(x + y) w + b over the features of every token; y and b may be NULL, mean is so for RMS normalization. */
void norm(const float *x, const float *y, const float *w, const float *b, float *out, float *mean, float *scale,
          long tokens, long width, long batch, float eps, int threads) {
#pragma omp parallel for num_threads(threads)
    for (long token = 0; token < tokens; token++)
        for (long start = 0; start < batch; start += LANES) {
            long lanes = batch - start < LANES ? batch - start : LANES, first = token * width * batch + start;
            float centre[LANES] = {0}, factor[LANES] = {0};
            if (mean) {
                for (long d = 0; d < width; d++) {
                    const float *a = x + first + d * batch, *more = y ? y + first + d * batch : ZEROS;
#pragma omp simd
                    for (long i = 0; i < lanes; i++) centre[i] += a[i] + more[i];
                }
#pragma omp simd
                for (long i = 0; i < lanes; i++) mean[token * batch + start + i] = centre[i] /= width;
            }
            for (long d = 0; d < width; d++) {
                const float *a = x + first + d * batch, *more = y ? y + first + d * batch : ZEROS;
#pragma omp simd
                for (long i = 0; i < lanes; i++) {
                    float value = a[i] + more[i] - centre[i];
                    factor[i] += value * value;
                }
            }
#pragma omp simd
            for (long i = 0; i < lanes; i++)
                scale[token * batch + start + i] = factor[i] = 1.0f / sqrtf(factor[i] / width + eps);
            for (long d = 0; d < width; d++) {
                const float *a = x + first + d * batch, *more = y ? y + first + d * batch : ZEROS;
                float *to = out + first + d * batch, own = w[d], shift = b ? b[d] : 0;
#pragma omp simd
                for (long i = 0; i < lanes; i++) to[i] = (a[i] + more[i] - centre[i]) * factor[i] * own + shift;
            }
        }
}

/* Gradients of norm: of x and of y, which are the same, and of w and b for every token alone, (T, D). */
void norm_backward(const float *grad, const float *x, const float *y, const float *w, const float *mean,
                   const float *scale, float *to_x, float *to_w, float *to_b, long tokens, long width, long batch,
                   int threads) {
#pragma omp parallel for num_threads(threads)
    for (long token = 0; token < tokens; token++) {
        memset(to_w + token * width, 0, width * sizeof(float));
        memset(to_b + token * width, 0, width * sizeof(float));
        for (long start = 0; start < batch; start += LANES) {
            long lanes = batch - start < LANES ? batch - start : LANES, first = token * width * batch + start;
            float centre[LANES] = {0}, factor[LANES], along[LANES] = {0}, total[LANES] = {0};
            memcpy(factor, scale + token * batch + start, lanes * sizeof(float));
            if (mean) memcpy(centre, mean + token * batch + start, lanes * sizeof(float));
            for (long d = 0; d < width; d++) {
                const float *a = x + first + d * batch, *more = y ? y + first + d * batch : ZEROS;
                const float *g = grad + first + d * batch;
                float own = w[d], products = 0, plain = 0;
#pragma omp simd reduction(+ : products, plain)
                for (long i = 0; i < lanes; i++) {
                    float product = g[i] * (a[i] + more[i] - centre[i]) * factor[i];
                    products += product;
                    plain += g[i];
                    along[i] += product * own;
                    total[i] += g[i] * own;
                }
                to_w[token * width + d] += products;
                to_b[token * width + d] += plain;
            }
#pragma omp simd
            for (long i = 0; i < lanes; i++) {
                along[i] /= width;
                total[i] = mean ? total[i] / width : 0;
            }
            for (long d = 0; d < width; d++) {
                const float *a = x + first + d * batch, *more = y ? y + first + d * batch : ZEROS;
                const float *g = grad + first + d * batch;
                float *to = to_x + first + d * batch, own = w[d];
#pragma omp simd
                for (long i = 0; i < lanes; i++)
                    to[i] = factor[i] * (g[i] * own - (a[i] + more[i] - centre[i]) * factor[i] * along[i] - total[i]);
            }
        }
    }
}
