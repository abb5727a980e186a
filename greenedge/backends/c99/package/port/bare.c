/* The self-test on a bare Arm Cortex-M or RISC-V core: start-up, and the result printed through semihosting.
 *
 * It runs in an emulator or under a debugger (see README.md). Your firmware needs ge_kernels.c and model.c alone.
 */
#include "../selftest.h"

enum { WRITE_TEXT = 4, EXIT = 0x18, EXIT_EXTENDED = 0x20, STOPPED = 0x20026 };

#if defined(__riscv)
static long call(long what, const void *about) {
    register long a0 __asm__("a0") = what;
    register const void *a1 __asm__("a1") = about;
    __asm__ volatile(".balign 16\n.option push\n.option norvc\nslli x0, x0, 0x1f\nebreak\nsrai x0, x0, 7\n.option pop\n"
                     : "+r"(a0) : "r"(a1) : "memory");
    return a0;
}
#else
static long call(long what, const void *about) {
    register long r0 __asm__("r0") = what;
    register const void *r1 __asm__("r1") = about;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}
#endif

static char *written(char *at, const char *text) {
    while (*text) *at++ = *text++;
    return at;
}

static char *written_hex(char *at, uint32_t value) {
    for (int shift = 28; shift >= 0; shift -= 4) *at++ = "0123456789abcdef"[value >> shift & 15];
    return at;
}

static void report(const selftest_result *r) {
    static char line[96];
    char *at = written_hex(written(line, "compared "), r->compared);
    at = written_hex(written(at, " differing "), r->differing);
    at = written_hex(written(at, " hash "), r->hash);
    at = written_hex(written(at, " expected "), r->expected);
    *written(at, "\n") = 0;
    call(WRITE_TEXT, line);
    long about[2] = {STOPPED, r->differing || r->hash != r->expected || !r->compared};
    call(EXIT_EXTENDED, about);
    call(EXIT, (const void *)STOPPED);
    for (;;) { }
}

extern uint32_t data_load[], data_begin[], data_end[], bss_begin[], bss_end[], stack_top[];

void start(void) {
    for (volatile uint32_t *to = data_begin, *from = data_load; to < data_end;) *to++ = *from++;
    for (volatile uint32_t *to = bss_begin; to < bss_end;) *to++ = 0;
    static selftest_result result;
    selftest(&result);
    report(&result);
}

#if defined(__riscv)
__attribute__((naked, section(".entry"))) void entry(void) {
    __asm__ volatile("la sp, stack_top\nj start");
}
#else
static void fault(void) {
    for (;;) { }
}
__attribute__((section(".entry"), used)) static const void *const vectors[16] = {stack_top, (const void *)start, (const void *)fault,
                                                                                 (const void *)fault};
#endif
