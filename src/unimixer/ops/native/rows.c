/* Rows of embedding tables that a batch has looked up: the sum of the gradients of each row, and Adam on these rows. */

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define DIGIT 11 /* bits that a pass of the sort orders */
#define VALUES (1 << DIGIT)
#define AHEAD 16 /* lines of gradients that are read this far ahead, since no processor guesses which come next */

/* Sort numbers whose upper half is below a limit by that half, equal ones as they came; ``other`` is as long, and
 * ``counts`` has VALUES places a thread. Every thread sorts its part of the numbers behind those of the threads before. */
static uint64_t *radix_sort(uint64_t *numbers, uint64_t *other, long *counts, long count, long limit, int threads) {
    for (int shift = 32; shift == 32 || (uint64_t)(limit - 1) >> (shift - 32); shift += DIGIT) {
#pragma omp parallel num_threads(threads)
        {
            long part = omp_get_thread_num(), parts = omp_get_num_threads(), *places = counts + part * VALUES;
            long first = count * part / parts, last = count * (part + 1) / parts;
            memset(places, 0, VALUES * sizeof *places);
            for (long i = first; i < last; i++) places[numbers[i] >> shift & (VALUES - 1)]++;
#pragma omp barrier
#pragma omp single
            for (long value = 0, place = 0; value < VALUES; value++)
                for (long i = value; i < parts * VALUES; i += VALUES) {
                    long own = counts[i];
                    counts[i] = place;
                    place += own;
                }
            for (long i = first; i < last; i++) other[places[numbers[i] >> shift & (VALUES - 1)]++] = numbers[i];
        }
        uint64_t *sorted = other;
        other = numbers, numbers = sorted;
    }
    return numbers;
}

/* met: the rows among ``rows`` in ascending order, each once; merged: for each the sum of its lines of ``gradients``,
 * those of ``source``, in the order of the batch. Rows and places in the batch have 32 bits. Returns the number of rows
 * met, or -1 without memory. */
long merge_rows(const int64_t *rows, const int64_t *source, const float *gradients, int64_t *met, float *merged,
                long count, long width, long limit, int threads) {
    uint64_t *space = malloc((2 * count + 1) * sizeof *space);
    int64_t *starts = malloc((count + 1) * sizeof *starts);
    long *counts = malloc(threads * VALUES * sizeof *counts);
    if (!space || !starts || !counts) {
        free(space), free(starts), free(counts);
        return -1;
    }
#pragma omp parallel for num_threads(threads)
    for (long i = 0; i < count; i++) space[i] = (uint64_t)rows[i] << 32 | (uint64_t)i;
    const uint64_t *sorted = radix_sort(space, space + count, counts, count, limit, threads);
    long found = 0;
    for (long i = 0; i < count; i++)
        if (i == 0 || sorted[i] >> 32 != sorted[i - 1] >> 32) {
            met[found] = sorted[i] >> 32;
            starts[found++] = i;
        }
    starts[found] = count;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 64) /* some rows are met far more often than others */
    for (long row = 0; row < found; row++) {
        float *sum = merged + row * width;
        memcpy(sum, gradients + source[(uint32_t)sorted[starts[row]]] * width, width * sizeof *sum);
        for (long i = starts[row] + 1; i < starts[row + 1]; i++) {
            const float *line = gradients + source[(uint32_t)sorted[i]] * width;
            if (i + AHEAD < count) __builtin_prefetch(gradients + source[(uint32_t)sorted[i + AHEAD]] * width);
#pragma omp simd
            for (long d = 0; d < width; d++) sum[d] += line[d];
        }
    }
    free(space), free(starts), free(counts);
    return found;
}

/* Adam on some rows: first and second are the moments of all rows, rate and eps hold the corrections of the step. */
void adam_rows(float *weight, float *first, float *second, const int64_t *rows, const float *gradient, long count,
               long width, float beta1, float beta2, float rate, float eps, int threads) {
#pragma omp parallel for num_threads(threads)
    for (long i = 0; i < count; i++) {
        float *w = weight + rows[i] * width, *m = first + rows[i] * width, *v = second + rows[i] * width;
        const float *g = gradient + i * width;
#pragma omp simd
        for (long d = 0; d < width; d++) {
            m[d] += (1 - beta1) * (g[d] - m[d]);
            v[d] = beta2 * v[d] + (1 - beta2) * g[d] * g[d];
            w[d] -= rate * (m[d] / (sqrtf(v[d]) + eps));
        }
    }
}
