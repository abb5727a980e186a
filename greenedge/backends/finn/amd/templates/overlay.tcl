# @target@: the overlay: processing system, DMA engine, core; vivado/greenedge.bit and .hwh for driver.py. Made by greenedge.
#     vivado -mode batch -source vivado/overlay.tcl       (in the build folder)
set build [file dirname [file dirname [file normalize [info script]]]]
set out   [file join $build vivado]
set mhz   @mhz@

create_project -force overlay [file join $out overlay] -part @part@
if {[llength [get_board_parts -quiet {@board_part@}]]} { set_property board_part {@board_part@} [current_project] }
foreach name {@sources@ @packets@} { add_files -norecurse [file join $build $name] }
set_property file_type SystemVerilog [get_files *.sv]
add_files -norecurse [file join $out greenedge_axis.v]
update_compile_order -fileset sources_1

create_bd_design system
if {"@family@" == "zynq"} {
    set ps [create_bd_cell -type ip -vlnv xilinx.com:ip:processing_system7 ps]
    apply_bd_automation -rule xilinx.com:bd_rule:processing_system7 \
        -config {make_external "FIXED_IO, DDR" apply_board_preset "1"} $ps
    set_property -dict [list CONFIG.PCW_FPGA0_PERIPHERAL_FREQMHZ $mhz CONFIG.PCW_USE_S_AXI_HP0 1 CONFIG.PCW_USE_M_AXI_GP0 1] $ps
    set control /ps/M_AXI_GP0
    set memory  /ps/S_AXI_HP0
} else {
    set ps [create_bd_cell -type ip -vlnv xilinx.com:ip:zynq_ultra_ps_e ps]
    apply_bd_automation -rule xilinx.com:bd_rule:zynq_ultra_ps_e -config {apply_board_preset "1"} $ps
    set_property -dict [list CONFIG.PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ $mhz CONFIG.PSU__USE__M_AXI_GP0 1 \
        CONFIG.PSU__USE__M_AXI_GP1 0 CONFIG.PSU__USE__M_AXI_GP2 0 CONFIG.PSU__USE__S_AXI_GP2 1] $ps
    set control /ps/M_AXI_HPM0_FPD
    set memory  /ps/S_AXI_HP0_FPD
}
set dma [create_bd_cell -type ip -vlnv xilinx.com:ip:axi_dma dma]
set_property -dict [list CONFIG.c_include_sg 0 CONFIG.c_sg_length_width 26 CONFIG.c_m_axis_mm2s_tdata_width 32 \
    CONFIG.c_m_axi_mm2s_data_width 32 CONFIG.c_m_axi_s2mm_data_width 32] $dma
create_bd_cell -type module -reference greenedge_axis core
connect_bd_intf_net [get_bd_intf_pins dma/M_AXIS_MM2S] [get_bd_intf_pins core/s_axis]
connect_bd_intf_net [get_bd_intf_pins core/m_axis] [get_bd_intf_pins dma/S_AXIS_S2MM]
foreach {master slave} [list $control /dma/S_AXI_LITE /dma/M_AXI_MM2S $memory /dma/M_AXI_S2MM $memory] {
    apply_bd_automation -rule xilinx.com:bd_rule:axi4 -config [list Master $master Slave $slave Clk_master Auto Clk_slave Auto \
        Clk_xbar Auto intc_ip "AXI SmartConnect" master_apm 0] [get_bd_intf_pins $slave]
}
apply_bd_automation -rule xilinx.com:bd_rule:clkrst -config {Clk Auto} [get_bd_pins core/aclk]
assign_bd_address
validate_bd_design
save_bd_design

set design [get_files system.bd]
set_property synth_checkpoint_mode None $design
generate_target all $design
add_files -norecurse [make_wrapper -files $design -top]
set_property top system_wrapper [current_fileset]
set_property STEPS.SYNTH_DESIGN.TCL.PRE [file join $out memories.tcl] [get_runs synth_1]
launch_runs impl_1 -to_step write_bitstream -jobs 2
wait_on_run impl_1
if {[get_property PROGRESS [get_runs impl_1]] != "100%"} { error "the overlay was not implemented; see the runs in vivado/overlay" }
file copy -force [glob [file join $out overlay overlay.runs impl_1 *.bit]] [file join $out greenedge.bit]
file copy -force [lindex [glob [file join $out overlay overlay.gen sources_1 bd system hw_handoff *.hwh]] 0] [file join $out greenedge.hwh]
close_project
