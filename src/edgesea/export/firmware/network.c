/* A convolutional network in int8, row by row: a layer holds as many rows of its input as its kernel is high, so that no
   feature map is ever whole. It equals the reference kernels of TensorFlow Lite bit for bit. Shifts of negative numbers
   are arithmetic, as in all compilers for microcontrollers. */
#include "network.h"

#include <string.h>

#if defined(__ARM_FEATURE_DSP)
#include <arm_acle.h>
#endif

static int8_t arena[EDGESEA_ARENA];          /* rings of all layers */
static int8_t border[EDGESEA_BORDER];        /* a row above or below a feature map */
static int8_t scratch[EDGESEA_SCRATCH];      /* a row before a pool, or the last */
static int8_t taps[2][EDGESEA_TAPS];         /* inputs of one place under a kernel */
EDGESEA_ALIGNED static int16_t columns[2 * EDGESEA_TAPS]; /* of two places, four of one and four of the other */
static uint16_t given[EDGESEA_LAYERS];       /* rows that a layer has been given of this window */
static uint16_t made[EDGESEA_LAYERS];        /* and that it has made */
static int8_t pooled[EDGESEA_TAPS_OF_HEAD];  /* maxima, and means */
static int32_t totals[EDGESEA_CHANNELS];
static int32_t sums[2 * EDGESEA_OUTPUTS];    /* of products: of two columns in turn */

#if defined(__ARM_FEATURE_DSP)
typedef uint32_t __attribute__((may_alias)) word;

static uint32_t four_of(const int8_t *from)
{
    uint32_t value;
    memcpy(&value, from, sizeof value);
    return value;
}

static inline int16x2_t low(uint32_t four) /* first and third */
{
    return __sxtb16((int8x4_t)four);
}

static inline int16x2_t high(uint32_t four) /* second and fourth */
{
    int16x2_t two;
    __asm("sxtb16 %0, %1, ror #8" : "=r"(two) : "r"(four));
    return two;
}
#endif

/* twice * multiplier / 2^32, to the nearest, halves upwards. */
static inline int32_t high_product(int32_t twice, int32_t multiplier)
{
#if defined(__ARM_FEATURE_DSP)
    int32_t product;
    __asm("smmulr %0, %1, %2" : "=r"(product) : "r"(twice), "r"(multiplier));
    return product;
#else
    return (int32_t)(((int64_t)twice * multiplier + ((int64_t)1 << 31)) >> 32);
#endif
}

/* zero + twice * multiplier / 2^32 / 2^shift: after the product, to the nearest, halves away from 0. */
static inline int32_t scaled(int32_t twice, int32_t multiplier, int shift, int32_t zero)
{
    if (shift <= 0) {
        return high_product((int32_t)((uint32_t)twice << -shift), multiplier) + zero;
    }
    int32_t product = high_product(twice, multiplier);
    return (((product + (product >> 31)) >> (shift - 1)) + (2 * zero + 1)) >> 1;
}

static inline int8_t limited(int32_t value)
{
#if defined(__ARM_FEATURE_DSP)
    __asm("ssat %0, #8, %0" : "+r"(value));
    return (int8_t)value;
#else
    return (int8_t)(value < -128 ? -128 : value > 127 ? 127 : value);
#endif
}

/* Make int8 of the sums of one or two columns. */
static void finish(const edgesea_layer *layer, int8_t *to, int both)
{
    int32_t zero = layer->made_zero;
    const edgesea_factor *factor = layer->factors;
    const int8_t *shifts = layer->shifts, *end = shifts + layer->outputs;
    int8_t *second = both ? to + layer->outputs : to; /* of one column, the first overwrites it */
    for (const int32_t *sum = sums; shifts < end; shifts++, factor++, sum += 2) {
        int32_t a = sum[0] * 2 + factor->twice, b = sum[1] * 2 + factor->twice;
        *second++ = limited(scaled(b, factor->multiplier, *shifts, zero));
        *to++ = limited(scaled(a, factor->multiplier, *shifts, zero));
    }
}

static size_t row_bytes(const edgesea_layer *layer)
{
    return (size_t)(layer->width + layer->kernel / 2 * 2) * layer->inputs;
}

/* A row of a layer's ring, which begins with the columns to the left of the feature map. */
static int8_t *ring_row(const edgesea_layer *layer, int row)
{
    return arena + layer->ring + (size_t)(row % layer->held) * row_bytes(layer);
}

static int8_t *first_column(const edgesea_layer *layer, int row)
{
    return ring_row(layer, row) + layer->kernel / 2 * layer->inputs;
}

/* Two columns in turn, as 16 bits each: of every four in the order 0, 2, 1, 3, where instructions want it. */
static void interleave(const int8_t *a, const int8_t *b, int fours)
{
    int16_t *to = columns;
    for (int i = 0; i < fours; i++, a += 4, b += 4, to += 8) {
#if defined(__ARM_FEATURE_DSP)
        uint32_t first = four_of(a), second = four_of(b);
        int16x2_t pairs[4] = {low(first), high(first), low(second), high(second)};
        memcpy(to, pairs, sizeof pairs);
#else
        for (int j = 0; j < 4; j++) {
            to[j] = a[j];
            to[4 + j] = b[j];
        }
#endif
    }
}

