"""Boards, real and simulated: programming, inference, acceptance tests."""
