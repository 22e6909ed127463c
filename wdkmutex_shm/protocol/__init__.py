"""What a client and the daemon say to each other: messages, and nothing that sends or handles them.

Promises: whatever arrives is checked before it is used, and refused with an error that names what is wrong.
May use: base. Must not know: sockets, slots, pools.
"""
