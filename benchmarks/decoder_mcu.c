/* A decoder on a bare Cortex-M or RISC-V core: start-up, some tokens, and what they cost in instructions, told through
   semihosting. TOKENS is defined by the compiler's command line. */
#include "model.h"

enum { WRITE_TEXT = 4, EXIT_EXTENDED = 0x20, STOPPED = 0x20026 };

#if defined(__riscv)
static long call(long what, const void *about) {
  register long a0 __asm__("a0") = what;
  register const void *a1 __asm__("a1") = about;
  __asm__ volatile(".balign 16\n.option push\n.option norvc\nslli x0, x0, 0x1f\nebreak\nsrai x0, x0, 7\n.option pop\n"
                   : "+r"(a0) : "r"(a1) : "memory");
  return a0;
}
/* minstret, as a number: older assemblers want an extension named for it */
static uint32_t read_clock(void) {
  uint32_t v;
  __asm__ volatile(".insn i 0x73, 2, %0, x0, -1278" : "=r"(v)::"memory");
  return v;
}
static uint64_t count(uint32_t ticks) { return ticks; }
static void start_clock(void) { }
#else
static long call(long what, const void *about) {
  register long r0 __asm__("r0") = what;
  register const void *r1 __asm__("r1") = about;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}
/* The board's timer counts down every 40 ns; with -icount shift=6 an instruction takes 64 ns. */
#define TIMER ((volatile uint32_t *)0x40000000)
static uint32_t read_clock(void) { return 0xffffffffu - TIMER[1]; }
static uint64_t count(uint32_t ticks) { return (uint64_t)ticks * 5 / 8; }
static void start_clock(void) {
  TIMER[2] = 0xffffffffu;
  TIMER[1] = 0xffffffffu;
  TIMER[0] = 1;
}
#endif

static void write_number(uint64_t value) {
  char digits[24], *at = digits + 22;
  at[0] = ' ';
  at[1] = 0;
  do *--at = (char)('0' + value % 10);
  while (value /= 10);
  call(WRITE_TEXT, at);
}

static model_state m;
static int32_t logits[MODEL_VOCABULARY];
extern uint32_t data_load[], data_begin[], data_end[], bss_begin[], bss_end[], stack_top[];

void start(void) {
  for (volatile uint32_t *to = data_begin, *from = data_load; to < data_end;) *to++ = *from++;
  for (volatile uint32_t *to = bss_begin; to < bss_end;) *to++ = 0;
  uint32_t hash = 0, first = 0, begin;
  int32_t token = 1;
  start_clock();
  model_reset(&m);
  begin = read_clock();
  for (int i = 0; i < TOKENS; i++) {
    if (model_step(&m, token, logits)) break;
    token = model_choose(logits, 0, 0);
    hash = hash * 31 + (uint32_t)token;
    if (i == 0) first = read_clock() - begin;
  }
  const uint32_t all = read_clock() - begin;
  write_number(hash);
  write_number(count(first));
  write_number(count(all));
  write_number(sizeof m + sizeof logits);
  call(WRITE_TEXT, "\n");
  long about[2] = {STOPPED, 0};
  call(EXIT_EXTENDED, about);
  for (;;) { }
}

/* The compiler may put these in place of loops; there is no C library here. */
void *memcpy(void *to, const void *from, __SIZE_TYPE__ size) {
  for (__SIZE_TYPE__ i = 0; i < size; i++) ((volatile char *)to)[i] = ((const char *)from)[i];
  return to;
}
void *memset(void *to, int value, __SIZE_TYPE__ size) {
  for (__SIZE_TYPE__ i = 0; i < size; i++) ((volatile char *)to)[i] = (char)value;
  return to;
}

#if defined(__riscv)
__attribute__((naked, section(".entry"))) void entry(void) { __asm__ volatile("la sp, stack_top\nj start"); }
#else
static void fault(void) {
  call(WRITE_TEXT, "fault\n");
  for (;;) { }
}
__attribute__((section(".entry"), used)) static const void *const vectors[16] = {stack_top, (const void *)start,
                                                                                (const void *)fault, (const void *)fault};
#endif
