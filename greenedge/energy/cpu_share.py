"""The estimate of a CPU's energy where no meter is: watts of a core times CPU seconds, with its band."""

# Published errors of such models reach 40 % even with known hardware (research/energy-measurement.md §4).
CPU_BAND = (0.4, 1.6)
WATTS_PER_CORE = 12.0
WATTS_FROM = "Green Algorithms' figure for any CPU (Lannelongue et al., 2021)"
