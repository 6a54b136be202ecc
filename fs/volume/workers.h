// The volume's threads: for jobs that may take long, and for operations that had to wait.  Fair by
// user and by file (base/fair_pool.h).
#pragma once
#include <functional>

#include "base/fair_pool.h"
#include "base/ids.h"
#include "base/result.h"

namespace pmfs {

class Workers {
public:
    using Later = std::function<void(std::function<void()>)>;
    // `background` false: there are no threads.  Jobs run at once, and `later` gets operations that
    // had to wait.
    Workers(bool background, Later later) : background_(background), later_(std::move(later)) {}

    // EAGAIN: there are no more threads.
    Result<> start();
    // Queued jobs run to their end.
    void finish() { pool_.finish(); }
    // Null: no threads.
    FairPool *pool() { return background_ ? &pool_ : nullptr; }

    // Volume::run_later().
    void run(std::uint32_t user, std::uint64_t file, bool lengthy, std::function<void()> work);
    // Continues an operation that waited.  May be called with any lock held.
    void resume(InodeNo ino, std::function<void()> again, std::uint32_t user);

private:
    const bool background_;
    const Later later_;
    FairPool pool_{"pmfs-work", 8, 0, 2};
};

}  // namespace pmfs
