/* Counts the instructions of every call of a C99 package on an emulated core, and compares the golden samples. */
#include "golden.h"

static uint32_t memory[MODEL_MEMORY_WORDS];
static uint32_t counts[CALLS], last;
void main_begin(void);

#if defined(__riscv)
static long call(long what, const void *about) {
    register long a0 __asm__("a0") = what;
    register const void *a1 __asm__("a1") = about;
    __asm__ volatile(".balign 16\n.option push\n.option norvc\nslli x0, x0, 0x1f\nebreak\nsrai x0, x0, 7\n.option pop\n"
                     : "+r"(a0) : "r"(a1) : "memory");
    return a0;
}
static uint32_t now(void) {
    uint32_t v;
    __asm__ volatile(".insn i 0x73, 2, %0, x0, -1278" : "=r"(v)::"memory"); /* minstret */
    return v;
}
static uint32_t since(uint32_t t) { return now() - t; }
static void start_clock(void) {}
#else
static long call(long what, const void *about) {
    register long r0 __asm__("r0") = what;
    register const void *r1 __asm__("r1") = about;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}
/* With -icount shift=6 an instruction takes 64 ns, and the timer of the board ticks every 40 ns. */
#define TIMER ((volatile uint32_t *)0x40000000)
static uint32_t now(void) { return TIMER[1]; }
static uint32_t since(uint32_t t) { return (uint32_t)((uint64_t)(t - now()) * 5 / 8); }
static void start_clock(void) { TIMER[2] = 0xffffffffu, TIMER[1] = 0xffffffffu, TIMER[0] = 1; }
#endif

void count_call(unsigned number, const void *result) {
    (void)result;
    counts[number] = since(last);
    last = now();
}

static void number(uint32_t v) {
    char text[12], *p = text + 11;
    *p = 0, *--p = ' ';
    do *--p = (char)('0' + v % 10), v /= 10; while (v);
    call(4, p);
}

static uint32_t differing;
static void visit(int32_t got, int32_t expected) { differing += got != expected; }

extern uint32_t data_load[], data_begin[], data_end[], bss_begin[], bss_end[], stack_top[];

void main_start(void) {
    for (volatile uint32_t *to = data_begin, *from = data_load; to < data_end;) *to++ = *from++;
    for (volatile uint32_t *to = bss_begin; to < bss_end;) *to++ = 0;
    start_clock();
    for (uint32_t n = 0; n < GOLDEN_SAMPLES; n++) {
        last = now();
        GOLDEN_RUN(n, memory);
#define VISIT(got, expected) visit(got, expected);
        GOLDEN_RESULTS(n, VISIT)
    }
    call(4, differing ? "DIFFER " : "equal ");
    for (uint32_t k = 0; k < CALLS; k++) number(counts[k]);
    long about[2] = {0x20026, 0};
    call(0x20, about), call(0x18, (const void *)0x20026);
    for (;;) { }
}

#if defined(__riscv)
__attribute__((naked, section(".entry"))) void entry(void) { __asm__ volatile("la sp, stack_top\nj main_start"); }
#else
static void main_fault(void) {
    call(4, "FAULT");
    for (;;) { }
}
__attribute__((section(".entry"), used)) static const void *const main_vectors[16] = {
    stack_top, (const void *)main_start, (const void *)main_fault, (const void *)main_fault, (const void *)main_fault};
#endif
