/* A ranker as a list of steps, run for a tile of candidates at a time, so that all activations of a tile stay in cache.
 *
 * An activation is a row of LANES numbers, one a candidate; rows are numbered in one scratch memory of a call. Weights
 * of products lie in groups of ROWS outputs, the outputs of a group side by side. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#include <immintrin.h>
#define FLOATS 16
#define ROWS 8
#elif defined(__AVX__)
#define FLOATS 8
#define ROWS 4
#else
#define FLOATS 4
#define ROWS 8
#endif
#define VECTORS 3 /* of a row; with ROWS they fill the registers of the processor in a product */
#define LANES (VECTORS * FLOATS)

#define AT(row, v) (*(const Vector *)((row) + (v) * FLOATS))

static const float ZEROS[LANES];

typedef float Vector __attribute__((vector_size(4 * FLOATS), aligned(4)));
typedef int32_t Whole __attribute__((vector_size(4 * FLOATS), aligned(4)));
typedef uint32_t Words __attribute__((vector_size(4 * FLOATS), aligned(4)));

typedef struct { /* scoring.py says what each kind of step reads; -1 where rows are absent */
    int64_t kind, to, first, in, out, weight, bias, stride, width, times, source, form;
} Step;

typedef struct { /* tensors of a request, and memory of a call */
    const int32_t *ids;
    const float *dense;
    const float *const *tables;
    const int32_t *const *values;
    const int64_t *const *offsets;
    const float *shared; /* what the user's steps gave, one number a row */
    float *logits, *probabilities, *scratch;
    int64_t id_columns, dense_columns, start, rows; /* candidates from `start` to before `rows` */
} Call;

enum { IDS, LIST, NUMBER, VECTOR, MISSING, PRODUCT, NORM, ADD, REPEAT, MEAN, GIVE };
enum { NONE, GELU, SILU, SWIGLU };

int64_t lanes(void) { return LANES; }
int64_t group_rows(void) { return ROWS; }

static inline Vector all(float x) { return (Vector){} + x; }
#if defined(__AVX512F__)
static inline Vector clamped(Vector x, float low, float high) {
    return _mm512_max_ps(_mm512_min_ps(x, all(high)), all(low));
}
#else
static inline Vector pick(Whole mask, Vector a, Vector b) { return (Vector)((mask & (Whole)a) | (~mask & (Whole)b)); }
static inline Vector clamped(Vector x, float low, float high) {
    x = pick(x < high, x, all(high));
    return pick(x > low, x, all(low));
}
#endif

#define FLOAT Vector
#define BITS Words
#define CLAMPED clamped
#include "sigmoid.h"

static inline Vector scale(Vector x) {
    for (int i = 0; i < FLOATS; i++) x[i] = 1.0f / sqrtf(x[i]);
    return x;
}

static inline Vector silu(Vector x) { return x * sigmoid(x); }

/* x Phi(x) with Phi(x) = 1/2 + x P(x^2), P fitted to the normal distribution function where |x| < 5.2, and Phi constant
 * beyond; the error is 2e-7 of max(1, |x|). No division and no exponential. */
static inline Vector gelu(Vector x) {
    static const float P[15] = {1.359499788e-01f, -6.774377112e-02f, 5.002602169e-02f, -3.992661036e-02f,
                                3.196441218e-02f, -2.475154191e-02f, 1.811666355e-02f, -1.240248890e-02f,
                                8.074775899e-03f, -4.970414928e-03f, 2.542284012e-03f, -1.069115714e-03f,
                                7.085168825e-04f, -5.301015402e-04f, 1.652195131e-04f};
    Vector k = clamped(x, -5.2f, 5.2f), t = k * k * (float)(2 / (5.2 * 5.2)) - 1.0f, p = all(P[14]);
    for (int i = 13; i >= 0; i--) p = p * t + P[i];
    return x * (k * p + 0.5f);
}

static inline Vector activated(Vector x, const int form) {
    return form == GELU ? gelu(x) : form == SILU ? silu(x) : x;
}

#if ROWS == 8
#define EACH(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7)
#define EACH_PAIR(M) M(0, 4) M(1, 5) M(2, 6) M(3, 7)
#else
#define EACH(M) M(0) M(1) M(2) M(3)
#define EACH_PAIR(M) M(0, 2) M(1, 3)
#endif

