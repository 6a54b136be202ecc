// Questions to the kernel about holders: which process is it, does it live, does any process map?
//
// Each takes one system call or several, so none may be asked with the volume's lock held. The
// holder's identity is read with the lock held (trace_of), the question asked without it, and the
// grant checked again with it. That is safe, because an answer that frees something never changes:
// a process that has ended remains so, and if no process maps by a number, none will, except with a
// descriptor that is lent later.
#pragma once
#include <array>
#include <optional>

#include "holders/types.h"
#include "pm/lending.h"

namespace pmfs {

// What a grant's record says about its holder.
struct Trace {
    InodeNo record;
    Process process;
    std::array<std::uint8_t, 16> boot{};
    bool lent = false;  // with what follows
    std::uint64_t lock_number = 0;
    pm::Lender::Place place;
};
Trace trace_of(InodeNo record, const media::Inode &inode);

class System {
public:
    System(const ProcessView &processes, const std::array<std::uint8_t, 16> &boot)
        : processes_(processes), boot_(boot) {}
    // Called first.  Without a lender nothing is lent.
    void set_lender(pm::Lender lender) { lender_.emplace(std::move(lender)); }
    bool lends() const { return lender_.has_value(); }
    pm::Lender::Place place() const { return lender_->place(); }

    Process process_of(std::uint32_t thread) const;
    std::uint64_t lockable_bytes(std::uint32_t pid) const;

    // What the kernel says about the lent descriptor; nothing when it cannot be asked.
    std::optional<pm::Lender::Use> use_of(const Trace &trace) const;
    // Whether the process lives, no matter whether others map.
    Life life_of(const Process &process) const;
    struct Finding {
        std::optional<pm::Lender::Use> use;
        Life life = Life::unknown;  // ended: no process maps by this record any more
        FileDescriptor process;     // becomes readable when the process ends; none: see life
    };
    // watch: also opens a pidfd of the process, unless it has ended.
    Finding look(const Trace &trace, bool watch) const;

    // A descriptor of the medium whose end the kernel reports.
    Result<FileDescriptor> lend(const Trace &trace, bool writable) const;

private:
    const ProcessView processes_;
    const std::array<std::uint8_t, 16> boot_;
    std::optional<pm::Lender> lender_;
};

}  // namespace pmfs
