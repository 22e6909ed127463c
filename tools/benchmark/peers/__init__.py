"""The peers: what users would pick instead, each used as its own documentation recommends. One adaptor each."""

from __future__ import annotations

from benchmark.peers.base import Counter, Peer
from benchmark.peers.databases import LmdbPeer, RedisPeer
from benchmark.peers.files import FastenersPeer, FilelockPeer, PortalockerPeer
from benchmark.peers.ours import LIMIT, OURS, FastMutexPeer, FetchAddPeer, KMutexPeer, LimitPeer
from benchmark.peers.shared import FastipcPeer, PosixIpcPeer, UltraDictPeer
from benchmark.peers.standard import VALUE, LockPeer, ManagerPeer, RLockPeer, SqlitePeer, ValuePeer

__all__ = [
    "LIMIT",
    "OTHERS",
    "OURS",
    "PEERS",
    "VALUE",
    "Counter",
    "FastMutexPeer",
    "FetchAddPeer",
    "KMutexPeer",
    "LimitPeer",
    "LockPeer",
    "Peer",
    "ValuePeer",
]

PEERS: tuple[Peer, ...] = (
    ValuePeer(),
    LockPeer(),
    RLockPeer(),
    FastipcPeer(),
    PosixIpcPeer(),
    LmdbPeer(),
    SqlitePeer(),
    FilelockPeer(),
    FastenersPeer(),
    PortalockerPeer(),
    UltraDictPeer(),
    ManagerPeer(),
    RedisPeer(),
)
"""All peers. The first is what most rows compare with."""

OTHERS = PEERS[1:]
