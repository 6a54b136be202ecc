// Emptying partly used chunks ahead of time, so that whole ones are there when they are needed.
//
// An operation that works group by group.  It stops after a chunk when it has moved enough for one
// call, and returns where to continue.
#include "base/clock.h"
#include "volume/evacuation.h"
#include "volume/parts.h"

namespace pmfs {

using media::kChunkBlocks;

namespace {

class Compact final : public Operation {
public:
    Compact(Engine &e, GroupNo from)
        : Operation(e.claims, InodeNo()),
          e_(e),
          evacuation_(e, 1, 1, Evacuation::Worth::useful, nullptr) {
        evacuation_.at_most(kUsedMax);
        evacuation_.within(from, from + 1);
        done_.next = from;
    }

    const Compacted &done() const { return done_; }
    Hold hold() const override { return evacuation_.hold(); }
    Result<bool> step() override {
        TRY(writable(e_));
        const auto stepped = evacuation_.step();
        if (stepped.ok() && !stepped.value()) return false;
        if (!stepped.ok() && (must_park(stepped.error()) || pm::NoWaiting::met()))
            return stepped.error();
        e_.lock.assert_held();  // it returns in a stage with the lock held
        done_.moved = evacuation_.moved() * media::kBlockSize;
        if (!stepped.ok()) {
            evacuation_.finish();
            if (stepped.error().errno_value() != ENOSPC) return stepped.error();
            const auto next = e_.allocator->map().broken_group(done_.next + 1, false);
            done_.more = next.has_value();
            done_.next = next.value_or(GroupNo(0));
            return true;
        }
        evacuation_.finish();
        ++done_.chunks;
        done_.more = true;
        return monotonic_ns() >= deadline_ns_;
    }

private:
    static constexpr std::uint64_t kUsedMax = kChunkBlocks / 4 * 3;
    static constexpr std::uint64_t kCallNs = 200'000'000;

    Engine &e_;
    Evacuation evacuation_;
    Compacted done_;
    const std::uint64_t deadline_ns_ = monotonic_ns() + kCallNs;
};

}  // namespace

Result<Compacted> Volume::compact(GroupNo from, const Caller &caller) {
    Engine &e = parts_->engine;
    if (caller.uid != 0) return Error(EPERM, "only root may compact a volume");
    TRY(writable(e));
    if (from >= e.allocator->map().end_group())
        return Error(EINVAL, "the volume has no such group");
    auto operation = resumed_or_new<Compact>(caller.progress, InodeNo(), e, from);
    TRY(parts_->scheduler.run_or_keep(operation, caller.progress));
    return operation->done();
}

}  // namespace pmfs
