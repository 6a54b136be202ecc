/*
 * broker_protocol.h - the protocol between libpmfs and the server on the broker's socket.
 *
 * Not installed: programs use pmfs.h.  The socket (SOCK_SEQPACKET, one message a packet, native
 * byte order: both ends are on one machine) is at the path that PMFS_IOC_GRANT returns.
 *
 *   client                                     server
 *   connect                                    looks at SO_PEERCRED
 *   PMFS_BROKER_BIND, a token    ->
 *                                <-            answer: a number for the claim, and one descriptor
 *                                              of the device by SCM_RIGHTS
 *   keeps the connection while it holds        keeps the grant while there is a connection
 *   PMFS_BROKER_EVENTS, a number ->
 *                                <-            answer: a channel for the events of that claim
 *
 * One connection serves a process for all its grants; to each packet there is one answer, in order,
 * and nothing else is sent on it.  A client reads the answer before it sends the next packet: if
 * not, it is disconnected, because what is unread costs the server.  A grant without PMFS_GRANT_MAP
 * gets an answer without a descriptor, and so does an error; ETOOMANYREFS: the system lets the
 * server send no descriptor now.  When the client closes, exits or is killed all grants of the
 * connection end.
 *
 * A channel is a socket, too, and is made on request.  It brings a pmfs_broker_event when its lease
 * is to be given back, and hangs up when the grant ends: given back, lost, or with its server.
 *
 * A client that is refused a connection may find the answer already there, and its own packet
 * undeliverable (EPIPE).
 */
#ifndef PMFS_BROKER_PROTOCOL_H
#define PMFS_BROKER_PROTOCOL_H

#include <stdint.h>

#define PMFS_BROKER_MAGIC 0x6b724270u /* "pBrk" */
#define PMFS_BROKER_VERSION 2u

#define PMFS_BROKER_BIND 1u
#define PMFS_BROKER_EVENTS 2u

struct pmfs_broker_ask {
    uint32_t magic;
    uint32_t version;
    uint32_t what; /* PMFS_BROKER_BIND, PMFS_BROKER_EVENTS */
    uint32_t reserved;
    uint64_t number;   /* of the grant; to get events: of the claim */
    uint8_t token[16]; /* to bind */
};

struct pmfs_broker_answer {
    uint32_t magic;
    uint32_t version;
    int32_t error;     /* 0 or an errno value */
    uint32_t writable; /* the descriptor may be mapped for storing */
    uint64_t epoch;
    uint64_t claim;
};

#define PMFS_BROKER_EVENT_BREAK 1u /* give the grant back within `milliseconds`, or lose it */

struct pmfs_broker_event {
    uint32_t magic;
    uint32_t version;
    uint32_t kind; /* PMFS_BROKER_EVENT_* */
    uint32_t milliseconds;
    uint64_t grant;
};

#ifdef __cplusplus
static_assert(sizeof(struct pmfs_broker_event) == 24, "wire");
static_assert(sizeof(struct pmfs_broker_ask) == 40, "wire");
static_assert(sizeof(struct pmfs_broker_answer) == 32, "wire");
#else
_Static_assert(sizeof(struct pmfs_broker_event) == 24, "wire");
_Static_assert(sizeof(struct pmfs_broker_ask) == 40, "wire");
_Static_assert(sizeof(struct pmfs_broker_answer) == 32, "wire");
#endif
#endif
