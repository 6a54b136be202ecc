// Asking the kernel about holders: see system.h.
#include "holders/system.h"

#include <algorithm>

#include "base/blocking.h"
#include "holders/record.h"

namespace pmfs {

using pm::Lender;

namespace {

// The boot is not known: journal::current_boot_id().
bool known(const std::array<std::uint8_t, 16> &boot) {
    const auto all = [&boot](std::uint8_t byte) {
        return std::all_of(boot.begin(), boot.end(), [byte](std::uint8_t b) { return b == byte; });
    };
    return !all(0) && !all(0xff);
}

}  // namespace

Trace trace_of(InodeNo record, const media::Inode &inode) {
    const media::GrantHolder holder = holder_of(inode);
    const media::GrantPlace place = place_of(inode);
    Trace trace;
    trace.record = record;
    trace.process = process_of(inode);
    std::copy(std::begin(holder.boot_id), std::end(holder.boot_id), trace.boot.begin());
    trace.lent = (holder.flags.get() & media::kGrantLent) != 0;
    trace.lock_number = lock_number(record, inode);
    trace.place = {place.medium_device.get(), place.medium_inode.get()};
    return trace;
}

Process System::process_of(std::uint32_t thread) const {
    may_block("process_of");
    return processes_.of_thread(thread);
}

std::uint64_t System::lockable_bytes(std::uint32_t pid) const {
    may_block("lockable_bytes");
    return processes_.lockable_bytes(pid);
}

Life System::life_of(const Process &process) const {
    may_block("life_of");
    return processes_.life(process);
}

std::optional<Lender::Use> System::use_of(const Trace &trace) const {
    may_block("use_of");
    // A device may have several nodes, and an image may have been copied; the lock is on one of
    // them.
    if (!trace.lent || !lender_ || lender_->place() != trace.place) return std::nullopt;
    return lender_->use_of(trace.lock_number);
}

System::Finding System::look(const Trace &trace, bool watch) const {
    Finding found;
    found.use = use_of(trace);
    if (known(boot_) && known(trace.boot) && boot_ != trace.boot) {
        found.life = Life::ended;
        return found;
    }
    // The pidfd is opened first: it reports a process that ends later, and the check below sees one
    // that ended before.
    if (watch && found.use != Lender::Use::none) found.process = watch_process(trace.process);
    // A process that shares the memory maps as well, and the process itself may have unmapped: so
    // where the kernel keeps the lock, only the lock counts.
    if (found.use == Lender::Use::unknown)
        found.life = Life::unknown;
    else if (found.use)
        found.life = *found.use == Lender::Use::none ? Life::ended : Life::alive;
    else
        found.life = life_of(trace.process);
    return found;
}

Result<FileDescriptor> System::lend(const Trace &trace, bool writable) const {
    FileDescriptor lent = TRY(lender_->open(writable));
    TRY(Lender::mark(lent, trace.lock_number));
    return lent;
}

}  // namespace pmfs