/* A group of outputs in some columns. The sums are named one by one, because arrays do not stay in registers. */
static inline __attribute__((always_inline)) void group(const Step *s, const float *w, const float *bias,
                                                        const float *gates, const float *in, float *out, int64_t left,
                                                        const int vectors, const int form) {
    int64_t stride = s->stride * LANES;
    Vector y = {}, z = {};
#define START(r) Vector a##r = {}, b##r = {}, c##r = {};
    EACH(START)
    for (int64_t d = 0; d < s->in; d++, in += stride, w += ROWS) {
        Vector x = *(const Vector *)in;
        if (vectors > 1) y = *(const Vector *)(in + FLOATS);
        if (vectors > 2) z = *(const Vector *)(in + 2 * FLOATS);
#define MULTIPLY(r) a##r += x * w[r], b##r += y * w[r], c##r += z * w[r];
        EACH(MULTIPLY)
    }
#define PUT(r, v, x) \
    if (vectors > v) *(Vector *)(out + r * stride + v * FLOATS) = x;
#define GIVE_ROW(r) \
    if (r < left) { \
        float add = bias ? bias[r] : 0.0f; \
        PUT(r, 0, activated(a##r + add, form)) PUT(r, 1, activated(b##r + add, form)) \
        PUT(r, 2, activated(c##r + add, form)) \
    }
#define GIVE_PAIR(r, g) \
    if (r < left) { \
        float add = bias ? bias[r] : 0.0f, open = gates ? gates[r] : 0.0f; \
        PUT(r, 0, (a##r + add) * silu(a##g + open)) PUT(r, 1, (b##r + add) * silu(b##g + open)) \
        PUT(r, 2, (c##r + add) * silu(c##g + open)) \
    }
    if (form == SWIGLU) {
        EACH_PAIR(GIVE_PAIR)
    } else {
        EACH(GIVE_ROW)
    }
}

/* out = activation(W in + b) for some columns of rows. */
static inline __attribute__((always_inline)) void product(const Step *s, const float *w, const float *bias,
                                                          const float *in, float *out, const int vectors,
                                                          const int form) {
    int64_t shown = form == SWIGLU ? ROWS / 2 : ROWS;
    for (int64_t first = 0; first < s->out; first += shown, w += s->in * ROWS, out += shown * s->stride * LANES)
        group(s, w, bias ? bias + first : 0, bias ? bias + s->out + first : 0, in, out, s->out - first, vectors, form);
}

#define WITH_VECTORS(form) \
    static void product_##form(const Step *s, const float *w, const float *bias, const float *in, float *out, \
                               int vectors) { \
        if (vectors == 3) product(s, w, bias, in, out, 3, form); \
        else if (vectors == 2) product(s, w, bias, in, out, 2, form); \
        else product(s, w, bias, in, out, 1, form); \
    }
WITH_VECTORS(NONE)
WITH_VECTORS(GELU)
WITH_VECTORS(SILU)
WITH_VECTORS(SWIGLU)
static void (*const PRODUCTS[])(const Step *, const float *, const float *, const float *, float *, int) = {
    product_NONE, product_GELU, product_SILU, product_SWIGLU};

static void products(const Step *s, const float *weights, const float *shared, float *scratch, int vectors) {
    int64_t shown = s->form == SWIGLU ? ROWS / 2 : ROWS, packed = (s->out + shown - 1) / shown * s->in * ROWS;
    const float *bias = s->bias < 0 ? 0 : s->source ? shared + s->bias : weights + s->bias;
    const float *in = scratch + s->first * LANES, *w = weights + s->weight;
    float *out = scratch + s->to * LANES;
    for (int64_t time = 0; time < s->times; time++, w += packed) {
        for (int64_t column = 0; column < s->width; column++)
            PRODUCTS[s->form](s, w, bias, in + column * LANES, out + column * LANES, s->width > 1 ? VECTORS : vectors);
        in += s->in * s->stride * LANES;
        out += s->out * s->stride * LANES;
        if (bias) bias += s->form == SWIGLU ? 2 * s->out : s->out;
    }
}

/* to = norm(first + source) over the `in` rows of each of `times` tokens; the rows of source are taken in an order. */
static void norm(const Step *s, const float *weights, const int64_t *orders, float *scratch) {
    const float *w = weights + s->weight, *b = s->bias < 0 ? 0 : weights + s->bias;
    const int64_t *order = s->width < 0 ? 0 : orders + s->width;
    float eps = weights[s->stride], share = 1.0f / s->in;
    for (int64_t first = 0; first < s->times * s->in; first += s->in) {
        const float *x = scratch + (s->first + first) * LANES, *y = s->source < 0 ? 0 : scratch + s->source * LANES;
        float *out = scratch + (s->to + first) * LANES;
        Vector c0 = {}, c1 = {}, c2 = {}, q0 = {}, q1 = {}, q2 = {};
        for (int64_t d = 0; d < s->in; d++) {
            const float *a = x + d * LANES, *more = y ? y + (order ? order[first + d] : first + d) * LANES : ZEROS;
            Vector *to = (Vector *)(out + d * LANES);
            to[0] = AT(a, 0) + AT(more, 0), to[1] = AT(a, 1) + AT(more, 1), to[2] = AT(a, 2) + AT(more, 2);
            c0 += to[0], c1 += to[1], c2 += to[2];
        }
        share = s->form ? share : 0.0f;
        c0 *= share, c1 *= share, c2 *= share;
        for (int64_t d = 0; d < s->in; d++) {
            const float *a = out + d * LANES;
            Vector x0 = AT(a, 0) - c0, x1 = AT(a, 1) - c1, x2 = AT(a, 2) - c2;
            q0 += x0 * x0, q1 += x1 * x1, q2 += x2 * x2;
        }
        q0 = scale(q0 / (float)s->in + eps), q1 = scale(q1 / (float)s->in + eps), q2 = scale(q2 / (float)s->in + eps);
        for (int64_t d = 0; d < s->in; d++) {
            Vector *to = (Vector *)(out + d * LANES);
            float shift = b ? b[d] : 0.0f;
            to[0] = (to[0] - c0) * q0 * w[d] + shift, to[1] = (to[1] - c1) * q1 * w[d] + shift;
            to[2] = (to[2] - c2) * q2 * w[d] + shift;
        }
    }
}

static inline float known(float x) { /* as torch.nan_to_num */
    return isnan(x) ? 0.0f : fminf(fmaxf(x, -3.40282347e38f), 3.40282347e38f);
}

/* Steps that read the tensors of a request, for the candidates from `start` on. */
static void read(const Step *s, const float *weights, const Call *call, int64_t start, int64_t count, float *to) {
    const float *w = weights + s->weight, *table = s->kind <= LIST ? call->tables[s->source] : 0;
    for (int64_t lane = 0; lane < count; lane++, to++) {
        int64_t row = start + lane;
        const float *dense = call->dense + row * call->dense_columns + s->first;
        if (s->kind == IDS) {
            const float *vector = table + (s->stride + call->ids[row * call->id_columns + s->first]) * s->out;
            for (int64_t d = 0; d < s->out; d++) to[d * LANES] = vector[d];
        } else if (s->kind == LIST) {
            const int32_t *values = call->values[s->times] + s->first;
            int64_t first = call->offsets[s->times][row], last = call->offsets[s->times][row + 1];
            for (int64_t d = 0; d < s->out; d++) to[d * LANES] = 0.0f;
            for (int64_t event = first; event < last; event++) {
                const float *vector = table + (s->stride + values[event * s->width]) * s->out;
                for (int64_t d = 0; d < s->out; d++) to[d * LANES] += vector[d];
            }
            for (int64_t d = 0; d < s->out && last > first; d++) to[d * LANES] /= last - first;
        } else if (s->kind == NUMBER) {
            float x = known(*dense);
            const float *b = w + s->out * (isnan(*dense) ? 2 : 1); /* known() of a missing number is 0 */
            for (int64_t d = 0; d < s->out; d++) to[d * LANES] = x * w[d] + b[d];
        } else if (s->kind == VECTOR) {
            for (int64_t d = 0; d < s->out; d++) to[d * LANES] = known(dense[d]);
        } else if (isnan(*dense)) { /* MISSING */
            for (int64_t d = 0; d < s->out; d++) to[d * LANES] = w[d];
        }
    }
}

static void give(const Step *s, const Call *call, int64_t start, int64_t count, const float *from) {
    for (int64_t lane = 0; lane < count; lane++)
        for (int64_t d = 0; d < s->out; d++) {
            float x = from[d * LANES + lane];
            int64_t at = (start + lane) * s->out + d;
            call->logits[at] = x;
            if (call->probabilities) call->probabilities[at] = 1.0f / (1.0f + expf(-x));
        }
}

void run_steps(const Step *steps, int64_t count, const float *weights, const int64_t *orders, const Call *call) {
    float *scratch = call->scratch;
    for (int64_t start = call->start; start < call->rows; start += LANES) {
        int64_t tile = call->rows - start < LANES ? call->rows - start : LANES;
        for (const Step *s = steps; s < steps + count; s++) {
            float *to = scratch + s->to * LANES;
            const float *from = scratch + s->first * LANES, *source = scratch + s->source * LANES;
            switch (s->kind) {
            case PRODUCT: products(s, weights, call->shared, scratch, (tile + FLOATS - 1) / FLOATS); break;
            case NORM: norm(s, weights, orders, scratch); break;
            case ADD: /* to = from + factor * source, whose rows are taken in an order; from may be absent */
                for (int64_t d = 0; d < s->out; d++) {
                    const float *x = s->first < 0 ? ZEROS : from + d * LANES;
                    const float *more = source + (s->width < 0 ? d : orders[s->width + d]) * LANES;
                    for (int i = 0; i < LANES; i++) to[d * LANES + i] = x[i] + weights[s->weight] * more[i];
                }
                break;
            case REPEAT: /* what the user's steps gave, for every candidate */
                for (int64_t d = 0; d < s->out; d++)
                    for (int64_t i = 0; i < LANES; i++) to[d * LANES + i] = call->shared[s->first + d];
                break;
            case MEAN: /* of `times` tokens */
                for (int64_t d = 0; d < s->out; d++) {
                    float sums[LANES] = {0};
                    for (int64_t t = 0; t < s->times; t++)
                        for (int i = 0; i < LANES; i++) sums[i] += from[(t * s->out + d) * LANES + i];
                    for (int i = 0; i < LANES; i++) to[d * LANES + i] = sums[i] / s->times;
                }
                break;
            case GIVE: give(s, call, start, tile, from); break;
            default: read(s, weights, call, start, tile, to);
            }
        }
    }
}
