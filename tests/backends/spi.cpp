// An SPI master for the board's pins: the bytes of input.bin go out, mode 0, most significant bit first, at an eighth of the clock,
// in portions with the select released between them; what came back is printed in hexadecimal.
#include "Vsim_top.h"
#include "verilated.h"
#include <cstdio>
#include <fstream>
#include <iterator>
#include <vector>

static Vsim_top* top;

static void cycles(int n) {
    while (n-- > 0) {
        top->clk = 1;
        top->eval();
        top->clk = 0;
        top->eval();
    }
}

int main(int argc, char** argv) {
    VerilatedContext context;
    context.randReset(2);
    context.commandArgs(argc, argv);
    top = new Vsim_top(&context);
    std::ifstream file(argv[1], std::ios::binary);
    std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    top->spi_sck = 0;
    top->spi_cs = 1;
    top->button = 1;
    cycles(8192);
    int sent = 0;
    for (char byte : bytes) {
        if (sent++ % 17 == 0) {
            top->spi_cs = 1;
            cycles(20);
            top->spi_cs = 0;
            cycles(20);
        }
        int back = 0;
        for (int bit = 7; bit >= 0; bit--) {
            top->spi_mosi = byte >> bit & 1;
            cycles(4);
            back = back << 1 | top->spi_miso;
            top->spi_sck = 1;
            cycles(4);
            top->spi_sck = 0;
        }
        printf("%02x", back);
    }
    printf("\n");
    top->final();
    delete top;
    return 0;
}
