"""The few milliseconds between fork and exec, in a process of their own. Runs as `python -I -S -E shim.py FD`.

Why not `preexec_fn`: that runs Python between fork and exec of a process with threads, which may deadlock. Here the child
is a fresh interpreter which ties its life to the daemon's, waits until its ticket is on disk, and then becomes the backend,
keeping its pid. The command comes over the socket FD, so neither argv nor environment of the backend shows before its time.
When exec fails, the reason goes back over the socket; when it succeeds, the socket closes by itself.
"""

import _signal  # type: ignore[import-not-found]  # `signal` around it takes 4 ms to import
import os
import sys


def main() -> None:
    channel = int(sys.argv[1])
    os.set_inheritable(channel, False)
    die_with_the_daemon()
    message = receive(channel)
    if not message:  # the daemon died before its ticket was written
        os._exit(1)
    directory, count, *rest = message.split(b"\0")[:-1]
    argv = rest[: int(count)]
    environment = dict(pair.split(b"=", 1) for pair in rest[int(count) :])
    try:
        if directory:
            os.chdir(directory)
        behave_by_default()
        os.execve(argv[0], argv, environment)
    except OSError as error:
        os.write(channel, b"%d" % (error.errno or 0))
        os._exit(127)


def die_with_the_daemon() -> None:
    """On Linux, have the kernel kill us when the daemon dies. It survives exec; children do not inherit it."""
    if sys.platform != "linux":
        return
    import ctypes

    parent = os.getppid()
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, 9, 0, 0, 0)
    if os.getppid() != parent:  # it died before the prctl
        os._exit(1)


def behave_by_default() -> None:
    """Ignored and blocked signals outlive exec: Python itself ignores SIGPIPE, `nohup` had the daemon ignore SIGHUP."""
    for number in range(1, _signal.NSIG):
        if _signal.getsignal(number) == _signal.SIG_IGN:
            _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def receive(channel: int) -> bytes:
    """The whole message (it ends in an empty field), or nothing when the other side closed first."""
    message = b""
    while not message.endswith(b"\0\0"):
        part = os.read(channel, 65536)
        if not part:
            return b""
        message += part
    return message[:-1]


if __name__ == "__main__":
    main()
