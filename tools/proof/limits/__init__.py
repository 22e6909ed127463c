"""No room and no descriptors: what is done where the kernel gives nothing more."""
