// Runs the decoder in sim_top: reads requests from a text file, writes what it did as int32.
//   TOKEN AT SAMPLE UNIT STATE     one token; TOKEN < 0 takes the token that came out last
// For every line: next, cycles, then the residual behind the embedding and every layer, then the logits where SAMPLE.
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <vector>
#include "Vsim_top.h"
#include "verilated.h"

static const long kPatience = 10000000;

int main(int argc, char** argv) {
    Verilated::randReset(2);  // registers and memories wake up with anything; +verilator+seed+N is another anything
    Verilated::randSeed(1);
    Verilated::commandArgs(argc, argv);
    if (argc < 6) return fprintf(stderr, "error: requests results dim layers vocabulary\n"), 2;
    FILE* in = fopen(argv[1], "r");
    FILE* out = fopen(argv[2], "wb");
    if (!in || !out) return fprintf(stderr, "error: files cannot be opened\n"), 2;
    const int dim = atoi(argv[3]), layers = atoi(argv[4]), vocabulary = atoi(argv[5]);
    Vsim_top top;
    std::vector<int32_t> x(dim), logits(vocabulary), record;
    auto edge = [&] {
        top.clk = 0;
        top.eval();
        top.clk = 1;
        top.eval();
    };
    auto watch = [&] {  // registers behind an edge
        if (top.watch_x) x.at(top.watch_x_index) = (int16_t)top.watch_x_value;
        if (top.watch_logit) logits.at(top.watch_logit_index) = (int32_t)top.watch_logit_value;
        if (top.watch_layer) record.insert(record.end(), x.begin(), x.end());
    };
    top.start = 0;
    top.rst = 1;
    for (int i = 0; i < 16; i++) edge();
    top.rst = 0;
    edge();
    int32_t last = 0;
    int token, at, sample;
    uint32_t unit, state;
    while (fscanf(in, "%d %d %d %" SCNu32 " %" SCNu32, &token, &at, &sample, &unit, &state) == 5) {
        if (!top.ready) return printf("error: the engine is not ready for a token\n"), 1;
        top.token = token < 0 ? last : token, top.at = at, top.sample = sample, top.start = 1;
        top.unit = unit, top.state = state;
        record.clear();
        edge();
        top.start = 0;
        watch();
        for (long waited = 0; !top.done; waited++) {
            if (waited == kPatience) return printf("error: no token within %ld cycles\n", kPatience), 1;
            edge();
            watch();
        }
        last = top.next;
        if ((long)record.size() != (long)dim * layers) return printf("error: %zu of %d layers ended\n", record.size() / dim, layers), 1;
        int32_t head[2] = {(int32_t)top.next, (int32_t)top.cycles};
        fwrite(head, 4, 2, out);
        fwrite(record.data(), 4, record.size(), out);
        if (sample) fwrite(logits.data(), 4, vocabulary, out);
        edge();
    }
    fclose(out);
    top.final();
    printf("done\n");
    return 0;
}
