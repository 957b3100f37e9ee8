#include "frontend.h"

#include <string.h>

#define HALF (EDGESEA_FFT / 2) /* complex numbers: even samples are real parts, odd samples imaginary parts */

static float spectrum[EDGESEA_FFT + 2];

static float cosine(unsigned int turn)
{
    return edgesea_cosine[turn & (EDGESEA_FFT - 1)];
}

static float sine(unsigned int turn)
{
    return edgesea_cosine[(turn + 3 * EDGESEA_FFT / 4) & (EDGESEA_FFT - 1)];
}

/* Samples times the Hann window, in the order of reversed bits. */
static void load(const int16_t *frame)
{
    unsigned int reversed = 0;
    for (unsigned int i = 0; i < HALF; i++) {
        for (unsigned int part = 0; part < 2; part++) {
            float hann = 0.5f - 0.5f * edgesea_cosine[2 * i + part];
            spectrum[2 * reversed + part] = (float)frame[2 * i + part] * (1.0f / 32768.0f) * hann;
        }
        unsigned int bit = HALF / 2;
        for (; reversed & bit; bit /= 2) {
            reversed ^= bit;
        }
        reversed |= bit;
    }
}

/* a0 ... a3 = sums and differences of transforms of `size` numbers each, which make one of four times that. */
static void butterfly(float *a0, unsigned int size, const float *w1, const float *w2, const float *w3)
{
    float *a1 = a0 + 2 * size, *a2 = a1 + 2 * size, *a3 = a2 + 2 * size;
    float r1 = a1[0] * w2[0] + a1[1] * w2[1], i1 = a1[1] * w2[0] - a1[0] * w2[1];
    float r2 = a2[0] * w1[0] + a2[1] * w1[1], i2 = a2[1] * w1[0] - a2[0] * w1[1];
    float r3 = a3[0] * w3[0] + a3[1] * w3[1], i3 = a3[1] * w3[0] - a3[0] * w3[1];
    float r0 = a0[0] + r1, i0 = a0[1] + i1;
    r1 = a0[0] - r1, i1 = a0[1] - i1;
    float sum_r = r2 + r3, sum_i = i2 + i3, difference_r = r2 - r3, difference_i = i2 - i3;
    a0[0] = r0 + sum_r, a0[1] = i0 + sum_i;
    a2[0] = r0 - sum_r, a2[1] = i0 - sum_i;
    a1[0] = r1 + difference_i, a1[1] = i1 - difference_r;
    a3[0] = r1 - difference_i, a3[1] = i1 + difference_r;
}

/* Two steps of radix 2 at a time. */
static void transform(void)
{
    unsigned int size = 1;
    for (unsigned int rest = HALF; rest > 1; rest /= 4) {
        if (rest == 2) {
            size = 2; /* an odd number of steps: the first alone, below */
        }
    }
    if (size == 2) {
        for (float *a = spectrum; a < spectrum + EDGESEA_FFT; a += 4) {
            float real = a[2], imaginary = a[3];
            a[2] = a[0] - real, a[3] = a[1] - imaginary;
            a[0] += real, a[1] += imaginary;
        }
    }
    for (; size < HALF; size *= 4) {
        unsigned int turn = EDGESEA_FFT / (4 * size);
        for (unsigned int k = 0; k < size; k++) {
            float w1[2] = {cosine(k * turn), sine(k * turn)};
            float w2[2] = {cosine(2 * k * turn), sine(2 * k * turn)};
            float w3[2] = {cosine(3 * k * turn), sine(3 * k * turn)};
            for (unsigned int at = k; at < HALF; at += 4 * size) {
                butterfly(spectrum + 2 * at, size, w1, w2, w3);
            }
        }
    }
}

/* Power of bin k at spectrum[2 k], from the transform of even and odd samples. */
static void powers(void)
{
    float real = spectrum[0], imaginary = spectrum[1];
    spectrum[0] = (real + imaginary) * (real + imaginary);
    spectrum[2 * HALF] = (real - imaginary) * (real - imaginary);
    for (unsigned int k = 1; k <= HALF / 2; k++) {
        float *a = spectrum + 2 * k, *b = spectrum + 2 * (HALF - k);
        float even_r = 0.5f * (a[0] + b[0]), even_i = 0.5f * (a[1] - b[1]);
        float odd_r = 0.5f * (a[1] + b[1]), odd_i = 0.5f * (b[0] - a[0]);
        float turned_r = odd_r * cosine(k) + odd_i * sine(k), turned_i = odd_i * cosine(k) - odd_r * sine(k);
        float sum_r = even_r + turned_r, sum_i = even_i + turned_i;
        float difference_r = even_r - turned_r, difference_i = even_i - turned_i;
        a[0] = sum_r * sum_r + sum_i * sum_i;
        b[0] = difference_r * difference_r + difference_i * difference_i;
    }
}

/* log2 of a normal number, to 1e-6. */
static float log2_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    int exponent = (int)((bits - 0x3f3504f3u) >> 23); /* so that the rest lies between the roots of 1/2 and 2 */
    exponent = exponent > 255 ? exponent - 512 : exponent;
    bits -= (uint32_t)exponent << 23;
    memcpy(&value, &bits, sizeof bits);
    float t = (value - 1.0f) / (value + 1.0f), square = t * t;
    return (float)exponent + t * (2.8853901f + square * (0.9617967f + square * (0.5770780f + square * 0.4121986f)));
}

void edgesea_levels(const int16_t *frame, float *levels)
{
    const float *weights = edgesea_mel;
    load(frame);
    transform();
    powers();
    for (int band = 0; band < EDGESEA_BANDS; band++) {
        const float *power = spectrum + 2 * edgesea_bands[band].first;
        float sum = 0.0f;
        for (int i = 0; i < edgesea_bands[band].count; i++) {
            sum += power[2 * i] * *weights++;
        }
        levels[band] = EDGESEA_DECADE * log2_of(sum > EDGESEA_FLOOR ? sum : EDGESEA_FLOOR);
    }
}

int8_t edgesea_quantized(float level)
{
    float value = EDGESEA_INPUT_FACTOR * level + EDGESEA_INPUT_OFFSET;
    value = value < -128.0f ? -128.0f : value > 127.0f ? 127.0f : value;
    return (int8_t)(int)(value < 0.0f ? value - 0.5f : value + 0.5f);
}
