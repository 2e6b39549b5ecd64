"""Python imports this by itself where the folder is on PYTHONPATH: every attempt to leave the machine fails, and is
written to the file that NO_NETWORK_LOG names, so that attempts which the program swallows are found too.

Unix sockets and loopback stay. The folder is on PYTHONPATH, so children of children have it as well.
"""

import errno
import os
import socket
import sys
import traceback

LOOPBACK = ("localhost", "ip6-localhost", "::1", "", None, b"localhost")


def is_here(host: object) -> bool:
    """Whether a host is this machine, by loopback."""
    return host in LOOPBACK or (isinstance(host, str) and host.startswith("127."))


def refuse(what: str, target: object) -> None:
    """Write an attempt down, with the lines that led to it."""
    frames = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_stack()[-8:-2]]
    line = f"{what} {target!r} by {' '.join(sys.argv)} at {' < '.join(reversed(frames))}\n"
    log = os.open(os.environ["NO_NETWORK_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(log, line.encode("utf-8", "replace"))
    os.close(log)


def guard_sockets(name: str, place: int) -> None:
    """Let a method of sockets reach this machine only; place: of the address among its arguments."""
    before = getattr(socket.socket, name)

    def guarded(self, *arguments):
        address = arguments[place] if len(arguments) > abs(place) - (place < 0) else None
        known = self.family in (socket.AF_INET, socket.AF_INET6)
        if self.family != socket.AF_UNIX and address is not None and not (known and is_here(address[0])):
            refuse(name, address)
            raise OSError(errno.ENETUNREACH, "the network is blocked")
        return before(self, *arguments)

    setattr(socket.socket, name, guarded)


def guard_names(name: str) -> None:
    """Let a function look up the names of this machine only."""
    before = getattr(socket, name)

    def guarded(host, *arguments, **options):
        if not is_here(host):
            refuse(name, host)
            raise socket.gaierror(socket.EAI_NONAME, "the network is blocked")
        return before(host, *arguments, **options)

    setattr(socket, name, guarded)


guard_sockets("connect", 0)
guard_sockets("connect_ex", 0)
guard_sockets("sendto", -1)
guard_sockets("sendmsg", 3)
for lookup in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr"):
    guard_names(lookup)
