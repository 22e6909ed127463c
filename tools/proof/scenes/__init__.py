"""Scenes: an operation of the catalogue with all that it is done to, and what must hold for whoever comes after it.

A scene is killed at every instruction by one tool and interrupted at every bytecode by another: it knows neither.
"""
