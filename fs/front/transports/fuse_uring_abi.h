// The interface between the kernel and a server for requests over io_uring: FUSE's protocol 7.42
// (Linux 6.14).  Debian 12's <linux/fuse.h> has 7.38, so it is defined here, with our own names.
//
// Source: Linux, include/uapi/linux/fuse.h (struct fuse_uring_req_header and what is near it), and
// Documentation/filesystems/fuse/fuse-io-uring.rst.
#pragma once
#include <cstddef>
#include <cstdint>

namespace pmfs::front {

// The commands, in io_uring_sqe::cmd_op (enum fuse_uring_cmd).
enum class FuseUringCommand : std::uint32_t {
    register_entry = 1,    // gives the kernel this memory, for one request at a time
    commit_and_fetch = 2,  // the reply is ready; wait for the next request
};

// Behind an SQE of 128 bytes (struct fuse_uring_cmd_req).
struct FuseUringCommandBody {
    std::uint64_t flags = 0;
    std::uint64_t commit_id = 0;  // of the request that is answered
    std::uint16_t queue = 0;
    std::uint8_t padding[6] = {};
};
static_assert(sizeof(FuseUringCommandBody) == 24);

// The first of an entry's two pieces of memory; the second one is the payload.
struct FuseUringHeader {
    std::byte in_out[128];     // fuse_in_header, and fuse_out_header in its place
    std::byte operation[128];  // the fixed part of a request; its size is not given
    struct {
        std::uint64_t flags;
        std::uint64_t commit_id;
        std::uint32_t payload_size;  // bytes, both ways
        std::uint32_t padding;
        std::uint64_t reserved;
    } entry;
};
static_assert(sizeof(FuseUringHeader) == 288 && offsetof(FuseUringHeader, entry) == 256);

}  // namespace pmfs::front