#if defined(__ARM_FEATURE_DSP)
/* Add the products of four inputs of two columns with the weights of two outputs. */
static inline void multiply(const word *x, const word *w, int32_t *sum)
{
    int16x2_t x0 = (int16x2_t)x[0], x1 = (int16x2_t)x[1], x2 = (int16x2_t)x[2], x3 = (int16x2_t)x[3];
    int16x2_t even = low(w[0]), odd = high(w[0]);
    sum[0] = __smlad(x1, odd, __smlad(x0, even, sum[0]));
    sum[1] = __smlad(x3, odd, __smlad(x2, even, sum[1]));
    even = low(w[1]), odd = high(w[1]);
    sum[2] = __smlad(x1, odd, __smlad(x0, even, sum[2]));
    sum[3] = __smlad(x3, odd, __smlad(x2, even, sum[3]));
}
#endif

/* Sum the products of two columns with the weights of all outputs. */
static void multiply_all(const int8_t *weights, int fours, int outputs)
{
    int32_t *to = sums;
#if defined(__ARM_FEATURE_DSP)
    const word *w = (const word *)(const void *)weights, *first = (const word *)(const void *)columns;
    const word *end = first + 4 * fours;
    for (; outputs > 0; outputs -= 2, to += 4) {
        int32_t sum[4] = {0, 0, 0, 0};
        const word *x = first;
        if (fours & 1) {
            multiply(x, w, sum);
            x += 4, w += 2;
        }
        for (; x != end; x += 8, w += 4) {
            multiply(x, w, sum);
            multiply(x + 4, w + 2, sum);
        }
        to[0] = sum[0], to[1] = sum[1], to[2] = sum[2], to[3] = sum[3];
    }
#else
    for (; outputs > 0; outputs -= 2, to += 4) {
        const int16_t *x = columns;
        to[0] = to[1] = to[2] = to[3] = 0;
        for (int i = 0; i < fours; i++, x += 8, weights += 8) {
            for (int j = 0; j < 4; j++) {
                to[0] += x[j] * weights[j];
                to[1] += x[4 + j] * weights[j];
                to[2] += x[j] * weights[4 + j];
                to[3] += x[4 + j] * weights[4 + j];
            }
        }
    }
#endif
}

/* Inputs under the kernel at a column of the output, one behind the other. */
static const int8_t *under(const edgesea_layer *layer, const int8_t *const *rows, int column, int8_t *to)
{
    size_t first = (size_t)column * layer->stride * layer->inputs, count = (size_t)layer->kernel * layer->inputs;
    if (layer->kernel == 1) {
        return rows[0] + first;
    }
    for (int y = 0; y < layer->kernel; y++) {
        memcpy(to + (size_t)y * count, rows[y] + first, count);
    }
    return to;
}

static void convolve(const edgesea_layer *layer, const int8_t *const *rows, int8_t *to)
{
    int fours = (layer->kernel * layer->kernel * layer->inputs + 3) / 4, outputs = layer->outputs;
    for (int column = 0; column < layer->made_width; column += 2, to += 2 * outputs) {
        int both = column + 1 < layer->made_width;
        const int8_t *first = under(layer, rows, column, taps[0]);
        interleave(first, both ? under(layer, rows, column + 1, taps[1]) : first, fours);
        multiply_all(layer->weights, fours, outputs);
        finish(layer, to, both);
    }
}

/* Sum the products of a column, each channel for itself. */
static void multiply_channels(const edgesea_layer *layer, const int8_t *const *rows, int column, int32_t *to)
{
    int channels = layer->inputs, kernel = layer->kernel, channel = 0;
    size_t first = (size_t)column * layer->stride * (size_t)channels;
#if defined(__ARM_FEATURE_DSP)
    for (; kernel == 3 && channel + 4 <= channels; channel += 4, first += 4, to += 8) {
        const int8_t *weights = layer->weights + channel;
        int32_t sum[4] = {0, 0, 0, 0};
#pragma GCC unroll 3
        for (int y = 0; y < 3; y++) {
#pragma GCC unroll 3
            for (int x = 0; x < 3; x++, weights += channels) {
                uint32_t values = four_of(rows[y] + first + x * channels), factor = four_of(weights);
                int16x2_t even = low(values), odd = high(values), by_even = low(factor), by_odd = high(factor);
                sum[0] = __smlabb(even, by_even, sum[0]);
                sum[1] = __smlabb(odd, by_odd, sum[1]);
                sum[2] = __smlatt(even, by_even, sum[2]);
                sum[3] = __smlatt(odd, by_odd, sum[3]);
            }
        }
        to[0] = sum[0], to[2] = sum[1], to[4] = sum[2], to[6] = sum[3];
    }
#endif
    for (; channel < channels; channel++, first++, to += 2) {
        const int8_t *weights = layer->weights + channel;
        *to = 0;
        for (int y = 0; y < kernel; y++) {
            const int8_t *from = rows[y] + first;
            for (int x = 0; x < kernel; x++, from += channels, weights += channels) {
                *to += *from * *weights;
            }
        }
    }
}

