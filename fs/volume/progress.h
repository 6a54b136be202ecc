// The place of a request in an operation of several steps.  It lives with the request: an operation
// that has to wait stays here, and the same call goes on with it when the request is run again.
// A call that has nowhere to leave it (Caller::progress null) starts over, which is correct, too.
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
    // What was kept, if it is of that kind and works on that inode; else what is kept is dropped.
    template <class Op>
    std::unique_ptr<Op> take(InodeNo ino);
    // Gives up the place: what was claimed and reserved is free.  Without the volume's lock.
    void drop();
    bool kept() const { return operation_ != nullptr; }
    // The scheduler's: how often the request has waited for files that the client is about to
    // forget.
    unsigned waited_for_space = 0;

private:
    std::unique_ptr<Operation> operation_;
};

}  // namespace pmfs
