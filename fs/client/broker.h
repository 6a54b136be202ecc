/*
 * broker.h - what libpmfs and the server say to each other over the broker's socket.
 *
 * Not installed: programs use pmfs.h.  The socket (SOCK_SEQPACKET, one message a packet, native
 * byte order: both ends are on one machine) stands where PMFS_IOC_GRANT says.
 *
 *   client                                     server
 *   connect                                    looks at SO_PEERCRED
 *   struct pmfs_broker_ask       ->
 *                                <-            struct pmfs_broker_answer, and with error 0 one
 *                                              descriptor of the device by SCM_RIGHTS
 *   keeps the connection while it holds        keeps the grant while there is a connection
 *                                <-            struct pmfs_broker_event, when its lease is to go
 *
 * A grant without PMFS_GRANT_MAP gets an answer without a descriptor.  Nothing else is sent, by
 * either side.  When the client closes, exits or is killed the grant ends;
 * when the server ends the grant (its handle was closed), stops or dies, the client's end hangs up.
 * A client that is refused may find the answer already there, and its own packet undeliverable
 * (EPIPE).
 */
#ifndef PMFS_BROKER_H
#define PMFS_BROKER_H

#include <stdint.h>

#define PMFS_BROKER_MAGIC 0x6b724270u /* "pBrk" */
#define PMFS_BROKER_VERSION 1u

struct pmfs_broker_ask {
    uint32_t magic;
    uint32_t version;
    uint64_t grant;
    uint8_t token[16];
};

struct pmfs_broker_answer {
    uint32_t magic;
    uint32_t version;
    int32_t error;     /* 0 or an errno value */
    uint32_t writable; /* the descriptor may be mapped for storing */
    uint64_t epoch;
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
static_assert(sizeof(struct pmfs_broker_ask) == 32, "wire");
static_assert(sizeof(struct pmfs_broker_answer) == 24, "wire");
#else
_Static_assert(sizeof(struct pmfs_broker_event) == 24, "wire");
_Static_assert(sizeof(struct pmfs_broker_ask) == 32, "wire");
_Static_assert(sizeof(struct pmfs_broker_answer) == 24, "wire");
#endif
#endif
