// Simulation model of the ECP5 block RAM in the modes that yosys maps memories to (its brams_map_16kd.v), and its output
// register (REGMODE "OUTREG"), which ram_registers.py switches on.
//
// 1024 words of 18 bits. A narrower port sees 9-bit bytes, and 4, 2 or 1 bit within the low eight of a byte; port A may
// write, and port B read, 36 bits as two neighbouring words (DIB and DOB are the high one). In 36-bit reading both halves
// of DO belong to CLKB. Anything else is refused when the model is elaborated.
module DP16KD #(
    parameter integer DATA_WIDTH_A = 18, DATA_WIDTH_B = 18,
    parameter REGMODE_A = "NOREG", REGMODE_B = "NOREG", WRITEMODE_A = "NORMAL", WRITEMODE_B = "NORMAL",
    parameter RESETMODE = "SYNC", ASYNC_RESET_RELEASE = "SYNC", CSDECODE_A = "0b000", CSDECODE_B = "0b000",
    parameter CLKAMUX = "CLKA", CLKBMUX = "CLKB", GSR = "AUTO", INIT_DATA = "STATIC",
    parameter integer WID = 0,
    parameter [319:0] INITVAL_00 = 0, INITVAL_01 = 0, INITVAL_02 = 0, INITVAL_03 = 0,
    parameter [319:0] INITVAL_04 = 0, INITVAL_05 = 0, INITVAL_06 = 0, INITVAL_07 = 0,
    parameter [319:0] INITVAL_08 = 0, INITVAL_09 = 0, INITVAL_0A = 0, INITVAL_0B = 0,
    parameter [319:0] INITVAL_0C = 0, INITVAL_0D = 0, INITVAL_0E = 0, INITVAL_0F = 0,
    parameter [319:0] INITVAL_10 = 0, INITVAL_11 = 0, INITVAL_12 = 0, INITVAL_13 = 0,
    parameter [319:0] INITVAL_14 = 0, INITVAL_15 = 0, INITVAL_16 = 0, INITVAL_17 = 0,
    parameter [319:0] INITVAL_18 = 0, INITVAL_19 = 0, INITVAL_1A = 0, INITVAL_1B = 0,
    parameter [319:0] INITVAL_1C = 0, INITVAL_1D = 0, INITVAL_1E = 0, INITVAL_1F = 0,
    parameter [319:0] INITVAL_20 = 0, INITVAL_21 = 0, INITVAL_22 = 0, INITVAL_23 = 0,
    parameter [319:0] INITVAL_24 = 0, INITVAL_25 = 0, INITVAL_26 = 0, INITVAL_27 = 0,
    parameter [319:0] INITVAL_28 = 0, INITVAL_29 = 0, INITVAL_2A = 0, INITVAL_2B = 0,
    parameter [319:0] INITVAL_2C = 0, INITVAL_2D = 0, INITVAL_2E = 0, INITVAL_2F = 0,
    parameter [319:0] INITVAL_30 = 0, INITVAL_31 = 0, INITVAL_32 = 0, INITVAL_33 = 0,
    parameter [319:0] INITVAL_34 = 0, INITVAL_35 = 0, INITVAL_36 = 0, INITVAL_37 = 0,
    parameter [319:0] INITVAL_38 = 0, INITVAL_39 = 0, INITVAL_3A = 0, INITVAL_3B = 0,
    parameter [319:0] INITVAL_3C = 0, INITVAL_3D = 0, INITVAL_3E = 0, INITVAL_3F = 0
) (
    input  wire DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9,
    input  wire DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2, DIA1, DIA0,
    input  wire ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5,
    input  wire ADA4, ADA3, ADA2, ADA1, ADA0,
    output wire DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9,
    output wire DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2, DOA1, DOA0,
    input  wire CLKA, CEA, OCEA, RSTA, WEA, CSA2, CSA1, CSA0,
    input  wire DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9,
    input  wire DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2, DIB1, DIB0,
    input  wire ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5,
    input  wire ADB4, ADB3, ADB2, ADB1, ADB0,
    output wire DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9,
    output wire DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2, DOB1, DOB0,
    input  wire CLKB, CEB, OCEB, RSTB, WEB, CSB2, CSB1, CSB0
);
    if (CSDECODE_A != "0b000" || CSDECODE_B != "0b000" || INIT_DATA != "STATIC")
        $fatal(1, "DP16KD: greenedge's model has no chip select and no dynamic initialisation");
    if ((RESETMODE != "SYNC" && RESETMODE != "ASYNC") || ASYNC_RESET_RELEASE != RESETMODE)
        $fatal(1, "DP16KD: RESETMODE and ASYNC_RESET_RELEASE are both SYNC or both ASYNC");
    if ((REGMODE_A != "NOREG" && REGMODE_A != "OUTREG") || (REGMODE_B != "NOREG" && REGMODE_B != "OUTREG"))
        $fatal(1, "DP16KD: REGMODE is NOREG or OUTREG");
    if (DATA_WIDTH_B == 36 && REGMODE_A != REGMODE_B)
        $fatal(1, "DP16KD: both halves of a 36-bit port have one REGMODE");

    wire [17:0] dia = {
        DIA17, DIA16, DIA15, DIA14, DIA13, DIA12, DIA11, DIA10, DIA9,
        DIA8, DIA7, DIA6, DIA5, DIA4, DIA3, DIA2, DIA1, DIA0};
    wire [17:0] dib = {
        DIB17, DIB16, DIB15, DIB14, DIB13, DIB12, DIB11, DIB10, DIB9,
        DIB8, DIB7, DIB6, DIB5, DIB4, DIB3, DIB2, DIB1, DIB0};
    wire [13:0] ada = {
        ADA13, ADA12, ADA11, ADA10, ADA9, ADA8, ADA7, ADA6, ADA5,
        ADA4, ADA3, ADA2, ADA1, ADA0};
    wire [13:0] adb = {
        ADB13, ADB12, ADB11, ADB10, ADB9, ADB8, ADB7, ADB6, ADB5,
        ADB4, ADB3, ADB2, ADB1, ADB0};
    wire clka = CLKAMUX == "INV" ? !CLKA : CLKA;
    wire clkb = CLKBMUX == "INV" ? !CLKB : CLKB;

    localparam [64*320-1:0] INIT = {
        INITVAL_3F, INITVAL_3E, INITVAL_3D, INITVAL_3C, INITVAL_3B, INITVAL_3A, INITVAL_39, INITVAL_38,
        INITVAL_37, INITVAL_36, INITVAL_35, INITVAL_34, INITVAL_33, INITVAL_32, INITVAL_31, INITVAL_30,
        INITVAL_2F, INITVAL_2E, INITVAL_2D, INITVAL_2C, INITVAL_2B, INITVAL_2A, INITVAL_29, INITVAL_28,
        INITVAL_27, INITVAL_26, INITVAL_25, INITVAL_24, INITVAL_23, INITVAL_22, INITVAL_21, INITVAL_20,
        INITVAL_1F, INITVAL_1E, INITVAL_1D, INITVAL_1C, INITVAL_1B, INITVAL_1A, INITVAL_19, INITVAL_18,
        INITVAL_17, INITVAL_16, INITVAL_15, INITVAL_14, INITVAL_13, INITVAL_12, INITVAL_11, INITVAL_10,
        INITVAL_0F, INITVAL_0E, INITVAL_0D, INITVAL_0C, INITVAL_0B, INITVAL_0A, INITVAL_09, INITVAL_08,
        INITVAL_07, INITVAL_06, INITVAL_05, INITVAL_04, INITVAL_03, INITVAL_02, INITVAL_01, INITVAL_00};
    reg [17:0] mem [0:1023];
    integer    i;
    initial for (i = 0; i < 1024; i = i + 1) mem[i] = INIT[20*i +: 18];

    // what a port of `width` bits sees of the word at its address
    function [17:0] seen(input integer width, input [17:0] word, input [3:0] a);
        case (width)
            9:       seen = {9'b0, word[9*a[3] +: 9]};
            4:       seen = {14'b0, word[9*a[3] + 4*a[2] +: 4]};
            2:       seen = {16'b0, word[9*a[3] + 2*a[2:1] +: 2]};
            1:       seen = {17'b0, word[9*a[3] + a[2:0] +: 1]};
            default: seen = word;
        endcase
    endfunction

    // `word` after a port of `width` bits has written `d` there
    function [17:0] wrote(input integer width, input [17:0] word, input [3:0] a, input [17:0] d);
        wrote = word;
        case (width)
            9:       wrote[9*a[3] +: 9] = d[8:0];
            4:       wrote[9*a[3] + 4*a[2] +: 4] = d[3:0];
            2:       wrote[9*a[3] + 2*a[2:1] +: 2] = d[1:0];
            1:       wrote[9*a[3] + a[2:0] +: 1] = d[0];
            default: wrote = {a[1] ? d[17:9] : word[17:9], a[0] ? d[8:0] : word[8:0]};
        endcase
    endfunction

    // ---- ports: write, read into a latch, then perhaps the output register
    reg [17:0] qa = 0, qb = 0, ra = 0, rb = 0;
    wire [17:0] word_a = mem[ada[13:4]], word_b = mem[adb[13:4]];
    wire [17:0] next_a = wrote(DATA_WIDTH_A, word_a, ada[3:0], dia), next_b = wrote(DATA_WIDTH_B, word_b, adb[3:0], dib);

    localparam ASYNC = RESETMODE == "ASYNC";
    wire       now_a = ASYNC && RSTA, now_b = ASYNC && RSTB;     // asynchronous resets

    always @(posedge clka) begin
        if (CEA && WEA && (ASYNC || !RSTA)) begin
            if (DATA_WIDTH_A == 36) begin
                mem[{ada[13:5], 1'b0}] <= wrote(18, mem[{ada[13:5], 1'b0}], {2'b0, ada[1:0]}, dia);
                mem[{ada[13:5], 1'b1}] <= wrote(18, mem[{ada[13:5], 1'b1}], {2'b0, ada[3:2]}, dib);
            end else begin
                mem[ada[13:4]] <= next_a;
            end
        end
    end
    always @(posedge clkb) if (CEB && WEB && (ASYNC || !RSTB) && DATA_WIDTH_B != 36) mem[adb[13:4]] <= next_b;

    always @(posedge clka or posedge now_a) begin
        if (DATA_WIDTH_B != 36) begin
            if (RSTA) qa <= 0;
            else if (CEA && !WEA) qa <= seen(DATA_WIDTH_A, word_a, ada[3:0]);
            else if (CEA && WRITEMODE_A == "READBEFOREWRITE") qa <= seen(DATA_WIDTH_A, word_a, ada[3:0]);
            else if (CEA && WRITEMODE_A == "WRITETHROUGH") qa <= seen(DATA_WIDTH_A, next_a, ada[3:0]);
            if (RSTA) ra <= 0;
            else if (OCEA) ra <= qa;
        end
    end

    reg [17:0] low = 0, low_r = 0;                               // DOA of a 36-bit read
    always @(posedge clkb or posedge now_b) begin
        if (RSTB) begin
            {qb, low} <= 0;
        end else if (CEB) begin
            if (DATA_WIDTH_B == 36) {qb, low} <= {mem[{adb[13:5], 1'b1}], mem[{adb[13:5], 1'b0}]};
            else if (!WEB || WRITEMODE_B == "READBEFOREWRITE") qb <= seen(DATA_WIDTH_B, word_b, adb[3:0]);
            else if (WRITEMODE_B == "WRITETHROUGH") qb <= seen(DATA_WIDTH_B, next_b, adb[3:0]);
        end
        if (RSTB) {rb, low_r} <= 0;
        else if (OCEB) {rb, low_r} <= {qb, low};
    end

    assign {DOA17, DOA16, DOA15, DOA14, DOA13, DOA12, DOA11, DOA10, DOA9,
        DOA8, DOA7, DOA6, DOA5, DOA4, DOA3, DOA2, DOA1, DOA0}
        = DATA_WIDTH_B == 36 ? (REGMODE_A == "OUTREG" ? low_r : low) : (REGMODE_A == "OUTREG" ? ra : qa);
    assign {DOB17, DOB16, DOB15, DOB14, DOB13, DOB12, DOB11, DOB10, DOB9,
        DOB8, DOB7, DOB6, DOB5, DOB4, DOB3, DOB2, DOB1, DOB0}
        = REGMODE_B == "OUTREG" ? rb : qb;
endmodule
