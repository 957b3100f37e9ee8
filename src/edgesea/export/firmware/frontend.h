/* Log-mel levels of a frame, in single precision; the same bits wherever floats are those of IEEE 754. */
#ifndef EDGESEA_FRONTEND_H
#define EDGESEA_FRONTEND_H

#include <stdint.h>

#include "edgesea_model.h"

typedef struct {
    uint16_t first, count; /* bins of a band; their weights lie one band behind the other */
} edgesea_band;

extern const edgesea_band edgesea_bands[EDGESEA_BANDS];
extern const float edgesea_mel[EDGESEA_MEL];
extern const float edgesea_cosine[EDGESEA_FFT]; /* one turn */

/* Levels in dB of a frame of EDGESEA_FFT samples. */
void edgesea_levels(const int16_t *frame, float *levels);
/* The input of the network for a level. */
int8_t edgesea_quantized(float level);

#endif
