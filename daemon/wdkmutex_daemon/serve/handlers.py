"""What the daemon does for each verb: one function a verb, from a request's checked fields to those of its reply.

Whatever a handler raises becomes an error reply; the daemon goes on. None of them waits for a client's lock.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any

from wdkmutex_shm.base.names import check_name
from wdkmutex_shm.base.records import SlotInfo, SlotRef
from wdkmutex_shm.errors import KeyNotFound, ProtocolError
from wdkmutex_shm.memory import data_segments
from wdkmutex_shm.protocol.bulk import RegisterMany, check_names
from wdkmutex_shm.protocol.messages import LIST_PAGE, NAMES_PAGE, PROTOCOL, Register

from .service import Service, Session

__all__ = ["HANDLERS"]

log = logging.getLogger(__name__)

_Fields = dict[str, Any]
_INFO = SlotInfo._fields


def hello(service: Service, session: Session, params: _Fields) -> _Fields:
    """Agree on the version. Reply: ``protocol``, ``version``, ``instance``, ``pid``, ``epoch``."""
    if params["protocol"] != PROTOCOL:
        raise ProtocolError(
            f"the daemon (pid {os.getpid()}, version {service.version}) speaks protocol {PROTOCOL} and the client "
            f"{params['protocol']}: one of them is of another version; restart the daemon "
            f"(wdkmutex-daemon restart --instance {service.instance}) or the client",
            instance=service.instance,
        )
    session.number = params["session"]
    return {
        "protocol": PROTOCOL,
        "version": service.version,
        "instance": service.instance,
        "pid": os.getpid(),
        "epoch": service.epoch,
    }


def _where(ref: SlotRef) -> _Fields:
    return {"segment": ref.segment, "nonce": ref.nonce, "slot": ref.slot, "generation": ref.generation}


def register(service: Service, session: Session, params: _Fields) -> _Fields:
    """Register a mutex. Reply: ``segment``, ``nonce``, ``slot``, ``generation``, and ``created``."""
    request = Register.parse(params)
    name = check_name(request.name)
    ref, created = service.registry.register(
        name, request.kind, request.mode, request.tag, request.payload, request.data
    )
    return {**_where(ref), "created": created}


def register_many(service: Service, session: Session, params: _Fields) -> _Fields:
    """Register many mutexes, or none of them. Reply: ``segments`` and ``places``, see Places."""
    names = check_names("register_many", params["names"])
    return _places(service, service.registry.register_many(RegisterMany.parse(params), names))


def _places(service: Service, found: tuple[bytes, set[int]]) -> _Fields:
    words, numbers = found
    segments = service.registry.pool.segments
    named = [[number, segments[number].name, segments[number].nonce] for number in numbers]
    return {"segments": named, "places": words}


def get(service: Service, session: Session, params: _Fields) -> _Fields:
    """Find a mutex. Reply: ``segment``, ``nonce``, ``slot``, ``generation``."""
    return _where(service.registry.find(check_name(params["name"])))


def get_many(service: Service, session: Session, params: _Fields) -> _Fields:
    """Find many mutexes. Reply: ``segments`` and ``places``, see Places; ``known``, how many names there are at all."""
    found = service.registry.find_many(check_names("get_many", params["names"]))
    return {**_places(service, found), "known": len(service.registry)}


def unregister(service: Service, session: Session, params: _Fields) -> _Fields:
    """Destroy one mutex, if it is the tenant that is meant. Reply: nothing."""
    meant: _Fields = {field: params[field] for field in ("generation", "segment", "slot") if field in params}
    service.registry.unregister(check_name(params["name"]), meant)
    return {}


def discard(service: Service, session: Session, params: _Fields) -> _Fields:
    """Settle what became of a staged data segment: it is removed unless a slot has adopted it. Reply: ``adopted``."""
    ident = params["data"]
    if not 0 < ident < 1 << 64:
        raise ProtocolError("discard: data is the id of a data segment")
    pool = service.registry.pool
    adopted = ident in pool.references()
    if not adopted:
        data_segments.unlink(pool.prefix, ident)
    return {"adopted": adopted}


def _page(session: Session, params: _Fields, size: int) -> tuple[list[bytes], _Fields]:
    """The names of one page, and the fields that lead to the next one."""
    names, number, following = session.reading.page(params.get("snapshot", 0), params.get("start", 0), size)
    return names, {"snapshot": number, "next": following}


def names(service: Service, session: Session, params: _Fields) -> _Fields:
    """One page of names. Reply: ``names``, ``snapshot``, and ``next``: where the next page starts, None at the end."""
    page, following = _page(session, params, NAMES_PAGE)
    return {"names": [name.decode("utf-8", "replace") for name in page], **following}


def _row(info: SlotInfo) -> _Fields:
    return {field: getattr(info, field) for field in _INFO}


def list_(service: Service, session: Session, params: _Fields) -> _Fields:
    """One page of mutexes. Reply: ``mutexes`` (each the fields of SlotInfo), ``snapshot``, ``next``."""
    page, following = _page(session, params, LIST_PAGE)
    rows = []
    for name in page:
        try:
            info = service.registry.pool.info(service.registry.find(name))
        except LookupError:
            continue  # gone since the list was begun
        if info is not None:
            rows.append(_row(info))
    return {"mutexes": rows, **following}


def info(service: Service, session: Session, params: _Fields) -> _Fields:
    """One mutex. Reply: the fields of SlotInfo, and ``nonce`` of its segment."""
    ref = service.registry.find(check_name(params["name"]))
    found = service.registry.pool.info(ref)
    if found is None:
        raise KeyNotFound(
            f"the mutex {params['name']!r} was destroyed during the query",
            name=params["name"],
            instance=service.instance,
        )
    return {**_row(found), "nonce": ref.nonce}


def status(service: Service, session: Session, params: _Fields) -> _Fields:
    """The daemon and its pool.

    Reply: ``instance``, ``pid``, ``version``, ``protocol``, ``socket``, ``started`` (seconds of Unix time), ``uptime``
    (seconds), ``clients``, ``names``, and the fields of PoolStats.
    """
    stats = service.registry.pool.stats()
    return {
        "instance": service.instance,
        "pid": os.getpid(),
        "version": service.version,
        "protocol": PROTOCOL,
        "socket": service.path,
        "started": service.started,
        "uptime": max(0.0, time.time() - service.started),
        "clients": len(service.connections),
        "names": len(service.registry),
        **stats._asdict(),
    }


def sweep(service: Service, session: Session, params: _Fields) -> _Fields:
    """Remove what dead processes left. Reply: ``pools`` and ``data`` (names of what was removed), ``quarantined``."""
    return service.sweep()


def destroy(service: Service, session: Session, params: _Fields) -> _Fields:
    """Destroy every mutex and end. Reply: ``destroyed``, how many there were."""
    try:
        destroyed = service.registry.destroy()
        log.info("destroyed: %r with %d mutexes, as process %d asked", service.instance, destroyed, session.pid)
    finally:
        service.stop(gone=True)  # a pool that is half destroyed must not be served; the next daemon finishes it
    return {"destroyed": destroyed}


def stop(service: Service, session: Session, params: _Fields) -> _Fields:
    """End, and leave every mutex as it is. Reply: nothing."""
    service.stop()
    return {}


HANDLERS: dict[str, Callable[[Service, Session, _Fields], _Fields]] = {
    "hello": hello,
    "register": register,
    "register_many": register_many,
    "get": get,
    "get_many": get_many,
    "unregister": unregister,
    "discard": discard,
    "names": names,
    "list": list_,
    "info": info,
    "status": status,
    "sweep": sweep,
    "destroy": destroy,
    "stop": stop,
}
"""The function of each verb of :data:`wdkmutex_shm.protocol.messages.VERBS`."""
