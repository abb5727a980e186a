// The C simulation of one hls4ml project as a program: reads samples, calls the top function, writes every traced layer.
//
//     csim INPUT OUTPUT TRACES        INPUT and OUTPUT: doubles, sample by sample
//
// TRACES is a folder, or "-" for none: <layer>.bin holds that layer's values of every sample. One file is compiled: the
// project's own sources and its bridge are included.
#include TOP_SOURCE
#ifdef AXI_SOURCE
#include AXI_SOURCE
#endif
#include BRIDGE_SOURCE

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "traced.h"

int main(int argc, char **argv) {
    if (argc != 4) return std::fprintf(stderr, "error: csim INPUT OUTPUT TRACES\n"), 2;
    std::FILE *in = std::fopen(argv[1], "rb"), *out = std::fopen(argv[2], "wb");
    if (!in || !out) return std::fprintf(stderr, "error: a file cannot be opened\n"), 2;
    const bool tracing = std::strcmp(argv[3], "-") != 0;
    std::vector<std::FILE *> traces;
    if (tracing) {
        allocate_trace_storage(sizeof(double));
        for (size_t k = 0; traced_sizes[k]; k++) {
            traces.push_back(std::fopen((std::string(argv[3]) + "/" + traced_names[k] + ".bin").c_str(), "wb"));
            if (!traces.back()) return std::fprintf(stderr, "error: a trace cannot be written\n"), 2;
        }
    }
    std::vector<double> x(inputs), y(outputs);
    while (std::fread(x.data(), sizeof(double), inputs, in) == inputs) {
#ifdef BRIDGE_SIZES
        unsigned short n_in = inputs, n_out = outputs;
        net_double(x.data(), y.data(), n_in, n_out);
#else
        net_double(x.data(), y.data());
#endif
        std::fwrite(y.data(), sizeof(double), outputs, out);
        for (size_t k = 0; k < traces.size(); k++) {
            auto found = nnet::trace_outputs->find(traced_names[k]);
            if (found == nnet::trace_outputs->end()) return std::fprintf(stderr, "error: layer %s is not traced\n", traced_names[k]), 2;
            std::fwrite(found->second, sizeof(double), traced_sizes[k], traces[k]);
        }
    }
    for (std::FILE *file : traces) std::fclose(file);
    std::fclose(in);
    return std::fclose(out) ? 2 : 0;
}
