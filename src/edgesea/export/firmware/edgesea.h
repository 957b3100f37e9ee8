/* Embeddings of audio, on a device: everything is static, nothing is allocated. There is one instance. */
#ifndef EDGESEA_H
#define EDGESEA_H

#include <stddef.h>
#include <stdint.h>

#include "edgesea_model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Called by edgesea_run for each window: EDGESEA_DIMENSIONS numbers, and the place of its first sample. */
typedef void (*edgesea_callback)(const float *embedding, uint64_t start, void *context);

/* Begin, or begin anew: what was pushed before is forgotten. `hop`: samples between windows, a multiple of
   EDGESEA_HOP_STEP; 0 is EDGESEA_HOP. Returns 0, or -1 where the hop is no such multiple. */
int edgesea_init(uint32_t hop, edgesea_callback callback, void *context);

/* Take `n` samples (mono, EDGESEA_RATE Hz). May run in an interrupt: it never waits for edgesea_run. */
void edgesea_push(const int16_t *pcm, size_t n);

/* Compute the oldest window that is complete, and call back. Returns 0 where none is, or nobody to call. */
int edgesea_run(void);

/* Windows whose audio was overwritten before edgesea_run had read it. The rings hold a window and EDGESEA_HOP more. */
uint32_t edgesea_missed(void);

#if EDGESEA_TAGS
extern const char *const edgesea_tags[EDGESEA_TAGS];

/* Scores of the tags: the larger, the likelier. Returns the tag with the largest. */
int edgesea_scores(const float *embedding, float *scores);

/* The logistic function of a score: a probability, if the head was trained by binary cross-entropy. */
float edgesea_probability(float score);
#endif

#ifdef __cplusplus
}
#endif
#endif
