/* One RDMA device and one connection; see verbs.h. */
#include "verbs.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define WAIT_SECONDS 10

static double seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* The kernel makes addresses some time after the interface came up. */
static int find_gid(struct verbs *verbs) {
    struct ibv_port_attr port;
    const double give_up = seconds_now() + WAIT_SECONDS;
    for (;;) {
        int result = ibv_query_port(verbs->context, 1, &port);
        if (result != 0) return -result;
        for (int i = port.gid_tbl_len - 1; i >= 0 && port.state == IBV_PORT_ACTIVE; i--) {
            union ibv_gid gid;
            if (ibv_query_gid(verbs->context, 1, i, &gid) != 0 || gid.global.interface_id == 0)
                continue;
            verbs->gid = gid;
            verbs->gid_index = i;
            return 0;
        }
        if (seconds_now() > give_up) return -EADDRNOTAVAIL;
        usleep(20000);
    }
}

int verbs_open(struct verbs *verbs) {
    memset(verbs, 0, sizeof *verbs);
    const struct rlimit no_limit = {RLIM_INFINITY, RLIM_INFINITY};
    (void)setrlimit(RLIMIT_MEMLOCK, &no_limit);
    int count = 0;
    struct ibv_device **devices = ibv_get_device_list(&count);
    if (devices == NULL || count == 0) return -ENODEV;
    verbs->context = ibv_open_device(devices[0]);
    ibv_free_device_list(devices);
    if (verbs->context == NULL) return -errno;
    verbs->domain = ibv_alloc_pd(verbs->context);
    verbs->completions = ibv_create_cq(verbs->context, 16, NULL, NULL, 0);
    if (verbs->domain == NULL || verbs->completions == NULL) return -ENOMEM;
    return find_gid(verbs);
}

void verbs_close(struct verbs *verbs) {
    if (verbs->completions != NULL) ibv_destroy_cq(verbs->completions);
    if (verbs->domain != NULL) ibv_dealloc_pd(verbs->domain);
    if (verbs->context != NULL) ibv_close_device(verbs->context);
}

struct ibv_mr *verbs_register(struct verbs *verbs, void *start, size_t length) {
    return ibv_reg_mr(verbs->domain, start, length,
                      IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ);
}

struct ibv_qp *verbs_queue_pair(struct verbs *verbs) {
    struct ibv_qp_init_attr wanted = {
        .send_cq = verbs->completions,
        .recv_cq = verbs->completions,
        .qp_type = IBV_QPT_RC,
        .cap = {.max_send_wr = 4, .max_recv_wr = 4, .max_send_sge = 1, .max_recv_sge = 1}};
    return ibv_create_qp(verbs->domain, &wanted);
}

int verbs_connect(struct verbs *verbs, struct ibv_qp *pair, const struct verbs_address *peer) {
    struct ibv_qp_attr to_init = {
        .qp_state = IBV_QPS_INIT,
        .port_num = 1,
        .qp_access_flags = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ};
    int result = ibv_modify_qp(
        pair, &to_init, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
    if (result != 0) return -result;
    struct ibv_qp_attr to_receive = {
        .qp_state = IBV_QPS_RTR,
        .path_mtu = IBV_MTU_1024,
        .dest_qp_num = peer->queue_pair,
        .max_dest_rd_atomic = 4,
        .min_rnr_timer = 12,
        .ah_attr = {
            .is_global = 1,
            .port_num = 1,
            .grh = {.dgid = peer->gid, .sgid_index = (uint8_t)verbs->gid_index, .hop_limit = 8}}};
    result = ibv_modify_qp(pair, &to_receive,
                           IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN |
                               IBV_QP_RQ_PSN | IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
    if (result != 0) return -result;
    struct ibv_qp_attr to_send = {
        .qp_state = IBV_QPS_RTS, .timeout = 18, .retry_cnt = 7, .rnr_retry = 7, .max_rd_atomic = 4};
    return -ibv_modify_qp(pair, &to_send,
                          IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                              IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
}

int verbs_transfer(struct verbs *verbs, struct ibv_qp *pair, enum ibv_wr_opcode opcode,
                   const struct ibv_mr *mine, void *here, const struct verbs_address *peer,
                   uint64_t there, uint32_t length) {
    struct ibv_sge piece = {
        .addr = (uint64_t)(uintptr_t)here, .length = length, .lkey = mine->lkey};
    struct ibv_send_wr work = {
        .sg_list = &piece,
        .num_sge = 1,
        .opcode = opcode,
        .send_flags = IBV_SEND_SIGNALED,
        .wr = {.rdma = {.remote_addr = peer->start + there, .rkey = peer->key}}};
    struct ibv_send_wr *bad;
    const int result = ibv_post_send(pair, &work, &bad);
    if (result != 0) return -result;
    struct ibv_wc done;
    const double give_up = seconds_now() + WAIT_SECONDS;
    int count;
    while ((count = ibv_poll_cq(verbs->completions, 1, &done)) == 0)
        if (seconds_now() > give_up) return -ETIMEDOUT;
    if (count < 0) return -EIO;
    if (done.status == IBV_WC_SUCCESS) return 0;
    fprintf(stderr, "the transfer ended with: %s\n", ibv_wc_status_str(done.status));
    return -EREMOTEIO;
}
