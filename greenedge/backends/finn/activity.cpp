// The harness of every simulation with the toggles of the design's signals counted, from the first sample offered.
#define WORK_BEGINS s_tvalid
#include "toggle_counter.h"
#define Vsim_top Counted
#include "run.cpp"
