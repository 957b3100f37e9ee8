/* Arm's MPS2 board as QEMU emulates it: start, files and text by semihosting, a clock that counts instructions. */
#include <stdint.h>
#include <string.h>

#include "platform.h"

#define REGISTER(address) (*(volatile uint32_t *)(address))
#define PAINT 0xa5a5a5a5u

extern uint32_t data_from[], data_begin[], data_end[], bss_begin[], bss_end[], stack_begin[], stack_end[], flash_end[];

static uint32_t ask(uint32_t operation, const void *block)
{
    register uint32_t r0 __asm("r0") = operation;
    register const void *r1 __asm("r1") = block;
    __asm volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void leave(int failed)
{
    ask(0x18, (const void *)(failed ? 0x20023u : 0x20026u));
    for (;;) {
    }
}

static uint32_t handle;

int platform_open(const char *path)
{
    uint32_t block[] = {(uint32_t)path, 1, strlen(path)};
    handle = ask(1, block);
    return handle != UINT32_MAX;
}

uint32_t platform_read(void *to, uint32_t n)
{
    uint32_t block[] = {handle, (uint32_t)to, n};
    return n - ask(6, block);
}

void platform_write(const char *text)
{
    ask(4, text);
}

uint32_t platform_ticks(void)
{
    return ~REGISTER(0x40000004u); /* timer 0, at 25 MHz, counts downwards; -icount shift=0 takes 1 ns an instruction */
}

static void print(const char *name, uint32_t bytes)
{
    char text[16] = " bytes\n", *at = text + 8;
    memmove(at, text, 8);
    for (; bytes && at > text; bytes /= 10) {
        *--at = (char)('0' + bytes % 10);
    }
    platform_write(name);
    platform_write(at);
}

static void fault(void)
{
    platform_write("fault\n");
    leave(1);
}

void reset(void);
void reset(void)
{
    static char line[1024];
    uint32_t block[] = {(uint32_t)line, sizeof line};
    REGISTER(0xe000ed88u) |= 0xfu << 20; /* floating-point unit */
    __asm volatile("dsb\nisb");
    memcpy(data_begin, data_from, (uint32_t)data_end - (uint32_t)data_begin);
    memset(bss_begin, 0, (uint32_t)bss_end - (uint32_t)bss_begin);
    for (volatile uint32_t *at = stack_begin; at < (uint32_t *)__builtin_frame_address(0) - 64; at++) {
        *at = PAINT;
    }
    REGISTER(0x40000008u) = UINT32_MAX;
    REGISTER(0x40000004u) = UINT32_MAX;
    REGISTER(0x40000000u) = 1;
    ask(0x15, block);
    char *options = strchr(line, ' ');
    int failed = program(options ? options + 1 : line + strlen(line));
    if (!failed) {
        const uint32_t *touched = stack_begin;
        while (*touched == PAINT) {
            touched++;
        }
        print("flash: ", (uint32_t)flash_end);
        print("static RAM: ", (uint32_t)bss_end - (uint32_t)data_begin);
        print("stack: ", (uint32_t)stack_end - (uint32_t)touched);
    }
    leave(failed);
}

__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    stack_end, (const void *)reset, (const void *)fault, (const void *)fault,
    (const void *)fault, (const void *)fault, (const void *)fault,
};
