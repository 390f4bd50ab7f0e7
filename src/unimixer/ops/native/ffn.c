/* A per-token FFN of batch-last tokens and its gradients, with products of its own: a strip of samples goes through
 * both layers of a token while its hidden activations are in cache, and with a norm also through residual and norm.
 *
 * Tensors are contiguous: x (T, D, B), up (T, D, U), down (T, H, D) with U = H (GELU) or U = 2 H (SwiGLU, up first).
 * ``wide``, what enters the activation, may be kept for backward, strip by strip, (T, strips, U, 64), from an address
 * that 64 divides, as those of torch are. Forward shares out strips over threads and backward tokens, whose weights'
 * gradients a thread sums in the order of the batch. */

#include "activations.h"
#include "products.h"

#define UNITS 96 /* hidden units at a time, whose strips stay in cache from one product to the next */


/* A strip by samples, (64, columns): rows are padded to whole lanes with what stands there already. */
static void transpose(const lane *from, lane *to, long width, long parts) {
    const float *numbers = (const float *)from;
    float *turned = (float *)to;
    for (long d = 0; d < width; d++)
        for (long i = 0; i < STRIP; i++) turned[i * parts * LANES + d] = numbers[d * STRIP + i];
}

/* hidden = activation(wide); gate is NULL for GELU. */
static void activate_strip(const float *wide, const float *gate, float *hidden, long width) {
    if (gate) {
#pragma omp simd
        for (long i = 0; i < width * STRIP; i++) hidden[i] = wide[i] * gate[i] * sigmoid(gate[i]);
    } else {
#pragma omp simd
        for (long i = 0; i < width * STRIP; i++) hidden[i] = gelu(wide[i]);
    }
}

/* The gradients of wide and gate; in ``hidden`` the gradient of the hidden activations becomes these themselves. */
static void activate_strip_backward(const float *wide, const float *gate, float *hidden, float *to_wide, float *to_gate,
                                    long width) {
    if (gate) {
#pragma omp simd
        for (long i = 0; i < width * STRIP; i++) {
            float open = sigmoid(gate[i]), swish = gate[i] * open, above = hidden[i], up = wide[i];
            hidden[i] = up * swish;
            to_wide[i] = above * swish;
            to_gate[i] = above * up * (open + swish * (1.0f - open));
        }
    } else {
#pragma omp simd
        for (long i = 0; i < width * STRIP; i++) {
            float value;
            to_wide[i] = hidden[i] * gelu_slope(wide[i], &value);
            hidden[i] = value;
        }
    }
}

static void fill(lane *to, const float *numbers, long rows) {
    for (long row = 0; row < rows; row++)
        for (int p = 0; p < PARTS; p++) to[row * PARTS + p] = (lane){0} + (numbers ? numbers[row] : 0);
}

/* Sums over samples, a lane a row; total_of ends them. */
static void add_parts(const lane *from, lane *to, long rows) {
    for (long row = 0; row < rows; row++, from += PARTS) to[row] += (from[0] + from[1]) + (from[2] + from[3]);
}

static void totals(const lane *from, float *to, long rows) {
    for (long row = 0; row < rows; row++) to[row] = total_of(from[row]);
}

static lane *zeros(long lanes) {
    return memset(aligned_alloc(sizeof(lane), lanes * sizeof(lane)), 0, lanes * sizeof(lane));
}

/* out = FFN(x), or norm(x + FFN(x)) w + b where w is given; then ``sums`` keeps what is normalized. */
void ffn(const float *x, const float *up, const float *up_bias, const float *down, const float *down_bias,
         const float *w, const float *b, float *wide, float *sums, float *out, float *mean, float *scale, long tokens,
         long width, long hidden, long batch, long gated, float eps, int threads) {
    long strips = (batch + STRIP - 1) / STRIP, units = hidden * (1 + gated);
#pragma omp parallel num_threads(threads)
    {
        lane *in = buffer(width), *sum = buffer(width), *between = buffer(UNITS), *unkept = wide ? NULL : buffer(units);
#pragma omp for collapse(2)
        for (long t = 0; t < tokens; t++)
            for (long strip = 0; strip < strips; strip++) {
                long start = strip * STRIP, lanes = batch - start < STRIP ? batch - start : STRIP;
                long place = t * width * batch + start;
                lane *entering = wide ? (lane *)(wide + (t * strips + strip) * units * STRIP) : unkept;
                gather(x + place, in, width, batch, lanes);
                fill(entering, up_bias ? up_bias + t * units : NULL, units);
                fill(sum, down_bias ? down_bias + t * width : NULL, width);
                for (long i = 0; w && i < width * PARTS; i++) sum[i] += in[i];
                for (long h = 0; h < hidden; h += UNITS) {
                    long some = hidden - h < UNITS ? hidden - h : UNITS;
                    lane *open = entering + h * PARTS, *gate = gated ? open + hidden * PARTS : NULL;
                    const float *layer = up + t * width * units + h;
                    multiply(layer, 1, units, in, PARTS, open, PARTS, some, width, PARTS);
                    if (gate) multiply(layer + hidden, 1, units, in, PARTS, gate, PARTS, some, width, PARTS);
                    activate_strip((float *)open, (float *)gate, (float *)between, some);
                    multiply(down + (t * hidden + h) * width, 1, width, between, PARTS, sum, PARTS, width, some, PARTS);
                }
                if (w) {
                    scatter(sum, sums + place, width, batch, lanes);
                    normalize(sum, w, b, mean ? mean + t * batch + start : NULL, scale + t * batch + start, width, eps,
                              lanes);
                }
                scatter(sum, out + place, width, batch, lanes);
            }
        free(in), free(sum), free(between), free(unkept);
    }
}

