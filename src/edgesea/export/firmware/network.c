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
EDGESEA_ALIGNED static int16_t columns[2 * EDGESEA_TAPS]; /* of two places, four of one and four of the other in turn */
static uint16_t given[EDGESEA_LAYERS], made[EDGESEA_LAYERS]; /* rows of this window */
static int8_t pooled[EDGESEA_TAPS_OF_HEAD];  /* maxima, and means */
static int32_t sums[EDGESEA_CHANNELS];

static int32_t scaled(int32_t value, int32_t multiplier, int shift)
{
    if (shift < 0) {
        value = (int32_t)((uint32_t)value << -shift);
    }
    int32_t high = (int32_t)(((int64_t)value * multiplier + (1 << 30)) >> 31);
    if (shift > 0) { /* to the nearest, halves away from zero */
        high = (high + (1 << (shift - 1)) + (high >> 31)) >> shift;
    }
    return high;
}

static int32_t limited(int32_t value, int32_t least)
{
    return value < least ? least : value > 127 ? 127 : value;
}

static int8_t finished(const edgesea_layer *layer, int output, int32_t sum)
{
    int32_t value = scaled(sum, layer->factors[output].multiplier, layer->shifts[output]);
    return (int8_t)limited(value + layer->made_zero, layer->least);
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

#if defined(__ARM_FEATURE_DSP)
typedef uint32_t __attribute__((may_alias)) word;

static int16x2_t low(uint32_t four) /* first and third */
{
    return __sxtb16(four);
}

static int16x2_t high(uint32_t four) /* second and fourth */
{
    return __sxtb16(four >> 8 | four << 24);
}

static uint32_t four_of(const int8_t *from)
{
    uint32_t value;
    memcpy(&value, from, sizeof value);
    return value;
}
#endif

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

/* Add the products of two columns with the weights of two outputs: sums of (column 0, output 0), (0, 1), (1, 0), (1, 1). */
static void products(const int8_t *weights, int fours, int32_t results[4])
{
#if defined(__ARM_FEATURE_DSP)
    int32_t s0 = results[0], s1 = results[1], s2 = results[2], s3 = results[3];
    const word *x = (const word *)(const void *)columns, *end = x + 4 * fours, *w = (const word *)(const void *)weights;
#pragma GCC unroll 2
    for (; x != end; x += 4, w += 2) {
        int16x2_t x0 = (int16x2_t)x[0], x1 = (int16x2_t)x[1], x2 = (int16x2_t)x[2], x3 = (int16x2_t)x[3];
        int16x2_t even = low(w[0]), odd = high(w[0]);
        s0 = __smlad(x0, even, s0);
        s2 = __smlad(x2, even, s2);
        s0 = __smlad(x1, odd, s0);
        s2 = __smlad(x3, odd, s2);
        even = low(w[1]), odd = high(w[1]);
        s1 = __smlad(x0, even, s1);
        s3 = __smlad(x2, even, s3);
        s1 = __smlad(x1, odd, s1);
        s3 = __smlad(x3, odd, s3);
    }
    results[0] = s0, results[1] = s1, results[2] = s2, results[3] = s3;
#else
    const int16_t *x = columns;
    for (int i = 0; i < fours; i++, x += 8, weights += 8) {
        for (int j = 0; j < 4; j++) {
            results[0] += x[j] * weights[j];
            results[1] += x[j] * weights[4 + j];
            results[2] += x[4 + j] * weights[j];
            results[3] += x[4 + j] * weights[4 + j];
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
        const int8_t *first = under(layer, rows, column, taps[0]), *weights = layer->weights;
        interleave(first, both ? under(layer, rows, column + 1, taps[1]) : first, fours);
        for (int output = 0; output < outputs; output += 2, weights += 8 * fours) {
            const edgesea_factor *factors = layer->factors + output;
            int32_t sum[4] = {factors[0].bias, factors[1].bias, factors[0].bias, factors[1].bias};
            products(weights, fours, sum);
            for (int place = 0; place <= both; place++) {
                for (int next = 0; next < 2 && output + next < outputs; next++) {
                    to[place * outputs + output + next] = finished(layer, output + next, sum[2 * place + next]);
                }
            }
        }
    }
}

static void convolve_channels(const edgesea_layer *layer, const int8_t *const *rows, int8_t *to)
{
    int channels = layer->inputs, kernel = layer->kernel;
    for (int column = 0; column < layer->made_width; column++, to += channels) {
        size_t first = (size_t)column * layer->stride * (size_t)channels;
        int channel = 0;
#if defined(__ARM_FEATURE_DSP)
        for (; channel + 4 <= channels; channel += 4) {
            const edgesea_factor *factors = layer->factors + channel;
            const int8_t *weights = layer->weights + channel;
            int32_t s0 = factors[0].bias, s1 = factors[1].bias, s2 = factors[2].bias, s3 = factors[3].bias;
            for (int y = 0; y < kernel; y++) {
                const int8_t *from = rows[y] + first + channel;
                for (int x = 0; x < kernel; x++, from += channels, weights += channels) {
                    uint32_t values = four_of(from), factor = four_of(weights);
                    int16x2_t even = low(values), odd = high(values), by_even = low(factor), by_odd = high(factor);
                    s0 = __smlabb(even, by_even, s0);
                    s1 = __smlabb(odd, by_odd, s1);
                    s2 = __smlatt(even, by_even, s2);
                    s3 = __smlatt(odd, by_odd, s3);
                }
            }
            to[channel] = finished(layer, channel, s0);
            to[channel + 1] = finished(layer, channel + 1, s1);
            to[channel + 2] = finished(layer, channel + 2, s2);
            to[channel + 3] = finished(layer, channel + 3, s3);
        }
#endif
        for (; channel < channels; channel++) {
            const int8_t *weights = layer->weights + channel;
            int32_t sum = layer->factors[channel].bias;
            for (int y = 0; y < kernel; y++) {
                const int8_t *from = rows[y] + first + channel;
                for (int x = 0; x < kernel; x++, from += channels, weights += channels) {
                    sum += *from * *weights;
                }
            }
            to[channel] = finished(layer, channel, sum);
        }
    }
}

static int32_t operand(const edgesea_operand *from, int8_t value)
{
    return scaled((value - from->zero) * (1 << 20), from->multiplier, from->shift);
}

static void add(const edgesea_addition *by, const int8_t *block, int8_t *row, int count)
{
    for (int i = 0; i < count; i++) {
        int32_t sum = operand(&by->block, block[i]) + operand(&by->layer, row[i]);
        row[i] = (int8_t)limited(scaled(sum, by->total.multiplier, by->total.shift) + by->total.zero, -128);
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
            sums[channel] += *row;
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
    memset(sums, 0, sizeof sums);
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
        memcpy(embedding, pooled, EDGESEA_DIMENSIONS);
        return;
    }
    for (int channel = 0; channel < EDGESEA_CHANNELS; channel++) {
        int32_t sum = sums[channel];
        pooled[EDGESEA_CHANNELS + channel] = (int8_t)((sum + (sum > 0 ? count / 2 : -(count / 2))) / count);
    }
    const int8_t *rows[] = {pooled};
    convolve(&edgesea_head, rows, embedding);
}
