// Requests that are in progress at the same time, by io_uring and by io_submit; and what two
// processes count under locks.
#pragma once
#include <liburing.h>
#include <linux/aio_abi.h>
#include <sys/file.h>
#include <sys/syscall.h>

#include <atomic>

#include "torture/target.h"

namespace torture {

// How often all workers together have counted, by each kind of lock; in memory that they share.
struct Counted {
    std::atomic<std::uint64_t> by_kind[2];
};

class Several : public Target {
public:
    Several(const Words &words, std::string path, std::uint64_t seed, std::size_t base, bool alone,
            Counted &counted)
        : Target(words, std::move(path), seed, base, alone), counted_(counted) {
        if (io_uring_queue_init(32, &ring_, 0) != 0) fail("io_uring_queue_init");
        if (syscall(SYS_io_setup, 32, &aio_) != 0) fail("io_setup");
        count_ = open((path_ + ".count").c_str(), O_RDWR);
        if (count_ < 0) fail("open of the counters: %s", std::strerror(errno));
    }

protected:
    // A counter in a file is read and written again under a lock: none may be lost.
    void count_under_lock() {
        const bool ranges = one_in(2);
        const off_t at = ranges ? kPage : 0;
        static constexpr std::array kHow = {F_SETLKW, F_OFD_SETLKW};
        const int how = kHow[below(kHow.size())];
        struct flock range {};
        range.l_whence = SEEK_SET;
        range.l_start = at - static_cast<off_t>(below(100));
        range.l_len = one_in(2) ? 0 : 200;
        did("count under %s", !ranges ? "flock" : how == F_SETLKW ? "fcntl" : "an OFD lock");
        const auto lock = [&](short kind) {
            range.l_type = kind;
            return ranges ? fcntl(count_, how, &range)
                          : flock(count_, kind == F_WRLCK ? LOCK_EX : LOCK_UN);
        };
        if (lock(F_WRLCK) != 0) fail("lock: %s", std::strerror(errno));
        std::uint64_t count = 0;
        if (pread(count_, &count, sizeof count, at) < 0) fail("counter");
        ++count;
        expect(pwrite(count_, &count, sizeof count, at), sizeof count, "counter");
        ++counted_.by_kind[ranges ? 1 : 0];
        if (lock(F_UNLCK) != 0) fail("unlock: %s", std::strerror(errno));
    }

