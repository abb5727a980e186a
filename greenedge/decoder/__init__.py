"""Llama-shaped decoders as integers: the record, its execution whole and step by step, sampling, storage."""
