/* Float32 kernels on batch-last tensors: one pass over memory where separate operations take many.
 *
 * Tensors are contiguous (T, D, B), samples last. A row is the B numbers of one feature of one token. Threads share out
 * tokens or rows, and every sum has one order, so that results do not depend on the number of threads. */

#include <math.h>
#include <string.h>

#include "activations.h"

#define LANES 128 /* samples that a norm takes through all features of a token at a time, so that they stay in cache */

/* hidden = activation(wide + bias): SwiGLU of wide (T, 2 H, B), up first, or GELU of wide (T, H, B). */
void activate(const float *wide, const float *bias, float *hidden, long tokens, long width, long batch, long gated,
              int threads) {
#pragma omp parallel for num_threads(threads)
    for (long row = 0; row < tokens * width; row++) {
        float *out = hidden + row * batch, unused;
        if (gated) {
            long up_row = row / width * 2 * width + row % width, gate_row = up_row + width;
            const float *up = wide + up_row * batch, *gate = wide + gate_row * batch;
            float up_bias = bias ? bias[up_row] : 0, gate_bias = bias ? bias[gate_row] : 0;
#pragma omp simd
            for (long i = 0; i < batch; i++) {
                float g = gate[i] + gate_bias;
                out[i] = (up[i] + up_bias) * g * sigmoid(g);
            }
        } else {
            const float *in = wide + row * batch;
            float own = bias ? bias[row] : 0;
#pragma omp simd private(unused)
            for (long i = 0; i < batch; i++) {
                float x = in[i] + own;
                out[i] = x * normal(x, &unused);
            }
        }
    }
}

/* The hidden activations once more, the gradient before them, and its sums over the batch. */
void activate_backward(const float *wide, const float *bias, const float *grad, float *hidden, float *to_wide,
                       float *to_bias, long tokens, long width, long batch, long gated, int threads) {
#pragma omp parallel for num_threads(threads)
    for (long row = 0; row < tokens * width; row++) {
        const float *from = grad + row * batch;
        float *out = hidden + row * batch;
        if (gated) {
            long up_row = row / width * 2 * width + row % width, gate_row = up_row + width;
            const float *up = wide + up_row * batch, *gate = wide + gate_row * batch;
            float *to_up = to_wide + up_row * batch, *to_gate = to_wide + gate_row * batch;
            float up_bias = bias ? bias[up_row] : 0, gate_bias = bias ? bias[gate_row] : 0;
            float up_sum = 0, gate_sum = 0;
#pragma omp simd reduction(+ : up_sum, gate_sum)
            for (long i = 0; i < batch; i++) {
                float u = up[i] + up_bias, g = gate[i] + gate_bias, open = sigmoid(g), swish = g * open;
                float a = from[i] * swish, b = from[i] * u * (open + swish * (1.0f - open));
                out[i] = u * swish;
                to_up[i] = a;
                to_gate[i] = b;
                up_sum += a;
                gate_sum += b;
            }
            to_bias[up_row] = up_sum;
            to_bias[gate_row] = gate_sum;
        } else {
            const float *in = wide + row * batch;
            float *to_in = to_wide + row * batch, own = bias ? bias[row] : 0, sum = 0;
#pragma omp simd reduction(+ : sum)
            for (long i = 0; i < batch; i++) {
                float density, x = in[i] + own, share = normal(x, &density), a = from[i] * (share + x * density);
                out[i] = x * share;
                to_in[i] = a;
                sum += a;
            }
            to_bias[row] = sum;
        }
    }
}

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
