/* SwiGLU and GELU with gradients, for one kind of number in memory: NUMBER, READ to float and WRITE from it.
 *
 * The file is included once for every kind; NAMED gives a kernel its name. Everything is computed in float. */

/* hidden = activation(wide + bias): SwiGLU of wide (T, 2 H, B), up first, or GELU of wide (T, H, B). */
void NAMED(activate)(const NUMBER *wide, const float *bias, NUMBER *hidden, long tokens, long width, long batch, long gated,
              int threads) {
#pragma omp parallel for num_threads(threads)
    for (long row = 0; row < tokens * width; row++) {
        NUMBER *out = hidden + row * batch;
        if (gated) {
            long up_row = row / width * 2 * width + row % width, gate_row = up_row + width;
            const NUMBER *up = wide + up_row * batch, *gate = wide + gate_row * batch;
            float up_bias = bias ? bias[up_row] : 0, gate_bias = bias ? bias[gate_row] : 0;
#pragma omp simd
            for (long i = 0; i < batch; i++) {
                float g = READ(gate[i]) + gate_bias;
                out[i] = WRITE((READ(up[i]) + up_bias) * g * sigmoid(g));
            }
        } else {
            const NUMBER *in = wide + row * batch;
            float own = bias ? bias[row] : 0;
#pragma omp simd
            for (long i = 0; i < batch; i++) out[i] = WRITE(gelu(READ(in[i]) + own));
        }
    }
}

/* The hidden activations once more, the gradient before them, and its sums over the batch. */
void NAMED(activate_backward)(const NUMBER *wide, const float *bias, const NUMBER *grad, NUMBER *hidden,
                              NUMBER *to_wide, float *to_bias, long tokens, long width, long batch, long gated, int threads) {
#pragma omp parallel for num_threads(threads)
    for (long row = 0; row < tokens * width; row++) {
        const NUMBER *from = grad + row * batch;
        NUMBER *out = hidden + row * batch;
        if (gated) {
            long up_row = row / width * 2 * width + row % width, gate_row = up_row + width;
            const NUMBER *up = wide + up_row * batch, *gate = wide + gate_row * batch;
            NUMBER *to_up = to_wide + up_row * batch, *to_gate = to_wide + gate_row * batch;
            float up_bias = bias ? bias[up_row] : 0, gate_bias = bias ? bias[gate_row] : 0;
            float up_sum = 0, gate_sum = 0;
#pragma omp simd reduction(+ : up_sum, gate_sum)
            for (long i = 0; i < batch; i++) {
                float u = READ(up[i]) + up_bias, g = READ(gate[i]) + gate_bias, open = sigmoid(g), swish = g * open;
                float above = READ(from[i]), a = above * swish, b = above * u * (open + swish * (1.0f - open));
                out[i] = WRITE(u * swish);
                to_up[i] = WRITE(a);
                to_gate[i] = WRITE(b);
                up_sum += a;
                gate_sum += b;
            }
            to_bias[up_row] = up_sum;
            to_bias[gate_row] = gate_sum;
        } else {
            const NUMBER *in = wide + row * batch;
            NUMBER *to_in = to_wide + row * batch;
            float own = bias ? bias[row] : 0, sum = 0;
#pragma omp simd reduction(+ : sum)
            for (long i = 0; i < batch; i++) {
                float value, a = READ(from[i]) * gelu_slope(READ(in[i]) + own, &value);
                out[i] = WRITE(value);
                to_in[i] = WRITE(a);
                sum += a;
            }
            to_bias[row] = sum;
        }
    }
}

#undef NUMBER
#undef READ
#undef WRITE
#undef NAMED
