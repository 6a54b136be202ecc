/*
 * verbs.h - as much of RDMA as the rig's programs need: one device, and one connection of two queue
 * pairs.  Soft RoCE (rdma_rxe) on a network interface that goes nowhere is enough for it.
 */
#ifndef RIG_VERBS_H
#define RIG_VERBS_H

#include <infiniband/verbs.h>
#include <stddef.h>
#include <stdint.h>

struct verbs {
    struct ibv_context *context;
    struct ibv_pd *domain;
    struct ibv_cq *completions;
    union ibv_gid gid;
    int gid_index;
};

/* What one side tells the other. */
struct verbs_address {
    union ibv_gid gid;
    uint32_t queue_pair;
    uint32_t key;           /* of a region registered for the other, */
    uint64_t start, length; /* and where it lies */
};

/* Opens the first device, and waits for it to have an address.  0 or -errno.  (ibv_fork_init is not
 * called: with it small registrations on a device with 2 MiB pages are EINVAL.) */
int verbs_open(struct verbs *verbs);
void verbs_close(struct verbs *verbs);

/* A region that the other side may read and write; NULL and errno. */
struct ibv_mr *verbs_register(struct verbs *verbs, void *start, size_t length);

struct ibv_qp *verbs_queue_pair(struct verbs *verbs);
/* 0 or -errno */
int verbs_connect(struct verbs *verbs, struct ibv_qp *pair, const struct verbs_address *peer);

/* One RDMA WRITE or READ of `length` bytes between `here` (in `mine`) and `there` at the peer;
 * waits for it.  0 or -errno. */
int verbs_transfer(struct verbs *verbs, struct ibv_qp *pair, enum ibv_wr_opcode opcode,
                   const struct ibv_mr *mine, void *here, const struct verbs_address *peer,
                   uint64_t there, uint32_t length);

#endif
