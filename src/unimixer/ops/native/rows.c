/* Rows of embedding tables that a batch has looked up: the sum of the gradients of each row, and Adam on these rows. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define DIGIT 11 /* bits that a pass of the sort orders */
#define VALUES (1 << DIGIT)

/* Sort numbers whose upper half is below a limit by that half, equal ones as they came; ``other`` is as long. */
static uint64_t *radix_sort(uint64_t *numbers, uint64_t *other, long count, long limit) {
    for (int shift = 32; shift == 32 || (uint64_t)(limit - 1) >> (shift - 32); shift += DIGIT) {
        long starts[VALUES + 1] = {0};
        for (long i = 0; i < count; i++) starts[(numbers[i] >> shift & (VALUES - 1)) + 1]++;
        for (long value = 0; value < VALUES; value++) starts[value + 1] += starts[value];
        for (long i = 0; i < count; i++) other[starts[numbers[i] >> shift & (VALUES - 1)]++] = numbers[i];
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
    if (!space || !starts) {
        free(space), free(starts);
        return -1;
    }
    for (long i = 0; i < count; i++) space[i] = (uint64_t)rows[i] << 32 | (uint64_t)i;
    const uint64_t *sorted = radix_sort(space, space + count, count, limit);
    long found = 0;
    for (long i = 0; i < count; i++)
        if (i == 0 || sorted[i] >> 32 != sorted[i - 1] >> 32) {
            met[found] = sorted[i] >> 32;
            starts[found++] = i;
        }
    starts[found] = count;
#pragma omp parallel for num_threads(threads)
    for (long row = 0; row < found; row++) {
        float *sum = merged + row * width;
        memcpy(sum, gradients + source[(uint32_t)sorted[starts[row]]] * width, width * sizeof *sum);
        for (long i = starts[row] + 1; i < starts[row + 1]; i++) {
            const float *line = gradients + source[(uint32_t)sorted[i]] * width;
#pragma omp simd
            for (long d = 0; d < width; d++) sum[d] += line[d];
        }
    }
    free(space), free(starts);
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
