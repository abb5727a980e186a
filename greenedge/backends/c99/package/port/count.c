/* The first golden sample on a bare core in QEMU, which counts the instructions of every call of model_run, and the bytes
 * of stack. Prints "equal" or "differs", the bytes of stack, then a number for each call. Instructions, not cycles.
 *
 * -DCALLS=… (calls of model_run's kernels) -DMODEL_TRACE=count_call; qemu-system-arm -M mps2-an386 -icount shift=6,
 * qemu-system-riscv32 -M virt -icount shift=0.
 */
#include "../golden.h"

enum { WRITE_TEXT = 4, EXIT = 0x18, EXIT_EXTENDED = 0x20, STOPPED = 0x20026, PAINTED = 16384 };

static uint32_t memory[MODEL_MEMORY_WORDS], counts[CALLS], before;
extern uint32_t data_load[], data_begin[], data_end[], bss_begin[], bss_end[], stack_top[];
void start(void);
void count_call(unsigned call, const void *result);

#if defined(__riscv)
static long call(long what, const void *about) {
    register long a0 __asm__("a0") = what;
    register const void *a1 __asm__("a1") = about;
    __asm__ volatile(".balign 16\n.option push\n.option norvc\nslli x0, x0, 0x1f\nebreak\nsrai x0, x0, 7\n.option pop\n"
                     : "+r"(a0) : "r"(a1) : "memory");
    return a0;
}

static void start_clock(void) {}

static uint32_t now(void) {
    uint32_t v;
    __asm__ volatile(".insn i 0x73, 2, %0, x0, -1278" : "=r"(v) : : "memory"); /* minstret, also where zicsr has to be named */
    return v;
}

static uint32_t passed(uint32_t from, uint32_t to) { return to - from; }
#else
static long call(long what, const void *about) {
    register long r0 __asm__("r0") = what;
    register const void *r1 __asm__("r1") = about;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

/* With shift=6 an instruction takes 64 ns; the board's first timer counts down every 40 ns. */
static volatile uint32_t *const timer = (volatile uint32_t *)0x40000000;

static void start_clock(void) { timer[2] = 0xffffffffu, timer[1] = 0xffffffffu, timer[0] = 1; }

static uint32_t now(void) { return timer[1]; }

static uint32_t passed(uint32_t from, uint32_t to) { return (uint32_t)((uint64_t)(from - to) * 5 / 8); }
#endif

void count_call(unsigned number, const void *result) {
    (void)result;
    counts[number] = passed(before, now());
    before = now();
}

static void print(uint32_t v) {
    char text[12], *at = text + 11;
    *at = 0;
    *--at = ' ';
    do *--at = (char)('0' + v % 10);
    while (v /= 10);
    call(WRITE_TEXT, at);
}

static uint32_t differing;

static void visit(int32_t got, int32_t expected) { differing += got != expected; }

static __attribute__((noinline)) void infer(void) {
    before = now();
    GOLDEN_RUN(0, memory);
}

void start(void) {
    for (volatile uint32_t *to = data_begin, *from = data_load; to < data_end;) *to++ = *from++;
    for (volatile uint32_t *to = bss_begin; to < bss_end;) *to++ = 0;
    volatile uint32_t here = 0, *low = &here - PAINTED / 4;
    for (volatile uint32_t *at = low; at < &here - 32; at++) *at = 0xa5a5a5a5u; /* the stack below this function */
    start_clock();
    infer();
    while (*low == 0xa5a5a5a5u) low++;
#define VISIT(got, expected) visit(got, expected);
    GOLDEN_RESULTS(0, VISIT)
    call(WRITE_TEXT, differing ? "differs " : "equal ");
    print((uint32_t)((&here - low) * 4));
    for (uint32_t k = 0; k < CALLS; k++) print(counts[k]);
    long about[2] = {STOPPED, differing != 0};
    call(EXIT_EXTENDED, about);
    call(EXIT, (const void *)STOPPED);
    for (;;) { }
}

#if defined(__riscv)
__attribute__((naked, section(".entry"))) void entry(void) {
    __asm__ volatile("la sp, stack_top\nj start");
}
#else
static void fault(void) {
    call(WRITE_TEXT, "fault ");
    for (;;) { }
}
__attribute__((section(".entry"), used)) static const void *const vectors[16] = {stack_top, (const void *)start, (const void *)fault,
                                                                                 (const void *)fault};
#endif
