// Holders that lost their grants and may still map the device: their blocks are quarantined until
// no process maps them any more (docs/seal.md "Quarantine").
//
// The state in memory changes only after its transaction, and both under one hold of the lock. If
// the end of a quarantine has to wait for the journal, the quarantine stays as it was, and
// everything is checked again when the end is run once more.
//
// Called by Holders. Events (a process ended, no process maps any more) come from the caretaker.
#pragma once
#include <map>
#include <set>
#include <vector>

#include "holders/caretaker.h"
#include "holders/records.h"

namespace pmfs {

class Quarantines {
public:
    Quarantines(const Ground &ground, const System &system, Records &records, Caretaker &caretaker)
        : ground_(ground), system_(system), records_(records), caretaker_(caretaker) {}

    // --- with the volume's lock held, exclusively for the first
    // The record's grant is lost, and `found` is what is known of its holder (its pidfd is moved
    // from).  `grant`: the one that the holder may still give back to say that it has unmapped;
    // null: none.  kParkErrno: run it again.
    Result<> begin(InodeNo record, GrantReason reason, System::Finding &found, const Grant *grant);
    std::size_t count() const;
    std::size_t count_of(std::uint32_t uid) const;
    // Whether mappings of the file may have outlived their grants.
    bool any_of(InodeNo file) const;

    // --- without it
    // At a mount, before anything is freed.  EUCLEAN: what other holders map is unknown.
    Result<> load();
    // The holder gives the lost grant back: it has unmapped.  ENOENT: it has lost no such grant.
    Result<> drop(HandleId handle, GrantId id);
    // Root declares that no process stores there any more.  ENOENT.
    Result<> release(InodeNo record);
    // Checks whether the quarantine is over.  process_ended: the holder's pidfd became readable.
    // If the kernel can tell whether any process maps, its answer decides, because another process
    // may share the memory.
    void look_again(InodeNo record, bool process_ended);
    // All of a file.
    void look_again_at(InodeNo file);
    Result<std::vector<Holder>> holders(InodeNo file);
    // So many rows from this record's on; those that end meanwhile are left out.  `next`: the
    // record of the row behind them, 0: there is none.
    Result<std::vector<Quarantined>> list(InodeNo from, std::size_t count, InodeNo *next);
    Result<QuarantineTotal> total();

private:
    struct Lost {
        Process process;
        std::uint32_t uid = 0;
        InodeNo file;
        std::uint64_t generation = 0;
        GrantReason reason = GrantReason::server_died;
        HandleId handle = 0;  // 0 = none
        GrantId grant = 0;
    };
    struct Bytes {
        std::uint64_t total = 0, held = 0;
        std::uint64_t as_of = 0;  // core::Quarantine::struck(): valid as long as that stays
    };
    using Key = std::pair<std::uint64_t, std::uint64_t>;
    Result<> claim(InodeNo record, GrantReason reason, std::vector<core::Run> *runs);
    // Frees the record and the blocks that only it holds back.  On failure it keeps the rest.
    Result<> settle(InodeNo record) REQUIRES(ground_.lock);
    Result<> end(InodeNo record) EXCLUDES(ground_.lock);
    void forget(InodeNo record) REQUIRES(ground_.lock);
    // Nothing: it is not in quarantine, or cannot be read.
    std::optional<Trace> trace(InodeNo record) EXCLUDES(ground_.lock);
    std::vector<InodeNo> of_file(InodeNo file) const REQUIRES_SHARED(ground_.lock);
    Result<> patiently(const std::function<Result<>()> &step) EXCLUDES(ground_.lock);
    Result<Bytes> bytes_of(InodeNo record, bool *recounted) REQUIRES_SHARED(ground_.lock)
        EXCLUDES(bytes_lock_);
    void forget_bytes(InodeNo record) REQUIRES(ground_.lock) EXCLUDES(bytes_lock_);
    // A row of the list, without what only the system knows.  Nothing: it has ended meanwhile.
    Result<std::optional<Quarantined>> row(InodeNo record, Trace *trace) EXCLUDES(ground_.lock);

    const Ground &ground_;
    const System &system_;
    Records &records_;
    Caretaker &caretaker_;
    std::map<std::uint64_t, Lost> lost_ GUARDED_BY(ground_.lock);            // by record
    std::map<std::uint32_t, std::size_t> by_user_ GUARDED_BY(ground_.lock);  // how many
    std::set<Key> by_file_ GUARDED_BY(ground_.lock);                         // file, record
    std::map<Key, InodeNo> by_grant_ GUARDED_BY(ground_.lock);      // handle and grant -> record
    Mutex bytes_lock_;                                              // inside the volume's
    std::map<std::uint64_t, Bytes> bytes_ GUARDED_BY(bytes_lock_);  // by record, as last counted
};

}  // namespace pmfs
