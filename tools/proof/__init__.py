"""Tools that try to break what the project promises about crashes, faults and intruders, and fail when they can."""
