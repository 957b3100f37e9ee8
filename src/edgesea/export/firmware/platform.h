/* What the program needs of where it runs: host.c, or mps2.c for a Cortex-M in QEMU. */
#ifndef PLATFORM_H
#define PLATFORM_H

#include <stdint.h>

int program(char *options); /* main.c; `options`: what stands behind the program's name, with a blank between words */

int platform_open(const char *path);           /* 0 if it cannot be read; one file at a time */
uint32_t platform_read(void *to, uint32_t n);  /* bytes that there were */
void platform_write(const char *text);
uint32_t platform_ticks(void);
#define INSTRUCTIONS_PER_TICK 40               /* of mps2.c; on the host there are no ticks */

#endif
