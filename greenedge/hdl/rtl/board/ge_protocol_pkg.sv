// What a board and its host say, for the board's units; protocol.py explains these numbers.
// Written by `python -m greenedge.hdl.board_shell.protocol_package`; change protocol.py and run that again.
`default_nettype none
package ge_protocol_pkg;
    // bytes of the line
    localparam logic [7:0] BYTE_IDLE        = 8'h7C;
    localparam logic [7:0] BYTE_ESCAPE      = 8'h7D;
    localparam logic [7:0] BYTE_FLAG        = 8'h7E;
    localparam logic [7:0] BYTE_ESCAPE_FROM = 8'h7C;
    localparam logic [7:0] BYTE_ESCAPE_TO   = 8'h7F;
    localparam logic [7:0] BYTE_FLIP        = 8'h20;

    // frames: type, sequence and length, the payload, two checks
    localparam int unsigned HEADER_BYTES = 5;
    localparam int unsigned CHECK_BYTES  = 4;
    localparam bit [15:0] CHECK_INIT   = 16'hFFFF;
    localparam bit [15:0] CHECK_A_POLY = 16'h1021;
    localparam bit [15:0] CHECK_B_POLY = 16'h8BB7;

    // types: an answer is its request with ANSWER_BIT set, or ERROR
    localparam logic [7:0] ANSWER_BIT = 8'h80;
    localparam logic [7:0] KIND_OPEN   = 8'h01;
    localparam logic [7:0] KIND_DATA   = 8'h02;
    localparam logic [7:0] KIND_LOOP   = 8'h03;
    localparam logic [7:0] KIND_READ   = 8'h04;
    localparam logic [7:0] KIND_MARK   = 8'h05;
    localparam logic [7:0] KIND_OPENED = 8'h81;
    localparam logic [7:0] KIND_RESULT = 8'h82;
    localparam logic [7:0] KIND_LOOPED = 8'h83;
    localparam logic [7:0] KIND_VALUES = 8'h84;
    localparam logic [7:0] KIND_MARKED = 8'h85;
    localparam logic [7:0] KIND_ERROR  = 8'hFF;

    localparam logic [7:0] ERROR_NOT_OPEN   = 8'd1;
    localparam logic [7:0] ERROR_BAD_LENGTH = 8'd2;
    localparam logic [7:0] ERROR_UNKNOWN    = 8'd3;

    // status registers
    localparam logic [31:0] MAGIC   = 32'h31424547;
    localparam logic [31:0] VERSION = 32'd1;
    localparam logic [4:0] REGISTER_MAGIC        = 5'd0;
    localparam logic [4:0] REGISTER_VERSION      = 5'd1;
    localparam logic [4:0] REGISTER_CLOCK_HZ     = 5'd2;
    localparam logic [4:0] REGISTER_BAUD         = 5'd3;
    localparam logic [4:0] REGISTER_INPUT_BYTES  = 5'd4;
    localparam logic [4:0] REGISTER_OUTPUT_BYTES = 5'd5;
    localparam logic [4:0] REGISTER_CREDIT       = 5'd6;
    localparam logic [4:0] REGISTER_MARKS        = 5'd7;
    localparam logic [4:0] REGISTER_MODEL        = 5'd8;
    localparam logic [4:0] REGISTER_CYCLES       = 5'd16;
    localparam logic [4:0] REGISTER_BUSY         = 5'd18;
    localparam logic [4:0] REGISTER_STALLED      = 5'd20;
    localparam logic [4:0] REGISTER_SAMPLES_IN   = 5'd22;
    localparam logic [4:0] REGISTER_SAMPLES_OUT  = 5'd23;
    localparam logic [4:0] REGISTER_LATENCY      = 5'd24;
    localparam logic [4:0] REGISTER_INTERVAL     = 5'd25;
    localparam logic [4:0] REGISTER_FRAMES       = 5'd26;
    localparam logic [4:0] REGISTER_BAD_FRAMES   = 5'd27;
    localparam logic [4:0] REGISTER_LINE_ERRORS  = 5'd28;
    localparam logic [4:0] REGISTER_OVERFLOWS    = 5'd29;
    localparam logic [4:0] REGISTER_OPENS        = 5'd30;
    localparam logic [4:0] REGISTER_STATE        = 5'd31;

    // a byte that goes over the line only behind ESCAPE
    function automatic logic is_reserved(input logic [7:0] value);
        return value[7:2] == BYTE_ESCAPE_FROM[7:2];
    endfunction
endpackage
`default_nettype wire
