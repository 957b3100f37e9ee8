/* What edgesea_model.c describes, and the network that it is. Integers as in TensorFlow Lite:
   real = scale * (q - zero), factors as 31 bits and a shift. */
#ifndef EDGESEA_NETWORK_H
#define EDGESEA_NETWORK_H

#include <stdint.h>

#include "edgesea_model.h"

#if defined(__GNUC__)
#define EDGESEA_ALIGNED __attribute__((aligned(4))) /* four of its bytes are loaded at a time */
#else
#define EDGESEA_ALIGNED
#endif

typedef struct {
    int32_t twice; /* the bias, less zero times the sum of the weights, doubled */
    int32_t multiplier;
} edgesea_factor;

typedef struct {
    int32_t multiplier;
    int8_t shift; /* to the right */
    int8_t zero;
} edgesea_operand;

typedef struct {
    edgesea_operand block, layer, total; /* what went into the block, what its last layer makes, their sum */
} edgesea_addition;

typedef struct {
    /* Depthwise: [kernel * kernel][channels]. Others: four inputs of one output, four of the next, and so on through the
       inputs (a row of the kernel after the other, zeros behind them), then the next two outputs. */
    const int8_t *weights;
    const edgesea_factor *factors; /* of each output; of an even number of them, if not depthwise */
    const int8_t *shifts;          /* to the right */
    const edgesea_addition *addition;
    uint32_t ring;                             /* where its input's rows lie in the arena */
    uint16_t inputs, width, rows;              /* of its input, behind the pool */
    uint16_t outputs, made_width, made_rows;
    uint8_t kernel, stride, depthwise, pool;   /* pool: 2x2 maximum before it */
    uint8_t held;                              /* rows of the ring */
    uint8_t back;                              /* layers to the first of the block */
    int8_t zero, made_zero;
} edgesea_layer;

extern const edgesea_layer edgesea_layers[EDGESEA_LAYERS];
extern const float edgesea_units[EDGESEA_DIMENSIONS]; /* of the embedding's dimensions */
extern const edgesea_layer edgesea_head; /* on maximum and mean of each channel; no weights: the maximum alone */

#if EDGESEA_TAGS
extern const float edgesea_tag_weights[EDGESEA_TAGS * EDGESEA_DIMENSIONS], edgesea_tag_bias[EDGESEA_TAGS];
#endif

void edgesea_network_begin(void);
/* The next row: what one frame is in int8. */
void edgesea_network_row(const int8_t *bands);
/* Behind the last row: the embedding in int8. */
void edgesea_network_end(int8_t *embedding);

#endif
