/* Embeddings or tags of a wav file. With --bits before its name, embeddings as the bits of their floats. */
#include <string.h>

#include "edgesea.h"
#include "platform.h"

#define TEXT2(value) #value
#define TEXT(value) TEXT2(value)
#define MHZ 480

static int bits;
static uint32_t windows;

static void print_number(uint64_t value, int digits)
{
    char text[24], *at = text + sizeof text - 1;
    *at = 0;
    for (; value || digits > 0; value /= 10, digits--) {
        *--at = (char)('0' + value % 10);
    }
    platform_write(at);
}

static void print_decimal(float value, int decimals)
{
    uint32_t one = 1;
    for (int i = 0; i < decimals; i++) {
        one *= 10;
    }
    uint64_t scaled = (uint64_t)((value < 0 ? -value : value) * (float)one + 0.5f);
    platform_write(value < 0 ? " -" : "  ");
    print_number(scaled / one, 1);
    platform_write(".");
    print_number(scaled % one, decimals);
}

static void print_bits(float value)
{
    uint32_t word;
    char text[] = " 00000000";
    memcpy(&word, &value, sizeof word);
    for (int i = 8; i > 0; i--, word >>= 4) {
        text[i] = "0123456789abcdef"[word & 15];
    }
    platform_write(text);
}

static void show(const float *embedding, uint64_t start, void *context)
{
    (void)context;
    windows++;
    print_number(start / EDGESEA_RATE, 1);
    platform_write(".");
    print_number(start % EDGESEA_RATE * 1000 / EDGESEA_RATE, 3);
    platform_write(" s");
#if EDGESEA_TAGS
    if (!bits) {
        float scores[EDGESEA_TAGS];
        int best = edgesea_scores(embedding, scores);
        platform_write("  ");
        platform_write(edgesea_tags[best]);
        print_decimal(scores[best], 3);
        platform_write("\n");
        return;
    }
#endif
    for (int i = 0; i < EDGESEA_DIMENSIONS; i++) {
        if (bits) {
            print_bits(embedding[i]);
        } else {
            print_decimal(embedding[i], 4);
        }
    }
    platform_write("\n");
}

static uint32_t number(const uint8_t *bytes, int count)
{
    return count ? bytes[0] | number(bytes + 1, count - 1) << 8 : 0;
}

/* Read to the samples of a mono wav file with 16 bits at the right rate; how many bytes they are, or 0. */
static uint32_t samples_of_wav(void)
{
    uint8_t head[16];
    int fits = 0;
    if (platform_read(head, 12) != 12 || memcmp(head, "RIFF", 4) || memcmp(head + 8, "WAVE", 4)) {
        return 0;
    }
    while (platform_read(head, 8) == 8) {
        uint32_t size = number(head + 4, 4);
        if (!memcmp(head, "data", 4)) {
            return fits ? size : 0;
        }
        if (!memcmp(head, "fmt ", 4) && size >= 16 && platform_read(head, 16) == 16) {
            uint32_t kind = number(head, 2); /* PCM, or extensible */
            fits = (kind == 1 || kind == 0xfffe) && number(head + 2, 2) == 1 && number(head + 4, 4) == EDGESEA_RATE &&
                   number(head + 14, 2) == 16;
            size -= 16;
        }
        for (size += size & 1; size; size--) {
            if (platform_read(head, 1) != 1) {
                return 0;
            }
        }
    }
    return 0;
}

static uint64_t push_ticks, run_ticks;
static uint32_t longest;

static void hear(const int16_t *block, uint32_t count)
{
    uint32_t begin = platform_ticks(), end;
    edgesea_push(block, count);
    push_ticks += platform_ticks() - begin;
    int more;
    do {
        begin = platform_ticks();
        more = edgesea_run();
        end = platform_ticks() - begin; /* with what `show` prints */
        run_ticks += more ? end : 0;
        longest = more && end > longest ? end : longest;
    } while (more);
}

static void report(const char *name, uint64_t value, const char *unit)
{
    platform_write(name);
    print_number(value, 1);
    platform_write(unit);
}

int program(char *options)
{
    static int16_t block[256];
    bits = !strncmp(options, "--bits ", 7);
    const char *path = options + (bits ? 7 : 0);
    if (!*path || !platform_open(path)) {
        platform_write(*path ? path : "no file");
        platform_write(": cannot be read; name a wav file by its whole path, as in: make run WAV=$PWD/sound.wav\n");
        return 1;
    }
    uint32_t left = samples_of_wav() / 2;
    if (!left) {
        platform_write(path);
        platform_write(": not a mono wav file with 16 bits at " TEXT(EDGESEA_RATE) " Hz; convert it: sox IN -b 16 -c 1 -r "
                       TEXT(EDGESEA_RATE) " OUT.wav\n");
        return 1;
    }
    edgesea_init(0, show, 0);
    uint64_t heard = 0, wanted = EDGESEA_SAMPLES;
    for (uint32_t read = 1; left && read; left -= read) {
        uint32_t most = left < 256 ? left : 256;
        read = platform_read(block, 2 * most) / 2;
        hear(block, read);
        heard += read;
    }
    while (wanted < heard) { /* zeros at the end, so that every sample is in a window */
        wanted += EDGESEA_HOP;
    }
    memset(block, 0, sizeof block);
    while (heard < wanted) {
        uint32_t more = wanted - heard < 256 ? (uint32_t)(wanted - heard) : 256;
        hear(block, more);
        heard += more;
    }
    if (platform_ticks() && windows) {
        uint64_t each = (push_ticks + run_ticks) * INSTRUCTIONS_PER_TICK / windows;
        report("windows: ", windows, "");
        report(", missed: ", edgesea_missed(), "\n");
        report("instructions a window: ", each, "");
        report(", of which the front end at each push: ", push_ticks * INSTRUCTIONS_PER_TICK / windows, "\n");
        report("longest edgesea_run: ", (uint64_t)longest * INSTRUCTIONS_PER_TICK, " instructions\n");
        platform_write("real-time factor at " TEXT(MHZ) " MHz, if an instruction takes one cycle:");
        print_decimal((float)each * EDGESEA_RATE / ((float)MHZ * 1e6f * (float)EDGESEA_HOP), 4);
        platform_write("\n");
    }
    return 0;
}
