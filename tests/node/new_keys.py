"""A party of TLS that makes new keys, as Python has no name for it."""

from __future__ import annotations

import _ssl
import ctypes
import ssl

_openssl = ctypes.CDLL(_ssl.__file__)
_openssl.SSL_key_update.argtypes = [ctypes.c_void_p, ctypes.c_int]
_openssl.SSL_do_handshake.argtypes = [ctypes.c_void_p]
_ASK = 1  # SSL_KEY_UPDATE_REQUESTED


def ask_for_new_keys(encrypted: ssl.SSLSocket | ssl.SSLObject, times: int) -> int:
    """Say that there are new keys, and ask the other side for its own; return how often that could be done."""
    after_head_and_socket = 3 * ctypes.sizeof(ctypes.c_void_p)  # in the struct of a PySSLSocket
    connection = ctypes.c_void_p.from_address(id(encrypted._sslobj) + after_head_and_socket)  # type: ignore[union-attr]
    for time in range(times):
        assert _openssl.SSL_key_update(connection, _ASK)
        if _openssl.SSL_do_handshake(connection) != 1:
            return time
    return times
