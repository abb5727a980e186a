// The board in simulation: moves the pins of the top level clock by clock and connects its UART to a pseudo-terminal.
//
//   sim DESCRIPTION       a file of lines "key value": clock_hz baud button_low seed limit_s wait_us (how long a
//                         host may think before the clock goes on without it)
// Orders come on standard input, one a line; each is answered by one line:
//   noise CORRUPT DROP    parts per million of the bytes, both ways
//   glitch PPM            parts per million of the cycles in which the line to the board is inverted
//   reset                 the button, pressed for 1,000 cycles
//   unplug                the terminal is closed
//   plug                  a terminal is made; the answer ends with its name
//   stat                  cycles, bytes to and from the board, faults so far
//   quit                  as does the end of standard input
#include "Vsim_top.h"
#include "verilated.h"
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <fcntl.h>
#include <fstream>
#include <map>
#include <poll.h>
#include <string>
#include <termios.h>
#include <unistd.h>
#include <vector>

static const size_t QUEUE = 4096, KEPT = 1 << 16;
static const uint64_t SLICE = 512, PRESS = 1000, BOOT = 8192;

struct Random {
    uint64_t state;
    uint32_t next() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return uint32_t(state >> 16);
    }
    bool chance(uint32_t ppm) { return ppm && next() % 1000000 < ppm; }
};

// Sends bytes over a line; a bit lasts `step`/65536 bits per cycle.
struct Sender {
    std::deque<uint8_t> queue;
    uint64_t step = 0, phase = 0, bits = 0, bytes = 0;
    int left = 0;
    bool idle() const { return !left && queue.empty(); }
    bool line() {
        if (!left) {
            if (queue.empty()) return true;
            bits = uint64_t(queue.front()) << 1 | 1u << 9;
            queue.pop_front();
            left = 10;
            phase = 0;
            bytes++;
        }
        bool level = bits >> (10 - left) & 1;
        phase += step;
        if (phase >= 65536) {
            phase -= 65536;
            left--;
        }
        return level;
    }
};

struct Receiver {
    uint64_t step = 0, phase = 0, quiet = 0, bytes = 0;
    int left = 0;
    uint8_t bits = 0;
    bool take(bool line, uint8_t& byte) {
        if (!left) {
            quiet++;
            if (line) return false;
            left = 10;
            phase = 32768;
            quiet = 0;
        }
        phase += step;
        if (phase < 65536) return false;
        phase -= 65536;
        left--;
        if (left == 9 && line) left = 0;
        if (left >= 1 && left <= 8) bits = uint8_t(bits >> 1 | (line ? 0x80 : 0));
        if (left) return false;
        byte = bits;
        bytes++;
        return line;
    }
};

struct Virtual {
    Vsim_top top;
    std::map<std::string, int64_t> set;
    Random random;
    Sender to;
    Receiver from;
    std::string orders;
    std::vector<uint8_t> out;
    uint64_t cycle = 0, faults = 0, resets = 0, press_until = 0, active = 0;
    uint32_t corrupt = 0, drop = 0, glitch = 0;
    int terminal = -1, other_end = -1;     // the other end stays open, or every close by a host would be an error here
    std::string name = "-";
    bool running = true;

    explicit Virtual(VerilatedContext* context) : top(context) {}

    bool spoiled(uint8_t& byte) {
        if (random.chance(drop)) {
            faults++;
            return true;
        }
        if (random.chance(corrupt)) {
            faults++;
            byte ^= uint8_t(1 + random.next() % 255);
        }
        return false;
    }

    void clock() {
        bool pressed = cycle < press_until;
        bool line = to.line();
        if (random.chance(glitch)) {
            line = !line;
            faults++;
        }
        top.uart_rx = line;
        top.button = pressed != bool(set["button_low"]);
        top.clk = 1;
        top.eval();
        top.clk = 0;
        top.eval();
        uint8_t byte = 0;
        if (from.take(top.uart_tx, byte) && !spoiled(byte) && terminal >= 0 && out.size() < KEPT) out.push_back(byte);
        cycle++;
    }

    void flush() {
        while (terminal >= 0 && !out.empty()) {
            ssize_t done = write(terminal, out.data(), out.size());
            if (done <= 0) return;
            out.erase(out.begin(), out.begin() + done);
        }
    }

    void unplug() {
        if (terminal >= 0) close(terminal);
        if (other_end >= 0) close(other_end);
        terminal = other_end = -1;
        name = "-";
        out.clear();
        to.queue.clear();
    }

