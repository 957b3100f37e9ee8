/* Windows of a stream. edgesea_push writes into a ring and edgesea_run reads it: what is `volatile` is what they share.
   Students with absolute levels have a ring of frames, which overlapping windows share. Those whose levels are relative
   to the window's maximum, and whose first and last frames reach beyond the window, have a ring of samples. */
#include "edgesea.h"

#include <string.h>

#include "frontend.h"
#include "network.h"

#if defined(__GNUC__)
#define BARRIER() __asm volatile("" ::: "memory")
#else
#define BARRIER()
#endif

static edgesea_callback callback;
static void *context;
static uint32_t hop;              /* in units of the ring */
static volatile uint32_t written; /* units since the beginning, modulo 2^32 */
static uint32_t begin;            /* of the next window */
static uint32_t begin_slot;       /* its place in the ring */
static uint64_t begin_sample;
static uint32_t missed;

#if EDGESEA_RELATIVE
#define UNIT 1
#define NEEDED EDGESEA_SAMPLES
static int16_t ring[EDGESEA_RING];
static float levels[EDGESEA_FRAMES][EDGESEA_BANDS];
#else
#define UNIT EDGESEA_FRAME_HOP
#define NEEDED EDGESEA_FRAMES
static int8_t ring[EDGESEA_RING][EDGESEA_BANDS];
static uint32_t filled; /* samples of `frame` */
#endif
static uint32_t slot; /* where the next unit is written */
static int16_t frame[EDGESEA_FFT];

int edgesea_init(uint32_t samples, edgesea_callback called, void *with)
{
    samples = samples ? samples : EDGESEA_HOP;
    if (samples % UNIT) {
        return -1;
    }
    hop = samples / UNIT;
    callback = called;
    context = with;
    written = begin = begin_slot = slot = missed = 0;
    begin_sample = 0;
#if !EDGESEA_RELATIVE
    filled = 0;
#endif
    return 0;
}

static void advance(void)
{
    begin += hop;
    begin_slot = (begin_slot + hop) % EDGESEA_RING;
    begin_sample += (uint64_t)hop * UNIT;
}

/* Whether a unit of the next window is still in the ring. */
static int present(uint32_t unit)
{
    BARRIER();
    return written - (begin + unit) < EDGESEA_RING;
}

#if EDGESEA_RELATIVE
void edgesea_push(const int16_t *pcm, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        ring[slot] = pcm[i];
        BARRIER();
        slot = slot + 1 < EDGESEA_RING ? slot + 1 : 0;
        written++;
    }
}

static int compute(void)
{
    float highest = -1e9f;
    int8_t row[EDGESEA_BANDS];
    for (int t = 0; t < EDGESEA_FRAMES; t++) {
        int first = t * EDGESEA_FRAME_HOP - EDGESEA_BEFORE;
        for (int i = 0; i < EDGESEA_FFT; i++) {
            int at = first + i;
            int inside = at >= 0 && at < EDGESEA_SAMPLES;
            frame[i] = inside ? ring[(begin_slot + (uint32_t)at) % EDGESEA_RING] : (int16_t)0;
        }
        edgesea_levels(frame, levels[t]);
        for (int band = 0; band < EDGESEA_BANDS; band++) {
            highest = levels[t][band] > highest ? levels[t][band] : highest;
        }
    }
    if (!present(0)) {
        return 0;
    }
    edgesea_network_begin();
    for (int t = 0; t < EDGESEA_FRAMES; t++) {
        for (int band = 0; band < EDGESEA_BANDS; band++) {
            float level = levels[t][band] - highest;
            row[band] = edgesea_quantized(level > -EDGESEA_RANGE ? level : -EDGESEA_RANGE);
        }
        edgesea_network_row(row);
    }
    return 1;
}
#else
void edgesea_push(const int16_t *pcm, size_t n)
{
    while (n) {
        float levels[EDGESEA_BANDS];
        size_t taken = EDGESEA_FFT - filled < n ? EDGESEA_FFT - filled : n;
        memcpy(frame + filled, pcm, taken * sizeof *pcm);
        filled += (uint32_t)taken;
        pcm += taken;
        n -= taken;
        if (filled < EDGESEA_FFT) {
            return;
        }
        edgesea_levels(frame, levels);
        for (int band = 0; band < EDGESEA_BANDS; band++) {
            ring[slot][band] = edgesea_quantized(levels[band]);
        }
        BARRIER();
        slot = slot + 1 < EDGESEA_RING ? slot + 1 : 0;
        written++;
        filled = EDGESEA_FFT - EDGESEA_FRAME_HOP;
        memmove(frame, frame + EDGESEA_FRAME_HOP, filled * sizeof *frame);
    }
}

static int compute(void)
{
    int8_t row[EDGESEA_BANDS];
    edgesea_network_begin();
    for (uint32_t t = 0; t < EDGESEA_FRAMES; t++) {
        memcpy(row, ring[(begin_slot + t) % EDGESEA_RING], sizeof row);
        if (!present(t)) {
            return 0;
        }
        edgesea_network_row(row);
    }
    return 1;
}
#endif

int edgesea_run(void)
{
    int8_t quantized[EDGESEA_DIMENSIONS];
    float embedding[EDGESEA_DIMENSIONS];
    for (;;) {
        if (!callback || written - begin < NEEDED || written - begin > UINT32_MAX / 2) {
            return 0;
        }
        if (present(0) && compute()) {
            break;
        }
        missed++;
        advance();
    }
    edgesea_network_end(quantized);
    for (int i = 0; i < EDGESEA_DIMENSIONS; i++) {
        embedding[i] = EDGESEA_OUTPUT_SCALE * (float)(quantized[i] - EDGESEA_OUTPUT_ZERO) * edgesea_units[i];
    }
    uint64_t start = begin_sample;
    advance();
    callback(embedding, start, context);
    return 1;
}

uint32_t edgesea_missed(void)
{
    return missed;
}

#if EDGESEA_TAGS
int edgesea_scores(const float *embedding, float *scores)
{
    int best = 0;
    for (int tag = 0; tag < EDGESEA_TAGS; tag++) {
        float sum = edgesea_tag_bias[tag];
        for (int i = 0; i < EDGESEA_DIMENSIONS; i++) {
            sum += edgesea_tag_weights[tag * EDGESEA_DIMENSIONS + i] * embedding[i];
        }
        scores[tag] = sum;
        best = sum > scores[best] ? tag : best;
    }
    return best;
}

/* 1 / (1 + e^-x), with e^x = (e^(x / 1024))^1024. */
float edgesea_probability(float score)
{
    float x = score < -30.0f ? 30.0f : score > 30.0f ? -30.0f : -score, y = x / 1024.0f;
    float power = 1.0f + y + 0.5f * y * y + y * y * y / 6.0f;
    for (int i = 0; i < 10; i++) {
        power *= power;
    }
    return 1.0f / (1.0f + power);
}
#endif
