// The harness of the engine with the toggles of its nets counted, from the first token given.
#define WORK_BEGINS start
#include "toggle_counter.h"
#define Vsim_top Counted
#include "run.cpp"
