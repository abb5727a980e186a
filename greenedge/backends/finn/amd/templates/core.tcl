# @target@: the core alone, out of context: resources and timing. Made by greenedge.
#     vivado -mode batch -source vivado/core.tcl          (in the build folder)
set build [file dirname [file dirname [file normalize [info script]]]]
set out   [file join $build vivado]

create_project -force core [file join $out core] -part @part@
foreach name {@sources@} { add_files -norecurse [file join $build $name] }
set_property file_type SystemVerilog [get_files *.sv]
add_files -fileset constrs_1 -norecurse [file join $out core.xdc]
set_property top @top@ [current_fileset]
set_property STEPS.SYNTH_DESIGN.TCL.PRE [file join $out memories.tcl] [get_runs synth_1]
set_property -name {STEPS.SYNTH_DESIGN.ARGS.MORE OPTIONS} -value {-mode out_of_context} -objects [get_runs synth_1]

launch_runs impl_1 -jobs 2
wait_on_run impl_1
if {[get_property PROGRESS [get_runs impl_1]] != "100%"} { error "the core was not implemented; see the runs in vivado/core" }
open_run impl_1
report_utilization    -file [file join $out utilization.rpt]
report_timing_summary -file [file join $out timing.rpt] -max_paths 5
report_power          -file [file join $out power.rpt]  -xpe [file join $out power.xml]
close_project