static void convolve_channels(const edgesea_layer *layer, const int8_t *const *rows, int8_t *to)
{
    for (int column = 0; column < layer->made_width; column += 2, to += 2 * layer->outputs) {
        int both = column + 1 < layer->made_width;
        multiply_channels(layer, rows, column, sums);
        multiply_channels(layer, rows, column + both, sums + 1);
        finish(layer, to, both);
    }
}

static inline int32_t operand(const edgesea_operand *from, int8_t value)
{
    return scaled((value - from->zero) * (1 << 21), from->multiplier, from->shift, 0);
}

static void add(const edgesea_addition *by, const int8_t *block, int8_t *row, int count)
{
    const edgesea_addition terms = *by;
    for (int i = 0; i < count; i++) {
        int32_t sum = operand(&terms.block, block[i]) + operand(&terms.layer, row[i]);
        row[i] = limited(scaled(2 * sum, terms.total.multiplier, terms.total.shift, terms.total.zero));
    }
}

/* Maxima of two columns and two rows: the second row is met by the maxima of the first. */
static void pool(const int8_t *row, int8_t *to, int width, int channels, int second)
{
    for (int column = 0; column < width; column++, row += 2 * channels, to += channels) {
        for (int channel = 0; channel < channels; channel++) {
            int8_t a = row[channel], b = row[channels + channel], most = a > b ? a : b;
            to[channel] = second && to[channel] > most ? to[channel] : most;
        }
    }
}

static void gather(const int8_t *row, int width)
{
    for (int column = 0; column < width; column++) {
        for (int channel = 0; channel < EDGESEA_CHANNELS; channel++, row++) {
            totals[channel] += *row;
            pooled[channel] = pooled[channel] > *row ? pooled[channel] : *row;
        }
    }
}

static int ready(int index)
{
    const edgesea_layer *layer = edgesea_layers + index;
    int last = made[index] * layer->stride + layer->kernel / 2; /* row that it needs */
    return made[index] < layer->made_rows && given[index] > (last < layer->rows ? last : layer->rows - 1);
}

/* Make the next row of a layer, and hand it on. */
static void make(int index)
{
    const edgesea_layer *layer = edgesea_layers + index, *next = layer + 1;
    const int8_t *rows[EDGESEA_KERNEL];
    int row = made[index]++, is_last = index == EDGESEA_LAYERS - 1;
    for (int y = 0; y < layer->kernel; y++) {
        int from = row * layer->stride + y - layer->kernel / 2;
        if (from < 0 || from >= layer->rows) {
            memset(border, layer->zero, row_bytes(layer));
            rows[y] = border;
        } else {
            rows[y] = ring_row(layer, from);
        }
    }
    int8_t *to = is_last || next->pool ? scratch : first_column(next, row);
    (layer->depthwise ? convolve_channels : convolve)(layer, rows, to);
    if (layer->addition) {
        add(layer->addition, first_column(layer - layer->back, row), to, layer->made_width * layer->outputs);
    }
    if (is_last) {
        gather(to, layer->made_width);
    } else if (!next->pool) {
        given[index + 1]++;
    } else if (row / 2 < next->rows) {
        pool(to, first_column(next, row / 2), next->width, next->inputs, row % 2);
        given[index + 1] = (uint16_t)(given[index + 1] + row % 2);
    }
}

void edgesea_network_begin(void)
{
    memset(given, 0, sizeof given);
    memset(made, 0, sizeof made);
    memset(totals, 0, sizeof totals);
    memset(pooled, -128, sizeof pooled);
    for (int i = 0; i < EDGESEA_LAYERS; i++) { /* columns to the left and right stay as they are now */
        const edgesea_layer *layer = edgesea_layers + i;
        memset(arena + layer->ring, layer->zero, layer->held * row_bytes(layer));
    }
}

void edgesea_network_row(const int8_t *bands)
{
    memcpy(first_column(edgesea_layers, given[0]), bands, EDGESEA_BANDS);
    given[0]++;
    for (int index = 0; index >= 0;) { /* each row as far as it goes, before the next */
        if (ready(index)) {
            make(index);
            index += index < EDGESEA_LAYERS - 1;
        } else {
            index--;
        }
    }
}

void edgesea_network_end(int8_t *embedding)
{
    const edgesea_layer *last = edgesea_layers + EDGESEA_LAYERS - 1;
    int count = last->made_rows * last->made_width;
    if (!edgesea_head.weights) {
        memcpy(embedding, pooled, EDGESEA_DIMENSIONS < sizeof pooled ? EDGESEA_DIMENSIONS : sizeof pooled);
        return;
    }
    for (int channel = 0; channel < EDGESEA_CHANNELS; channel++) {
        int32_t sum = totals[channel];
        pooled[EDGESEA_CHANNELS + channel] = (int8_t)((sum + (sum > 0 ? count / 2 : -(count / 2))) / count);
    }
    const int8_t *rows[] = {pooled};
    convolve(&edgesea_head, rows, embedding);
}
