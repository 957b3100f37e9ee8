#include <stdio.h>
#include <string.h>

#include "platform.h"

static FILE *file;

int platform_open(const char *path)
{
    return (file = fopen(path, "rb")) != NULL;
}

uint32_t platform_read(void *to, uint32_t n)
{
    return (uint32_t)fread(to, 1, n, file);
}

void platform_write(const char *text)
{
    fputs(text, stdout);
}

uint32_t platform_ticks(void)
{
    return 0;
}

int main(int argc, char **argv)
{
    static char options[4096];
    for (int i = 1; i < argc; i++) {
        if (strlen(options) + strlen(argv[i]) + 2 > sizeof options) {
            return 1;
        }
        strcat(options, i > 1 ? " " : "");
        strcat(options, argv[i]);
    }
    return program(options);
}
