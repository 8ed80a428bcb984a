"""Every bound in one table."""

from __future__ import annotations

from typing import Final

# fmt: off
# name                                what is bounded
MAX_ID: Final = 2**63 - 1           # an object's id
MAX_FRAME_BYTES: Final = 4 << 30    # one frame of an encoded message (a tensor's memory)
MAX_RECORD_BYTES: Final = 8 << 30   # all frames of one message
MAX_FRAMES: Final = 1024            # frames of one message
MAX_HEADER_BYTES: Final = 16 << 20  # the first frame, everything but tensors' memory
MAX_DIMS: Final = 64                # dimensions of a tensor
MAX_ELEMENTS: Final = 2**58         # elements of a tensor, and of the memory that it is a view of
MAX_NESTING: Final = 16             # lists within lists
MAX_NAME_LENGTH: Final = 256        # a worker's, operator's, user's or keyword's name
MAX_SEED: Final = 2**63 - 1         # of random numbers
MAX_TAGS: Final = 64                # tags of one object
MAX_TAG_LENGTH: Final = 256         # characters of a tag
MAX_DESCRIPTION_LENGTH: Final = 65536  # characters of a description
MAX_RESULTS: Final = 65536          # results of one operator
MIN_SCALE: Final = 1e-6             # by which an image is made smaller; its inverse, larger
MAX_OUTLINES: Final = 65536         # kinds of operator calls whose results' metadata a caller remembers
MAX_KEPT_TEXT: Final = 2000         # characters of an error's text that is kept in the place of a result
MAX_FATES: Final = 4096             # objects whose end a worker still remembers, for error messages

# of the names in certificates: lower case, since TLS does not tell cases apart
NODE_NAME: Final = r"[a-z0-9]+(?:[._-][a-z0-9]+)*"
MAX_NODE_NAME_LENGTH: Final = 63    # characters of such a name: a common name takes no more than 64
AUTHORITY_DAYS: Final = 3650        # how long a certificate authority holds
CERTIFICATE_DAYS: Final = 365       # how long a certificate holds that it issues
MAX_CLOCK_SKEW_MINUTES: Final = 60  # how far behind the clock of who reads a new certificate may be

# what a node's config may change
CLIENTS: Final = 64                 # clients of a node at one time
ROOMS_OF_A_CLIENT: Final = 16       # of one client at one time
ROOM_OBJECTS: Final = 100_000       # objects of one room
ROOM_BYTES: Final = 4 << 30         # their memory together
ROOM_MEMORY: Final = 8 << 30        # address space of a room's process
MIN_ROOM_MEMORY: Final = 2 << 30    # the least of that: torch itself takes most of it
ROOM_CPU_SECONDS: Final = 3600      # processor time of a room's process
ROOM_FILES: Final = 256             # descriptors of a room's process
CLUSTER_ROOM_CPUS: Final = 1.0      # processors that Ray sets aside for a room, on a cluster
CLUSTER_ROOM_MEMORY: Final = 1 << 30  # bytes that Ray sets aside for a room, on a cluster
SPARE_ROOMS: Final = 1              # rooms on a cluster that wait for a client, since one takes seconds to start
GRACE_SECONDS: Final = 60           # how long a room waits for its client to come back
MAX_GRACE_SECONDS: Final = 604_800  # the most of that

ORDER_BYTES: Final = 4096           # of a gate's order for a room
MAX_LOGGED: Final = 500             # characters of an error's text from elsewhere that go to the owner's log

MAX_POLICIES: Final = 1024          # of all private data in one room
MAX_USERS: Final = 1024             # users, or workers, that one policy names for one purpose
MAX_REASON_LENGTH: Final = 2000     # characters of the reason of a request
MAX_NOTE_LENGTH: Final = 2000       # characters of the owner's note on an answer
MAX_OPEN_REQUESTS: Final = 32       # requests of one client that are kept: that are open, or approved
MAX_REQUESTS: Final = 256           # requests of one client in REQUEST_DAYS, whatever became of them
MAX_REQUEST_BYTES: Final = 64 << 20  # the value that such a request asks for
MAX_REQUESTS_BYTES: Final = 4 << 30  # the values of all requests that are kept
REQUEST_DAYS: Final = 30            # how long a request is kept
REQUEST_SECONDS: Final = 1.0        # between two looks at a request by who waits for the answer
MAX_SHOWN: Final = 1000             # elements of a value that its owner is shown one by one

