/* exp in a form that a compiler turns into vector instructions; relative error 2e-7, and 0 and infinity are out of reach.
 *
 * FLOAT is a number or a vector of numbers, BITS the same number of unsigned words of 32 bits, and CLAMPED(x, low, high)
 * brings x between two bounds. */

static inline FLOAT exponential(FLOAT x) {
    x = CLAMPED(x, -87.0f, 88.0f);
    FLOAT shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f; /* rounds to a whole number */
    FLOAT r = x - n * 0.693359375f + n * 2.12194440e-4f;
    FLOAT p = 1.9875691500e-4f * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    BITS power, bits; /* n is in the low bits of `shifted`, and the exponent of p begins at bit 23 */
    memcpy(&power, &shifted, sizeof power);
    memcpy(&bits, &p, sizeof bits);
    bits += power << 23;
    memcpy(&p, &bits, sizeof p);
    return p;
}
