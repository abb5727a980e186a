// ge_width never loses, doubles or reorders an element, and holds at most one word on each side. Nothing is assumed of either
// side. `mark` may be high with any beat: its element `lane` is followed, `ahead` elements before it.
`default_nettype none
module formal_width #(
    int unsigned BITS = 2,
    int unsigned IN   = 1,
    int unsigned OUT  = 3,
    localparam int unsigned S_WIDTH = (IN*BITS + 7) / 8 * 8,
    localparam int unsigned M_WIDTH = (OUT*BITS + 7) / 8 * 8
) (
    input logic               clk,
    input logic               reset,
    input logic [S_WIDTH-1:0] s_tdata,
    input logic               s_tvalid,
    input logic               mark,
    input logic [3:0]         lane,
    input logic               m_tready
);
    localparam int unsigned MOST = IN <= OUT ? 2*OUT : IN;       // elements inside
    localparam int unsigned N    = $clog2(MOST + 1) + 1;
    logic               rst = 1'b1;
    logic               s_tready, m_tvalid;
    logic [M_WIDTH-1:0] m_tdata;
    ge_width #(.BITS(BITS), .IN(IN), .OUT(OUT)) dut (.clk, .rst, .s_tdata, .s_tvalid, .s_tready, .m_tdata, .m_tvalid, .m_tready);

    logic [N-1:0]    held, ahead;
    logic            marked = 1'b0, done = 1'b0;
    logic [BITS-1:0] element;
    logic            enters, leaves;
    assign enters = s_tvalid && s_tready;
    assign leaves = m_tvalid && m_tready;

    always_ff @(posedge clk) begin
        rst <= reset;
        if (rst) begin
            held   <= '0;
            marked <= 1'b0;
            done   <= 1'b0;
        end else begin
            held <= held + (enters ? N'(IN) : '0) - (leaves ? N'(OUT) : '0);
            if (leaves) begin
                ahead <= ahead - N'(OUT);
                if (marked && ahead < OUT) begin
                    marked <= 1'b0;
                    done   <= 1'b1;
                end
            end
            if (enters && mark && !marked && !done && lane < IN) begin
                marked  <= 1'b1;
                element <= BITS'(s_tdata >> lane*BITS);
                ahead   <= held + N'(lane) - (leaves ? N'(OUT) : '0);
            end
        end
    end

    logic [N-1:0] stored;                                        // elements in the unit's registers
    logic [7:0]   place;                                         // bit of the marked element in the register where it lies
    always_ff @(posedge clk) begin
        if (!rst) begin
            assert (held <= MOST);
            assert (!m_tvalid || held >= OUT);
            assert (!(marked && ahead < OUT && m_tvalid) || BITS'(m_tdata >> ahead*BITS) == element);
            assert (!(m_tvalid && M_WIDTH > OUT*BITS) || (m_tdata >> OUT*BITS) == 0);
            assert (held == stored);
            assert (!marked || ahead < held);
            cover (done && held == MOST);
        end
    end

    if (IN <= OUT) begin : widen
        localparam int unsigned STEPS = OUT / IN;
        logic waits;                                             // a whole word was gathered and none was offered
        always_ff @(posedge clk) waits <= !rst && dut.widen.full && !m_tvalid;
        assign stored = N'(dut.widen.n * IN) + (dut.widen.full ? N'(OUT) : '0) + (m_tvalid ? N'(OUT) : '0);
        assign place  = 8'((ahead - (m_tvalid ? OUT : 0) + (dut.widen.full ? 0 : OUT - dut.widen.n*IN)) * BITS);
        always_ff @(posedge clk) begin
            if (!rst) begin
                assert (dut.widen.n < STEPS && (!dut.widen.full || dut.widen.n == 0));
                assert (!waits || m_tvalid);                     // what is whole comes out
                assert (!(marked && ahead >= (m_tvalid ? OUT : 0)) || BITS'(dut.widen.gathered >> place) == element);
            end
        end
    end else begin : narrow
        localparam int unsigned STEPS = IN / OUT;
        assign stored = m_tvalid ? N'((STEPS - dut.narrow.n) * OUT) : '0;
        assign place  = 8'(ahead * BITS);
        always_ff @(posedge clk) begin
            if (!rst) begin
                assert (dut.narrow.n < STEPS && (m_tvalid || dut.narrow.n == 0));
                assert (dut.narrow.last == (dut.narrow.n == STEPS - 1));
                assert (!marked || BITS'(dut.narrow.word >> place) == element);
            end
        end
    end
endmodule
`default_nettype wire
