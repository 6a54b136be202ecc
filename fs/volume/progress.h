// Keeps the operation of a request that has to wait.  It lives as long as the request: when the
// request is run again, the same call continues the operation.  A call without a place to keep it
// (Caller::progress is null) starts over, which is correct, too.
#pragma once
#include <memory>

#include "base/ids.h"

namespace pmfs {

class Operation;

class Progress {
public:
    Progress();
    Progress(Progress &&) noexcept;
    Progress &operator=(Progress &&) noexcept;
    ~Progress();

    void keep(std::unique_ptr<Operation> operation);
    // The kept operation, if it has this type and works on this inode; otherwise it is dropped.
    template <class Op>
    std::unique_ptr<Op> take(InodeNo ino);
    // Drops the operation with its claims and reservations.  Without the volume's lock.
    void drop();
    bool kept() const { return operation_ != nullptr; }
    // For the scheduler: how often the request has waited for files that the client is about to
    // forget.
    unsigned waited_for_space = 0;
    // ... and how often for holders of the file that may be closing it; kNever: it must not.
    static constexpr unsigned kNever = ~0u;
    unsigned waited_for_close = 0;

private:
    std::unique_ptr<Operation> operation_;
};

}  // namespace pmfs
