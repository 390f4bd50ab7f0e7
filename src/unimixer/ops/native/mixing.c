/* Norm(x + mixing(x)) of batch-last tokens and its gradients: a strip of samples goes through all tokens while in cache.
 *
 * The mixing gives token t of head h the sum over u of heads[h, t, u] x_u, or, without matrices, head t of token h: the
 * rule of TokenMixer. Strips are shared out over threads. Each writes its own part of the gradients of weights, which
 * the caller adds up, so that no sum depends on the number of threads. */

#include "products.h"

#define BLOCK 4 /* tokens whose sums are kept in registers */

/* to = x + mixing(x), or with the transposed mixing; ``from`` and ``to`` hold (T, D) rows of a strip. */
static void mix(const float *heads, int transposed, const lane *from, lane *to, long tokens, long width, long num_heads) {
    long head = width / num_heads, step = width * PARTS;
    if (!heads) { /* as many heads as tokens: the rule is its own inverse */
        for (long t = 0; t < tokens; t++)
            for (long h = 0; h < tokens; h++)
                for (long i = 0; i < head * PARTS; i++)
                    to[t * step + h * head * PARTS + i] =
                        from[t * step + h * head * PARTS + i] + from[h * step + t * head * PARTS + i];
        return;
    }
    memcpy(to, from, tokens * step * sizeof(lane));
    for (long h = 0; h < num_heads; h++)
        multiply(heads + h * tokens * tokens, transposed ? 1 : tokens, transposed ? tokens : 1, from + h * head * PARTS,
                 step, to + h * head * PARTS, step, tokens, tokens, head * PARTS);
}

/* to[k, u] = the sum over all numbers of a head of grad[k] x[u]. */
INLINE void products(const vector *grad, const vector *x, float *to, int rows, int columns, long head, long tokens,
                     long step) {
    vector sums[BLOCK][COLUMNS] = {0};
    for (long i = 0; i < head; i++)
#pragma GCC unroll 4
        for (int k = 0; k < rows; k++)
#pragma GCC unroll 4
            for (int u = 0; u < columns; u++) sums[k][u] += grad[k * step + i] * x[u * step + i];
    for (int k = 0; k < rows; k++)
        for (int u = 0; u < columns; u++) {
            float sum = 0;
            for (int i = 0; i < NUMBERS; i++) sum += sums[k][u][i];
            to[k * tokens + u] = sum;
        }
}

/* The gradient of the matrices, (H, T, T). */
static void outer(const lane *grad, const lane *x, float *to, long tokens, long width, long num_heads) {
    long head = width / num_heads * SHARES, step = width * SHARES;
    for (long h = 0; h < num_heads; h++, to += tokens * tokens)
        for (long t = 0; t < tokens;) {
            int rows = tokens - t < BLOCK ? 1 : BLOCK;
            const vector *left = (const vector *)grad + t * step + h * head;
            for (long u = 0; u < tokens;) {
                int columns = rows == 1 || tokens - u < COLUMNS ? 1 : COLUMNS;
                const vector *right = (const vector *)x + u * step + h * head;
                if (columns > 1)
                    products(left, right, to + t * tokens + u, BLOCK, COLUMNS, head, tokens, step);
                else if (rows > 1)
                    products(left, right, to + t * tokens + u, BLOCK, 1, head, tokens, step);
                else
                    products(left, right, to + t * tokens + u, 1, 1, head, tokens, step);
                u += columns;
            }
            t += rows;
        }
}

/* out = norm(x + mixing(x)) w + b; b may be NULL, mean is so for RMS normalization, heads for the rule. */
void mixed_norm(const float *x, const float *heads, const float *w, const float *b, float *out, float *mean,
                float *scale, long tokens, long width, long batch, long num_heads, float eps, int threads) {
#pragma omp parallel num_threads(threads)
    {
        lane *in = buffer(tokens * width), *sums = buffer(tokens * width);
#pragma omp for
        for (long start = 0; start < batch; start += STRIP) {
            long lanes = batch - start < STRIP ? batch - start : STRIP;
            gather(x + start, in, tokens * width, batch, lanes);
            mix(heads, 0, in, sums, tokens, width, num_heads);
            for (long t = 0; t < tokens; t++)
                normalize(sums + t * width * PARTS, w, b, mean ? mean + t * batch + start : NULL,
                          scale + t * batch + start, width, eps, lanes);
            scatter(sums, out + start, tokens * width, batch, lanes);
        }
        free(in), free(sums);
    }
}

/* Gradients of mixed_norm; those of heads, w and b come for every strip alone. */
void mixed_norm_backward(const float *grad, const float *x, const float *heads, const float *w, const float *mean,
                         const float *scale, float *to_x, float *to_heads, float *to_w, float *to_b, long tokens,
                         long width, long batch, long num_heads, int threads) {
#pragma omp parallel num_threads(threads)
    {
        lane *in = buffer(tokens * width), *sums = buffer(tokens * width), *from = buffer(width);
        lane *by_w = buffer(width), *by_b = by_w + width;
#pragma omp for
        for (long start = 0; start < batch; start += STRIP) {
            long lanes = batch - start < STRIP ? batch - start : STRIP, strip = start / STRIP;
            gather(x + start, in, tokens * width, batch, lanes);
            mix(heads, 0, in, sums, tokens, width, num_heads);
            memset(by_w, 0, 2 * width * sizeof(lane));
            for (long t = 0; t < tokens; t++) {
                gather(grad + t * width * batch + start, from, width, batch, lanes);
                normalize_backward(sums + t * width * PARTS, from, w, mean ? mean + t * batch + start : NULL,
                                   scale + t * batch + start, by_w, by_b, width, batch, lanes);
            }
            for (long d = 0; d < width; d++) {
                to_w[strip * width + d] = total_of(by_w[d]);
                to_b[strip * width + d] = total_of(by_b[d]);
            }
            if (heads) outer(sums, in, to_heads + strip * num_heads * tokens * tokens, tokens, width, num_heads);
            mix(heads, 1, sums, in, tokens, width, num_heads);
            scatter(in, to_x + start, tokens * width, batch, lanes);
        }
        free(in), free(sums), free(from), free(by_w);
    }
}
