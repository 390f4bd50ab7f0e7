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

/* Numbers to sort and their copy, and counts of the sort; NULL without memory. */
static uint64_t *sort_space(long count, int threads) {
    return malloc((2 * count + 1) * sizeof(uint64_t) + (threads * VALUES + count + 1) * sizeof(long));
}

/* The line that the lower half of a number counts: ``split`` lines of ``first``, then those of ``second``. */
static inline const float *line_of(uint64_t number, const float *first, const float *second, long split, long width) {
    long line = (uint32_t)number;
    return line < split ? first + line * width : second + (line - split) * width;
}

/* The rows in the upper halves of ``space``, in ascending order, each once, and for each the sum of its lines. Equal
 * rows keep their order. Returns the number of rows met, and frees the space. */
static long merge(uint64_t *space, long count, long limit, const float *first, const float *second, long split,
                  int64_t *met, float *merged, long width, int threads) {
    long *counts = (long *)(space + 2 * count + 1), *starts = counts + threads * VALUES, found = 0;
    const uint64_t *sorted = radix_sort(space, space + count, counts, count, limit, threads);
    for (long i = 0; i < count; i++)
        if (i == 0 || sorted[i] >> 32 != sorted[i - 1] >> 32) {
            met[found] = sorted[i] >> 32;
            starts[found++] = i;
        }
    starts[found] = count;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 64) /* some rows are met far more often than others */
    for (long row = 0; row < found; row++) {
        float *sum = merged + row * width;
        memcpy(sum, line_of(sorted[starts[row]], first, second, split, width), width * sizeof *sum);
        for (long i = starts[row] + 1; i < starts[row + 1]; i++) {
            const float *line = line_of(sorted[i], first, second, split, width);
            if (i + AHEAD < count)
                __builtin_prefetch(line_of(sorted[i + AHEAD], first, second, split, width));
#pragma omp simd
            for (long d = 0; d < width; d++) sum[d] += line[d];
        }
    }
    free(space);
    return found;
}

/* met: the rows among ``rows`` in ascending order, each once; merged: for each the sum of its lines of ``gradients``,
 * those of ``source``, in the order of the batch. Rows and lines have 32 bits. Returns the number of rows met, or -1
 * without memory. */
long merge_rows(const int64_t *rows, const int64_t *source, const float *gradients, int64_t *met, float *merged,
                long count, long width, long limit, int threads) {
    uint64_t *space = sort_space(count, threads);
    if (!space) return -1;
#pragma omp parallel for num_threads(threads)
    for (long i = 0; i < count; i++) space[i] = (uint64_t)rows[i] << 32 | (uint64_t)source[i];
    return merge(space, count, limit, gradients, gradients, 1L << 32, met, merged, width, threads);
}

/* The same for the lookups of a batch: row i gets line i of ``of_rows``, and the rows of bag k line k of ``of_bags``;
 * bag k has the rows from ends[k] to ends[k + 1]. */
long merge_lookups(const int64_t *rows, const int64_t *bag_rows, const int64_t *ends, const float *of_rows,
                   const float *of_bags, int64_t *met, float *merged, long singles, long bags, long width, long limit,
                   int threads) {
    long count = singles + ends[bags];
    uint64_t *space = sort_space(count, threads);
    if (!space) return -1;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for nowait
        for (long i = 0; i < singles; i++) space[i] = (uint64_t)rows[i] << 32 | (uint64_t)i;
#pragma omp for
        for (long k = 0; k < bags; k++)
            for (long i = ends[k]; i < ends[k + 1]; i++)
                space[singles + i] = (uint64_t)bag_rows[i] << 32 | (uint64_t)(singles + k);
    }
    return merge(space, count, limit, of_rows, of_bags, singles, met, merged, width, threads);
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
