"""Where float32 arithmetic may differ from real arithmetic: a level at a rounding tie."""
