"""Forks and signals: children made in every way and state, and Ctrl-C at every bytecode."""