CHAIN_HOPS: Final = 64              # from worker to worker along one chain
WAITING_CALLS: Final = 1 << 16      # batches of a node for workers in its client's process, which has yet to begin them
PACKET_BYTES: Final = 1 << 20       # of what crosses in one piece, while signs of life go between
ENDING_BYTES: Final = 4096          # of the text that says why a connection ends
AT_ONCE_BYTES: Final = 4096         # of what is written to a connection by who has it to say, if there is room
READ_AHEAD_BYTES: Final = 1 << 16   # that are read from a socket of a room at one time, if they are there
ROOM_SOCKET_BYTES: Final = 1 << 20  # that wait in a socket between a gate and a room, each way
MAX_CHECK_BYTES: Final = 1024       # of a question about the node's health
METRICS_SECONDS: Final = 2          # how long a reader of metrics may be silent
CONNECT_SECONDS: Final = 10         # how long a node has to answer a first call
CLUSTER_SECONDS: Final = 120        # how long a Ray cluster has to be found, or to start
ROOM_START_SECONDS: Final = 60      # how long a room on a cluster has to be there
CLUSTER_STORE_BYTES: Final = 80 << 20  # Ray's own store of objects, which rooms do not use: the least that Ray takes
CLUSTER_MESSAGE_BYTES: Final = 1 << 16  # what a gate and the process that speaks with Ray tell each other at one time
CLUSTER_END_SECONDS: Final = 5      # how long an actor has to end with its node
FORKSERVER_ATTEMPTS: Final = 8      # to reach a fork server on a machine of a cluster, as it may end meanwhile
ARRIVALS: Final = 64                # connections at one time that have yet to say what they want
ACCEPT_PAUSE: Final = 0.1           # seconds, after a connection could not be let in
ACCEPT_SAID_SECONDS: Final = 60     # between two lines of the log that say so
HEARTBEAT_SECONDS: Final = 4        # between signs of life on a connection
RECORDS_OF_A_KEY: Final = 1 << 24   # of TLS, after which a connection is made anew, as RFC 8446 (5.5) asks of AES-GCM
SILENCE_SECONDS: Final = 12         # without one after which a connection is given up
OPENING_PAUSES: Final = (0.02, 0.1, 0.3)  # seconds between attempts to open a session
RECONNECT_PAUSES: Final = (0.02, 0.1, 0.3, 1.0, 2.0)  # seconds between attempts to come back; then always the last
RECONNECT_ATTEMPTS: Final = 30      # connections one after another over which nothing got through
OUTAGE_SECONDS: Final = 1.0         # without a connection, after which it is said that there is none
GOODBYE_SECONDS: Final = 2          # how long who leaves waits for the other side
ENDING_SECONDS: Final = 60          # how long a caller has to take what is left when its session has ended
SESSIONS_OF_A_ROOM: Final = 8       # of its client and the client's delegates, at one time
DELIVERIES_OF_A_ROOM: Final = 32    # deliveries of other nodes that are on their way into a room at one time
DELIVERY_SECONDS: Final = 300       # how long one that comes again waits for the answer to what came before
TASKS_OF_A_ROOM: Final = 2          # moves to other nodes, and requests to the owner, at one time
TASKS_WAITING: Final = 256          # of these that have begun or wait for the others to end
AUDIT_BURST: Final = 10_000         # entries of the audit log that a client can have written at once
AUDIT_RATE: Final = 200             # of them a second in the long run; beyond that the client waits
FAILURES_TOLD: Final = 100          # failed calls and ended rooms near private data, of which who sees no shapes hears
TICKETS: Final = 1024               # deliveries that one client's room expects at one time
DELEGATES: Final = 64               # workers elsewhere that may act for one client
CONNECTIONS: Final = 64             # to other nodes that a gate keeps, for the next delivery
BATCH_MESSAGES: Final = 64          # messages that are sent as one, unless something waits for them
BATCH_SHARE: Final = 4              # of the messages since an answer was waited for, the part that may go as one, too
MOST_BATCH_MESSAGES: Final = 1024   # of that the most
BATCH_SECONDS: Final = 0.002        # how long a message waits for others to go with it
MOST_BATCH_SECONDS: Final = 0.256   # the same, while others come
WINDOW_MESSAGES: Final = 4096       # messages that who calls at one depth may be ahead of the node's answer, twice
WINDOW_MESSAGE_BYTES: Final = 16 << 10  # of a larger message; it counts as several
PROGRESS_AFTER_SECONDS: Final = 1.0  # of waiting for a node, after which a caller is shown what crosses
PROGRESS_SECONDS: Final = 0.1       # between two looks at it
PLACES_OF_CALLS: Final = 16384      # calls to a node whose lines in the program are remembered, for error messages
ANSWER_BYTES: Final = 4 << 30       # tensors in one answer of a node that a caller takes
UNREAD_BYTES: Final = 64 << 20      # answers that wait for their reader before a room has to wait as well
DELEGATE_SECONDS: Final = 300       # how long a room waits so for a delegate, while its client waits for the room
KEPT_BYTES: Final = 80 << 20        # answers that a gate keeps, as their caller may not have had them, likewise
KEPT_ANSWERS: Final = 1 << 17       # their number; more than a caller leaves unacknowledged, however small they are
UNACKNOWLEDGED_BYTES: Final = 1 << 20  # of answers, after which a caller says that it has them
