# Before synthesis: the memory files beside the run, where $readmemh looks for them. Made by greenedge.
set build [file dirname [file dirname [file normalize [info script]]]]
file delete -force rtl
file copy -force [file join $build rtl] rtl
