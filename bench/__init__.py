"""Benchmarks: vmcapsule beside what does the same work, run by ``./dev bench``."""
