// Feeds vectors into the built RTL and records its streams. One program for every design: sim_top.sv gathers all observed
// streams in one wide port, and run.txt says which bytes of it are what.
//
//   sim run.txt
//
// run.txt, one item a line:
//   input "PATH" BYTES_PER_BEAT BEATS_PER_SAMPLE SAMPLES
//   stream NAME INDEX BYTE_OFFSET BYTES_PER_BEAT BEATS_PER_SAMPLE "PATH"-or--     the first one is the output
//   stall SEED IN_PER_256 OUT_PER_256         how often the input pauses and the output is not ready; 0 0: never
//   patience CYCLES                           without one beat on any stream: a deadlock
// Prints one line per sample, "done SAMPLE CYCLE", then "cycles TOTAL"; exit 2 and a sentence for a deadlock.
#include "Vsim_top.h"
#include "verilated.h"
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

static const int RESET_CYCLES = 64;

struct Stream {
    std::string name, path;
    size_t index = 0, offset = 0, bytes = 0, beats = 0;
    std::vector<uint8_t> record;
    uint64_t seen = 0;
};

struct Run {
    std::vector<uint8_t> input;
    size_t in_bytes = 0, in_beats = 0, samples = 0;
    std::vector<Stream> streams;
    uint32_t seed = 1, stall_in = 0, stall_out = 0;
    uint64_t patience = 100000;
};

static uint32_t xorshift(uint32_t& s) {
    s ^= s << 13;
    s ^= s >> 17;
    s ^= s << 5;
    return s;
}

template <typename Wide> static uint8_t byte_at(const Wide& port, size_t i) { return uint8_t(port[i / 4] >> (8 * (i % 4))); }

template <typename Wide> static bool bit_at(const Wide& port, size_t i) { return (port[i / 32] >> (i % 32)) & 1; }

static bool read_run(const char* path, Run& run) {
    std::ifstream file(path);
    std::string line, word, input_path;
    while (std::getline(file, line)) {
        std::istringstream in(line);
        in >> word;
        if (word == "input") {
            in >> std::quoted(input_path) >> run.in_bytes >> run.in_beats >> run.samples;
        } else if (word == "stream") {
            Stream s;
            in >> s.name >> s.index >> s.offset >> s.bytes >> s.beats >> std::quoted(s.path);
            run.streams.push_back(s);
        } else if (word == "stall") {
            in >> run.seed >> run.stall_in >> run.stall_out;
        } else if (word == "patience") {
            in >> run.patience;
        }
        if (!in) return false;
    }
    std::ifstream data(input_path, std::ios::binary);
    run.input.assign(std::istreambuf_iterator<char>(data), {});
    return !run.streams.empty() && run.input.size() == run.in_bytes * run.in_beats * run.samples;
}

static int deadlock(const Run& run, Vsim_top& top, uint64_t beats_in) {
    std::cout << "error: no stream moved for " << run.patience << " cycles after " << beats_in << " input beats and "
              << run.streams[0].seen << " output beats; waiting:";
    for (const Stream& s : run.streams) {
        bool valid = bit_at(top.stream_tvalid, s.index), ready = bit_at(top.stream_tready, s.index);
        std::cout << ' ' << s.name << (valid ? " is full" : ready ? " is empty" : " is closed") << ',';
    }
    std::cout << " end\n";
    return 2;
}

int main(int argc, char** argv) {
    VerilatedContext context;
    context.randReset(2);
    context.randSeed(1);
    context.commandArgs(argc, argv);
    Run run;
    if (argc < 2 || !read_run(argv[1], run)) {
        std::cout << "error: the run description cannot be read\n";
        return 1;
    }
    Vsim_top top(&context);
    top.clk = 0;
    top.s_tvalid = 0;
    top.m_tready = 0;
    for (int i = 0; i < RESET_CYCLES; i++) {       // the design resets itself; what its streams show meanwhile is no data
        top.clk = 1;
        top.eval();
        top.clk = 0;
        top.eval();
    }
    const uint64_t beats_in = run.in_beats * run.samples, beats_out = run.streams[0].beats * run.samples;
    uint64_t in = 0, cycle = 0, moved = 0;
    bool offered = false;
    while (run.streams[0].seen < beats_out) {
        offered = offered || (in < beats_in && (xorshift(run.seed) >> 8 & 255) >= run.stall_in);
        top.s_tvalid = offered;
        if (offered)
            for (size_t i = 0; i < run.in_bytes; i += 4) {
                uint32_t word = 0;
                for (size_t k = 0; k < 4 && i + k < run.in_bytes; k++)
                    word |= uint32_t(run.input[in * run.in_bytes + i + k]) << (8 * k);
                top.s_tdata[i / 4] = word;
            }
        top.m_tready = (xorshift(run.seed) >> 8 & 255) >= run.stall_out;
        top.eval();
        if (offered && top.s_tready) {
            if (in == 0) std::cout << "begin " << cycle << '\n';
            in++;
            offered = false;
            moved = cycle;
        }
        for (size_t k = 0; k < run.streams.size(); k++) {
            Stream& s = run.streams[k];
            if (!bit_at(top.stream_tvalid, s.index) || !bit_at(top.stream_tready, s.index)) continue;
            moved = cycle;
            s.seen++;
            if (s.path != "-")
                for (size_t i = 0; i < s.bytes; i++) s.record.push_back(byte_at(top.stream_tdata, s.offset + i));
            if (k == 0 && s.seen % s.beats == 0) std::cout << "done " << s.seen / s.beats - 1 << ' ' << cycle << '\n';
        }
        if (cycle - moved > run.patience) return deadlock(run, top, in);
        top.clk = 1;
        top.eval();
        top.clk = 0;
        top.eval();
        cycle++;
    }
    for (Stream& s : run.streams) {
        if (s.path == "-") continue;
        std::ofstream file(s.path, std::ios::binary);
        file.write(reinterpret_cast<const char*>(s.record.data()), std::streamsize(s.record.size()));
        if (!file) {
            std::cout << "error: " << s.path << " could not be written\n";
            return 1;
        }
    }
    std::cout << "cycles " << cycle << '\n';
    top.final();
    return 0;
}