/* Gradients of ffn; those of w and b come for every token alone. */
void ffn_backward(const float *grad, const float *x, const float *up, const float *down, const float *w,
                  const float *wide, const float *sums, const float *mean, const float *scale, float *to_x,
                  float *to_up, float *to_up_bias, float *to_down, float *to_down_bias, float *to_w, float *to_b,
                  long tokens, long width, long hidden, long batch, long gated, int threads) {
    long strips = (batch + STRIP - 1) / STRIP, units = hidden * (1 + gated), parts = (width + LANES - 1) / LANES;
    long sizes = (units + hidden) * parts + units + 3 * width; /* of all sums over samples */
#pragma omp parallel num_threads(threads)
    {
        lane *in = buffer(width), *above = buffer(width), *sum = buffer(width), *between = buffer(UNITS);
        lane *to_open = buffer(UNITS), *to_gate = buffer(UNITS), *by_up = zeros(sizes);
        lane *by_down = by_up + units * parts, *by_bias = by_down + hidden * parts, *by_down_bias = by_bias + units;
        lane *by_w = by_down_bias + width, *by_b = by_w + width;
        lane *x_samples = zeros(STRIP * parts), *samples = zeros(STRIP * parts);
#pragma omp for
        for (long t = 0; t < tokens; t++) {
            memset(by_up, 0, sizes * sizeof(lane));
            for (long strip = 0; strip < strips; strip++) {
                long start = strip * STRIP, lanes = batch - start < STRIP ? batch - start : STRIP;
                long place = t * width * batch + start, own = t * batch + start;
                gather(x + place, in, width, batch, lanes);
                transpose(in, x_samples, width, parts);
                gather(grad + place, w ? in : above, width, batch, lanes);
                if (w) {
                    gather(sums + place, above, width, batch, lanes);
                    normalize_backward(above, in, w, mean ? mean + own : NULL, scale + own, by_w, by_b, width, batch,
                                       lanes);
                    memcpy(sum, above, width * PARTS * sizeof(lane));
                } else
                    fill(sum, NULL, width);
                transpose(above, samples, width, parts);
                add_parts(above, by_down_bias, width);
                for (long h = 0; h < hidden; h += UNITS) {
                    long some = hidden - h < UNITS ? hidden - h : UNITS;
                    const float *layer = up + t * width * units + h;
                    const float *open = wide + ((t * strips + strip) * units + h) * STRIP;
                    fill(between, NULL, some);
                    multiply(down + (t * hidden + h) * width, width, 1, above, PARTS, between, PARTS, some, width, PARTS);
                    activate_strip_backward(open, gated ? open + hidden * STRIP : NULL, (float *)between,
                                            (float *)to_open, (float *)to_gate, some);
                    multiply((float *)between, STRIP, 1, samples, parts, by_down + h * parts, parts, some, STRIP, parts);
                    for (long part = 0; part <= gated; part++) {
                        lane *to = part ? to_gate : to_open;
                        add_parts(to, by_bias + part * hidden + h, some);
                        multiply((float *)to, STRIP, 1, x_samples, parts, by_up + (part * hidden + h) * parts, parts, some,
                                 STRIP, parts);
                        multiply(layer + part * hidden, units, 1, to, PARTS, sum, PARTS, width, some, PARTS);
                    }
                }
                scatter(sum, to_x + place, width, batch, lanes);
            }
            const float *up_sums = (const float *)by_up, *down_sums = (const float *)by_down;
            for (long u = 0; u < units; u += LANES) /* so many lines of memory are read side by side */
                for (long d = 0; d < width; d++)
                    for (long i = u; i < units && i < u + LANES; i++)
                        to_up[(t * width + d) * units + i] = up_sums[i * parts * LANES + d];
            for (long h = 0; h < hidden; h++)
                memcpy(to_down + (t * hidden + h) * width, down_sums + h * parts * LANES, width * sizeof(float));
            totals(by_bias, to_up_bias + t * units, units);
            totals(by_down_bias, to_down_bias + t * width, width);
            totals(by_w, to_w + t * width, width);
            totals(by_b, to_b + t * width, width);
        }
        free(in), free(above), free(sum), free(between), free(to_open), free(to_gate), free(by_up);
        free(x_samples), free(samples);
    }
}
