/* Powers of two and sigmoids in forms that a compiler turns into vector instructions.
 *
 * FLOAT is a number or a vector of numbers, BITS the same number of unsigned words of 32 bits, and CLAMPED(x, low, high)
 * brings x between two bounds. */

/* 2^x for x from -126 to 127, with a relative error of 2e-7: a polynomial within a half of the nearest whole number. */
static inline FLOAT power(FLOAT x) {
    FLOAT shifted = x + 12582912.0f, r = x - (shifted - 12582912.0f); /* the sum has no bits behind the point */
    FLOAT p = 1.32765e-3f * r + 9.67555e-3f;
    p = p * r + 5.550713e-2f;
    p = p * r + 2.402212e-1f;
    p = p * r + 6.9314694e-1f;
    p = p * r + 1.0000001f;
    BITS whole, bits;
    memcpy(&whole, &shifted, sizeof whole);
    memcpy(&bits, &p, sizeof bits);
    bits += whole << 23; /* added to the exponent */
    memcpy(&p, &bits, sizeof p);
    return p;
}

static inline FLOAT sigmoid(FLOAT x) { return 1.0f / (1.0f + power(CLAMPED(-1.44269504f * x, -126.0f, 126.0f))); }
