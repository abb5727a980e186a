// Drives many hardware units at once: every input and output stream at its own pace, each recorded by itself.
//
//   sim run.txt
//
// run.txt, one item a line:
//   in NAME INDEX BYTE_OFFSET BYTES_PER_BEAT BEATS PATH
//   out NAME INDEX BYTE_OFFSET BYTES_PER_BEAT BEATS PATH
//   stall SEED IN_PER_256 OUT_PER_256         how often an input pauses and an output is not ready; 0 0: never
//   patience CYCLES                           without one beat on any stream: a deadlock
// Prints "beats NAME CYCLE CYCLE ..." for each output. Ends with "error: ..." for a deadlock, an output that takes back
// or changes what it offered, and a beat too many.
#include "Vsim_top.h"
#include "verilated.h"
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

static const int RESET_CYCLES = 8;
static const int AFTERWARDS = 200;                           // cycles in which no further beat may appear

struct Stream {
    std::string name, path;
    size_t index = 0, offset = 0, bytes = 0, beats = 0, done = 0;
    std::vector<uint8_t> data;
    std::vector<uint64_t> cycles;
    bool offered = false, waits = false;                     // an input holds a beat out; an output's beat was not taken
    std::vector<uint8_t> seen;
};

static uint32_t random_state = 1;
static bool pauses(uint32_t per_256) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return (random_state >> 8 & 255) < per_256;
}

template <typename Wide> static bool bit_at(const Wide& port, size_t i) { return (port[i / 32] >> (i % 32)) & 1; }

template <typename Wide> static void set_bit(Wide& port, size_t i, bool value) {
    port[i / 32] = (port[i / 32] & ~(1u << (i % 32))) | (uint32_t(value) << (i % 32));
}

template <typename Wide> static void set_byte(Wide& port, size_t i, uint8_t value) {
    port[i / 4] = (port[i / 4] & ~(255u << (8 * (i % 4)))) | (uint32_t(value) << (8 * (i % 4)));
}

static int fail(const std::string& reason) {
    std::cout << "error: " << reason << '\n';
    return 2;
}

int main(int argc, char** argv) {
    VerilatedContext context;
    context.randReset(2);
    context.randSeed(1);
    std::vector<Stream> ins, outs;
    uint32_t stall_in = 0, stall_out = 0;
    uint64_t patience = 10000;
    std::ifstream run(argc > 1 ? argv[1] : "run.txt");
    std::string line, word;
    while (std::getline(run, line)) {
        std::istringstream item(line);
        item >> word;
        Stream s;
        if (word == "stall") item >> random_state >> stall_in >> stall_out;
        else if (word == "patience") item >> patience;
        else item >> s.name >> s.index >> s.offset >> s.bytes >> s.beats >> s.path;
        if (!item) return fail("the line '" + line + "' cannot be read");
        if (word == "in") {
            std::ifstream file(s.path, std::ios::binary);
            s.data.assign(std::istreambuf_iterator<char>(file), {});
            if (s.data.size() != s.bytes * s.beats) return fail(s.path + " has another size");
            ins.push_back(s);
        } else if (word == "out") {
            outs.push_back(s);
        }
    }

    Vsim_top top(&context);
    top.clk = 0;
    top.rst = 1;
    for (int i = 0; i < RESET_CYCLES; i++) {
        top.clk = 1;
        top.eval();
        top.clk = 0;
        top.eval();
    }
    top.rst = 0;

    size_t open = ins.size() + outs.size();                  // streams with beats still to come
    uint64_t cycle = 0, moved = 0, ended = 0;
    for (; open || cycle < ended + AFTERWARDS; cycle++) {
        for (Stream& s : ins) {
            if (!s.offered && s.done < s.beats && !pauses(stall_in)) {
                s.offered = true;
                for (size_t i = 0; i < s.bytes; i++) set_byte(top.in_tdata, s.offset + i, s.data[s.done * s.bytes + i]);
            }
            set_bit(top.in_tvalid, s.index, s.offered);
        }
        for (Stream& s : outs) set_bit(top.out_tready, s.index, !pauses(stall_out));
        top.eval();
        for (Stream& s : ins) {
            if (!s.offered || !bit_at(top.in_tready, s.index)) continue;
            s.offered = false;
            moved = cycle;
            open -= ++s.done == s.beats;
        }
        for (Stream& s : outs) {
            bool valid = bit_at(top.out_tvalid, s.index);
            if (s.waits && !valid) return fail(s.name + " took its beat back");
            if (!valid) continue;
            if (s.done == s.beats) return fail(s.name + " sends more than " + std::to_string(s.beats) + " beats");
            std::vector<uint8_t> beat(s.bytes);
            for (size_t i = 0, k = s.offset; i < s.bytes; i++, k++) beat[i] = uint8_t(top.out_tdata[k / 4] >> (8 * (k % 4)));
            if (s.waits && beat != s.seen) return fail(s.name + " changed a beat that was waiting");
            s.waits = !bit_at(top.out_tready, s.index);
            s.seen = beat;
            if (s.waits) continue;
            s.data.insert(s.data.end(), beat.begin(), beat.end());
            s.cycles.push_back(cycle);
            moved = cycle;
            open -= ++s.done == s.beats;
        }
        if (open) ended = cycle;
        if (open && cycle - moved > patience) {
            std::string waiting;
            for (auto* side : {&ins, &outs})
                for (Stream& s : *side)
                    if (s.done < s.beats)
                        waiting += " " + s.name + " " + std::to_string(s.done) + "/" + std::to_string(s.beats);
            return fail("no stream moved for " + std::to_string(patience) + " cycles:" + waiting);
        }
        top.clk = 1;
        top.eval();
        top.clk = 0;
        top.eval();
    }
    for (Stream& s : outs) {
        std::ofstream file(s.path, std::ios::binary);
        file.write(reinterpret_cast<const char*>(s.data.data()), std::streamsize(s.data.size()));
        std::cout << "beats " << s.name;
        for (uint64_t c : s.cycles) std::cout << ' ' << c;
        std::cout << '\n';
    }
    top.final();
    return 0;
}