    struct Request {
        bool writes;
        unsigned kind;
        std::size_t offset, length;
        Buffer data;
        ssize_t result = -1;
    };
    // Requests that share no page, and none makes the file longer but one.
    std::vector<Request> batch() {
        std::vector<Request> made;
        doubt_range(0, bytes_.size());
        std::size_t at = below(4) * kPage;
        const std::size_t limit = bytes_.size() / kPage * kPage;
        while (made.size() < 12 && at < limit) {
            const std::size_t pages = 1 + below(std::min<std::size_t>(8, (limit - at) / kPage));
            const std::size_t shift = one_in(2) ? 0 : below(kPage);
            const std::size_t length =
                one_in(2) ? pages * kPage - shift : 1 + below(pages * kPage - shift);
            const bool writes = one_in(2);
            const unsigned kind = writes ? writer() : reader();
            made.push_back(
                {writes, kind, at + shift, length, writes ? fresh(length) : Buffer(length)});
            at += (pages + below(3)) * kPage;
        }
        return made;
    }
    void finish(std::vector<Request> &requests, const char *how) {
        for (Request &request : requests) {
            if (request.result < 0) errno = static_cast<int>(-request.result);
            if (request.writes &&
                refused(request.result, fate_of_write(request.offset, request.length), how))
                continue;
            if (request.writes && request.result > 0)
                request.length = written(request.result, request.length, how);
            if (request.result != static_cast<ssize_t>(request.length))
                fail("%s %s %s %zu + %zu: %zd", how, request.writes ? "write" : "read",
                     kKinds[request.kind].name, request.offset, request.length, request.result);
            if (request.writes)
                put(request.offset, request.data.data(), request.length);
            else if (std::memcmp(request.data.data(), bytes_.data() + request.offset,
                                 request.length) != 0)
                differs(how, request.data.data(), request.offset, request.length);
        }
        for (const Request &request : requests) look(request.offset, request.length);
    }
    void by_ring() {
        std::vector<Request> requests = batch();
        if (requests.empty()) return;
        const bool fixed = one_in(2), files = one_in(2);
        did("%zu requests by io_uring%s%s", requests.size(), fixed ? ", registered buffers" : "",
            files ? ", registered files" : "");
        std::vector<iovec> buffers;
        for (Request &request : requests) buffers.push_back({request.data.data(), request.length});
        if (fixed && io_uring_register_buffers(&ring_, buffers.data(),
                                               static_cast<unsigned>(buffers.size())) != 0)
            fail("register buffers");
        if (files &&
            io_uring_register_files(&ring_, fds_.data(), static_cast<unsigned>(fds_.size())) != 0)
            fail("register files");
        for (std::size_t i = 0; i < requests.size(); ++i) {
            Request &r = requests[i];
            did("  %s %s %zu + %zu", r.writes ? "write" : "read", kKinds[r.kind].name, r.offset,
                r.length);
            io_uring_sqe *sqe = io_uring_get_sqe(&ring_);
            const int fd = files ? static_cast<int>(r.kind) : fds_[r.kind];
            const auto length = static_cast<unsigned>(r.length);
            const auto at = static_cast<std::uint64_t>(place(r.offset));
            const int number = static_cast<int>(i);
            if (r.writes && fixed)
                io_uring_prep_write_fixed(sqe, fd, r.data.data(), length, at, number);
            else if (r.writes)
                io_uring_prep_write(sqe, fd, r.data.data(), length, at);
            else if (fixed)
                io_uring_prep_read_fixed(sqe, fd, r.data.data(), length, at, number);
            else
                io_uring_prep_read(sqe, fd, r.data.data(), length, at);
            if (files)
                io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE | (one_in(2) ? IOSQE_ASYNC : 0u));
            io_uring_sqe_set_data64(sqe, i);
        }
        if (io_uring_submit_and_wait(&ring_, static_cast<unsigned>(requests.size())) < 0)
            fail("submit");
        for (std::size_t i = 0; i < requests.size(); ++i) {
            io_uring_cqe *cqe;
            if (io_uring_wait_cqe(&ring_, &cqe) != 0) fail("wait");
            requests[io_uring_cqe_get_data64(cqe)].result = cqe->res;
            io_uring_cqe_seen(&ring_, cqe);
        }
        if (fixed) io_uring_unregister_buffers(&ring_);
        if (files) io_uring_unregister_files(&ring_);
        finish(requests, "io_uring");
    }
    void by_aio() {
        std::vector<Request> requests = batch();
        if (requests.empty()) return;
        did("%zu requests by io_submit", requests.size());
        std::vector<iocb> blocks(requests.size());
        std::vector<iocb *> list;
        for (std::size_t i = 0; i < requests.size(); ++i) {
            Request &r = requests[i];
            did("  %s %s %zu + %zu", r.writes ? "write" : "read", kKinds[r.kind].name, r.offset,
                r.length);
            iocb &block = blocks[i];
            block.aio_data = i;
            block.aio_fildes = static_cast<std::uint32_t>(fds_[r.kind]);
            block.aio_lio_opcode = r.writes ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
            block.aio_buf = reinterpret_cast<std::uint64_t>(r.data.data());
            block.aio_nbytes = r.length;
            block.aio_offset = place(r.offset);
            list.push_back(&block);
        }
        const auto count = static_cast<long>(list.size());
        if (syscall(SYS_io_submit, aio_, count, list.data()) != count)
            fail("io_submit: %s", std::strerror(errno));
        std::vector<io_event> events(list.size());
        if (syscall(SYS_io_getevents, aio_, count, count, events.data(), nullptr) != count)
            fail("io_getevents");
        for (const io_event &event : events) requests[event.data].result = event.res;
        finish(requests, "io_submit");
    }

private:
    io_uring ring_{};
    aio_context_t aio_ = 0;
    int count_ = -1;
    Counted &counted_;
};

}  // namespace torture
