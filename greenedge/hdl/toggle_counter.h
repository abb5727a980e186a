// For harnesses of simulations: Counted takes the place of Vsim_top and counts the toggles of the design's signals, every
// change of every bit below sim_top.dut but the clock's, from the first cycle in which WORK_BEGINS (a port) is high to
// final(), where it prints "toggles COUNT bits COUNT cycles COUNT". A signal that goes by several names counts once.
#pragma once
#include "Vsim_top.h"
#include "verilated_vcd_c.h"
#include <cstdint>
#include <iostream>
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>

// Takes the place of the file that a trace is written to and counts instead.
class ToggleCounter : public VerilatedVcdFile {
    struct Signal {
        size_t width = 0;
        bool wanted = false, known = false;
        std::string last;
    };
    std::unordered_map<std::string, Signal> signals;
    std::vector<std::string> scopes;
    std::string rest;

    bool in_design() const { return scopes.size() > 1 && scopes[0] == "sim_top" && scopes[1] == "dut"; }

    void declaration(const std::string& line) {
        std::istringstream in(line);
        std::string word, kind, width, code, name;
        in >> word >> kind;
        if (word == "$upscope" && !scopes.empty()) scopes.pop_back();
        if (word == "$scope") {
            in >> name;
            if (!(scopes.empty() && name == "TOP")) scopes.push_back(name);
            else scopes.clear();
        }
        if (word != "$var") return;
        in >> width >> code >> name;
        Signal& signal = signals[code];
        signal.width = std::stoul(width);
        if (in_design() && kind != "parameter" && name != "clk") signal.wanted = true;
        if (name == "clk") signal.width = 0;       // also where a unit gives the clock another name
    }

    void change(const std::string& code, const std::string& value) {
        Signal& signal = signals[code];
        if (counting && signal.known && signal.wanted && signal.width) {
            const std::string& a = signal.last;
            size_t most = a.size() > value.size() ? a.size() : value.size();
            for (size_t i = 0; i < most; i++) {
                char x = i < a.size() ? a[a.size() - 1 - i] : '0', y = i < value.size() ? value[value.size() - 1 - i] : '0';
                toggles += x != y;
            }
        }
        signal.last = value;
        signal.known = true;
    }

    void line(const std::string& text) {
        if (text.empty() || text[0] == '#') return;
        if (text[0] == '$' || text[0] == ' ') {
            size_t start = text.find('$');
            if (start != std::string::npos) declaration(text.substr(start));
        } else if (text[0] == 'b') {
            size_t space = text.find(' ');
            change(text.substr(space + 1), text.substr(1, space - 1));
        } else {
            change(text.substr(1), text.substr(0, 1));
        }
    }

public:
    bool counting = false;
    uint64_t toggles = 0;

    bool open(const std::string&) override { return true; }
    void close() override {}
    ssize_t write(const char* data, ssize_t length) override {
        for (ssize_t i = 0; i < length; i++) {
            if (data[i] != '\n') rest += data[i];
            else { line(rest); rest.clear(); }
        }
        return length;
    }
    uint64_t bits() const {
        uint64_t sum = 0;
        for (const auto& entry : signals) sum += entry.second.wanted ? entry.second.width : 0;
        return sum;
    }
};

class Counted : public Vsim_top {
    ToggleCounter counter_;
    VerilatedVcdC vcd_;
    uint64_t time_ = 0, cycles_ = 0;  // the design may have ports of these names
    bool high_ = false;

public:
    explicit Counted(VerilatedContext* context) : Vsim_top((context->traceEverOn(true), context)), vcd_(&counter_) {
        trace(&vcd_, 99);
        vcd_.open("counted");
    }
    Counted() : Counted(Verilated::threadContextp()) {}
    void eval() {
        Vsim_top::eval();
        if (WORK_BEGINS && !counter_.counting) {
            vcd_.flush();                          // what came before is no work
            counter_.counting = true;
        }
        cycles_ += counter_.counting && clk && !high_;
        high_ = clk;
        vcd_.dump(time_++);
        if (time_ % 256 == 0) vcd_.flush();
    }
    void final() {
        Vsim_top::final();
        vcd_.flush();
        std::cout << "toggles " << counter_.toggles << " bits " << counter_.bits() << " cycles " << cycles_ << '\n';
    }
};