    void plug() {
        unplug();
        terminal = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
        const char* path = terminal >= 0 && !grantpt(terminal) && !unlockpt(terminal) ? ptsname(terminal) : nullptr;
        other_end = path ? open(path, O_RDWR | O_NOCTTY) : -1;
        termios raw;
        if (other_end < 0 || tcgetattr(other_end, &raw)) return unplug();
        cfmakeraw(&raw);
        tcsetattr(other_end, TCSANOW, &raw);
        name = path;
    }

    void order(const std::string& line) {
        int a = 0, b = 0;
        if (sscanf(line.c_str(), "noise %d %d", &a, &b) == 2) {
            corrupt = uint32_t(a);
            drop = uint32_t(b);
        } else if (sscanf(line.c_str(), "glitch %d", &a) == 1) {
            glitch = uint32_t(a);
        } else if (line == "plug") {
            plug();
        } else if (line == "reset") {
            press_until = cycle + PRESS;
            resets++;
        } else if (line == "unplug") {
            unplug();
        } else if (line == "quit") {
            running = false;
        }
        printf("cycles %llu active %llu to %llu from %llu faults %llu resets %llu led %d marker %d terminal %s\n", (unsigned long long)cycle,
               (unsigned long long)active, (unsigned long long)to.bytes, (unsigned long long)from.bytes,
               (unsigned long long)faults, (unsigned long long)resets, int(top.led), int(top.marker), name.c_str());
        fflush(stdout);
    }

    // Waits at most `wait_ms` for host or orders; takes what there is.
    void listen(int wait_ms) {
        pollfd fds[2] = {{0, POLLIN, 0}, {terminal, short(to.queue.size() < QUEUE ? POLLIN : 0), 0}};
        if (poll(fds, terminal >= 0 ? 2 : 1, wait_ms) < 0) return;
        if (fds[0].revents) {
            char text[256];
            ssize_t got = read(0, text, sizeof text);
            if (got <= 0) running = false;
            else orders.append(text, size_t(got));
            for (size_t end; (end = orders.find('\n')) != std::string::npos; orders.erase(0, end + 1)) order(orders.substr(0, end));
        }
        if (terminal >= 0 && (fds[1].revents & POLLIN)) {
            uint8_t data[QUEUE];
            ssize_t got = read(terminal, data, sizeof data);
            for (ssize_t i = 0; i < got; i++)
                if (!spoiled(data[i])) to.queue.push_back(data[i]);
        }
    }

    void run() {
        using clock_type = std::chrono::steady_clock;
        const auto end = clock_type::now() + std::chrono::seconds(set["limit_s"]);
        const uint64_t quiet_enough = 40 * 65536 / to.step;          // four bytes' time without a bit
        uint64_t asleep = 0, computing = 0;
        while (cycle < BOOT) clock();                                // its reset is over before a host can plug it in
        while (running && clock_type::now() < end) {
            bool silent = to.idle() && from.quiet > quiet_enough && press_until <= cycle, quiet = silent && !top.busy;
            asleep = quiet ? asleep + 1 : 0;
            computing = silent && top.busy ? computing + 1 : 0;
            // the host may think while its line is silent, but not for as long as the core computes; a board that has long done
            // nothing is not worth a whole processor
            int wait_ms = !to.idle() || computing > 8 ? 0 : int(set["wait_us"] / 1000);
            if (asleep > 200) wait_ms = asleep > 1000 ? 20 : 2;
            listen(wait_ms);
            for (uint64_t i = 0; i < SLICE; i++) clock();
            if (!quiet) active += SLICE;
            flush();
        }
    }
};

int main(int argc, char** argv) {
    VerilatedContext context;
    context.randReset(2);
    context.randSeed(1);
    context.commandArgs(argc, argv);
    Virtual board(&context);
    std::ifstream file(argc > 1 ? argv[1] : "");
    std::string key;
    int64_t value;
    while (file >> key >> value) board.set[key] = value;
    if (!board.set.count("baud") || !board.set["clock_hz"]) {
        printf("error: the description cannot be read\n");
        return 1;
    }
    board.random.state = uint64_t(board.set["seed"]) * 0x9E3779B97F4A7C15ull + 1;
    board.to.step = board.from.step = uint64_t(board.set["baud"]) * 65536 / uint64_t(board.set["clock_hz"]);
    board.top.clk = 0;
    board.run();
    board.top.final();
    return 0;
}
