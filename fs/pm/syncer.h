// fdatasync(2) of one descriptor, by io_uring where there is one.
#pragma once
#include <liburing.h>

#include <atomic>

#include "base/mutex.h"
#include "base/result.h"

namespace pmfs::pm {

// A failure is final: it is then unknown which pages the kernel dropped unwritten (Linux marks them
// clean), so every later sync() fails, too.
class Syncer {
public:
    enum class Way { uring_if_possible, system_call };
    // The caller keeps `fd`, which must outlive this.
    explicit Syncer(int fd, Way way = Way::uring_if_possible);
    ~Syncer();
    Syncer(const Syncer &) = delete;

    // Makes durable what was written to the file before the call.  EIO: see above.
    Result<> sync() EXCLUDES(mutex_);
    // Makes every later sync() fail: a write into the page cache failed.
    void fail() { failed_.store(true, std::memory_order_release); }
    bool failed() const { return failed_.load(std::memory_order_acquire); }

private:
    bool sync_by_uring_locked(int *result) REQUIRES(mutex_);
    void close_uring_locked() REQUIRES(mutex_);

    const int fd_;
    std::atomic<bool> failed_{false};
    Mutex mutex_;
    bool has_uring_ GUARDED_BY(mutex_) = false;
    io_uring uring_ GUARDED_BY(mutex_) = {};
};

}  // namespace pmfs::pm
