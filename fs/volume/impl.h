// What a volume consists of, and the steps that its operations share.  Included by fs/volume only.
#pragma once
#include <atomic>
#include <map>
#include <thread>

#include "base/errors.h"
#include "base/fair_pool.h"
#include "base/mutex.h"
#include "core/alloc.h"
#include "core/change.h"
#include "core/epoch.h"
#include "core/extent_map.h"
#include "core/inode.h"
#include "journal/journal.h"
#include "pm/lending.h"
#include "volume/caretaker.h"
#include "volume/claims.h"
#include "volume/live.h"
#include "volume/scheduler.h"
#include "volume/volume.h"

namespace pmfs {

inline std::uint64_t blocks_up(std::uint64_t bytes) {
    return (bytes + media::kBlockSize - 1) / media::kBlockSize;
}

class Volume::Impl {
public:
    Impl(std::unique_ptr<pm::Region> region, const media::Superblock &superblock,
         const MountOptions &options);
    ~Impl();

    std::unique_ptr<pm::Region> region;
    // The size and the root reserve change under a mount: with the lock held exclusively.
    media::Superblock superblock;
    std::uint64_t superblock_from = 0;  // block; not 0: a copy stands in for a damaged one
    const MountOptions options;
    std::unique_ptr<journal::Journal> journal;
    std::unique_ptr<core::Allocator> allocator;
    std::unique_ptr<core::Core> core;
    LiveTable live;

    // Shared: lookups.  Exclusive: whatever makes a Change.  File data is copied without it.
    SharedMutex lock;
    core::Epochs readers;  // of file data, and writers in place
    Claims file_claims;
    Scheduler scheduler{lock, file_claims};
    // Goes on with operations that waited, on threads of its own; by the inode, fairly.
    void resume(InodeNo ino, std::function<void()> again);

    // --- open and recovery
    Result<> start();
    Result<> finish_orphans() REQUIRES(lock);

    std::uint64_t leaving_blocks() REQUIRES_SHARED(lock);
    // EROFS where nothing may be written.
    Result<> writable() const;

    // --- attributes
    Attr attr_of(InodeNo ino, const media::Inode &inode);
    Result<std::optional<std::uint64_t>> unseen_from(InodeNo ino, const media::Inode &inode);
    void attributes_changed(InodeNo ino) {
        if (attribute_watcher != nullptr) attribute_watcher->attributes_changed(ino);
    }
    static void touch(media::Inode *inode, bool mtime);
    static bool has_setid(std::uint32_t mode);
    static void kill_setid(media::Inode *inode);
    Result<> drop_capability(InodeNo ino) REQUIRES(lock);

    // A sealed map must be the one that was sealed: compared once, while the inode is referred to.
    Result<> check_seal(InodeNo ino, const Caller &caller) EXCLUDES(lock);

    // --- grants: holders.cc
    // With the lock held: what the seal and the grants say to a change of the map.  kBreakErrno:
    // leases were asked to go, and the operation waits for them.
    Result<core::MapPermit> permit(InodeNo ino, const media::Inode &inode, core::Move move,
                                   std::uint64_t first, std::uint64_t end, const Caller &caller);
    static bool owns(const Grant &grant, const Caller &caller, const Process &process);
    Error begin_break(InodeNo ino, const Caller &caller);
    void revoke_leases(InodeNo ino) EXCLUDES(lock);
    static Result<> may_hold(const media::Inode &inode, const HandleInfo &opened,
                             const GrantRequest &request, const Caller &caller);
    Result<std::uint64_t> pin_limit(const Caller &caller);
    Result<GrantId> take(const HandleInfo &opened, const GrantRequest &request,
                         const Caller &caller, std::uint64_t *bad_offset) REQUIRES(lock);
    Result<> write_grant(const Grant &grant) REQUIRES(lock);
    // Ends a grant without its holder's word.  kParkErrno: nothing has changed, run it again.
    Result<> lose(HandleId handle, GrantId id, GrantReason reason) EXCLUDES(lock);
    void lose_or_park(HandleId handle, GrantId id, GrantReason reason) EXCLUDES(lock);
    Result<> end_record(const Grant &grant, GrantReason reason) REQUIRES(lock);
    Result<> drop_lost(HandleId handle, GrantId id) EXCLUDES(lock);
    void after_drop(const LiveTable::Dropped &dropped) EXCLUDES(lock);
    // Somebody may have stored to the file past us: its mtime and ctime move.
    Result<> stored(InodeNo ino, std::uint32_t uid) REQUIRES(lock);
    Result<> clear_behind_end(InodeNo ino) REQUIRES(lock);
    Result<> mark_mapped(const Grant &grant) REQUIRES(lock);
    void tell_holders(const std::function<void(GrantWatcher &)> &what) EXCLUDES(watcher_lock);
    SharedMutex watcher_lock;  // shared while the watcher is called; inside `lock`
    GrantWatcher *watcher GUARDED_BY(watcher_lock) = nullptr;
    AttributeWatcher *attribute_watcher = nullptr;

    // --- grant records: records.cc
    Result<InodeNo> add_record(const Grant &grant, InodeNo file) REQUIRES(lock);
    Result<> claim(InodeNo record, GrantReason reason) REQUIRES(lock);
    Result<std::vector<core::Run>> claims_of(InodeNo record) REQUIRES_SHARED(lock);
    Result<std::vector<core::Run>> unclaimed(InodeNo record) REQUIRES_SHARED(lock);
    void set_holder(media::Inode *record, const Grant &grant) const;
    Result<> set_record_holder(const Grant &grant) REQUIRES(lock);
    Result<std::vector<core::Run>> given_up(InodeNo record) REQUIRES_SHARED(lock);
    Result<> stored_by(InodeNo record) REQUIRES(lock);
    Result<> drop_record(InodeNo record, bool settle) REQUIRES(lock);

    // --- quarantine: lost.cc
    // What the kernel says of the descriptor that was lent: none when it cannot be asked.
    std::optional<pm::Lender::Use> use_of(InodeNo record, const media::Inode &inode) const;
    // ended: nobody maps by this record's grant any more.
    Life life_of_record(InodeNo record, const media::Inode &inode) const;
    Result<> quarantine(InodeNo record, GrantReason reason) REQUIRES(lock);
    // Frees the record, and what only it keeps from being free.  On failure it keeps the rest.
    Result<> settle_record(InodeNo record) REQUIRES(lock);
    Result<> end_quarantine(InodeNo record) EXCLUDES(lock);
    void holder_ended(InodeNo record) EXCLUDES(lock);
    void look_again(InodeNo record) EXCLUDES(lock);
    bool maps_no_more(InodeNo record) REQUIRES_SHARED(lock);
    Result<> load_records() REQUIRES(lock);
    Result<> make_room() REQUIRES(lock);
    // Mappings of the file that may have outlived their grants.
    std::vector<InodeNo> lost_records(InodeNo file) REQUIRES_SHARED(lock);
    Result<std::vector<Holder>> lost_holders(InodeNo file) EXCLUDES(lock);
    // Their records are: nothing may be freed, so nothing may be written.
    std::atomic<bool> grants_damaged{false};
    struct LostHolder {
        Process process;
        InodeNo file;
        std::uint64_t generation = 0;
        GrantReason reason = GrantReason::server_died;
        bool ended = false;   // its pidfd said so
        HandleId handle = 0;  // with which it may still say that it has unmapped; 0 = none
        GrantId grant = 0;
    };
    std::map<std::uint64_t, LostHolder> quarantined GUARDED_BY(lock);  // by record
    std::optional<pm::Lender> lender;
    std::array<std::uint8_t, 16> boot_id{};

    // --- data
    Result<std::size_t> find_data(InodeNo ino, std::uint64_t offset, std::size_t size,
                                  std::vector<iovec> *pieces) EXCLUDES(lock);
    Result<bool> write_in_place(InodeNo ino, std::uint64_t offset, std::span<const std::byte> bytes,
                                bool kill) EXCLUDES(lock);
    Result<std::uint64_t> seek(InodeNo ino, std::uint64_t offset, bool data) EXCLUDES(lock);

    // --- size and space
    // Finishes an interrupted truncation or move: before anything changes the map.
    Result<> settle_trim(InodeNo ino) REQUIRES(lock);
    // One step of it.  True: nothing is left behind the file.
    Result<bool> trim_step(InodeNo ino) REQUIRES(lock);
    // Zeroes what written blocks hold in bytes [from, to), which the file is about to reach.
    Result<pm::Unfenced> zero_written(const core::Reader &reader, const media::Inode &inode,
                                      InodeNo ino, std::uint64_t from, std::uint64_t to);
    core::Goal goal_for(const core::Reader &reader, const media::Inode &inode, InodeNo ino,
                        std::uint64_t file_block, std::uint64_t blocks, const Caller &caller);
    // Whether moving others' data out of the way is worth trying: since the last time in vain, a
    // chunk's worth was freed.
    bool evacuations_help() const REQUIRES(lock) {
        return allocator->map().freed() >= evacuation_helps_at;
    }
    void no_evacuation_helps() REQUIRES(lock) {
        evacuation_helps_at = allocator->map().freed() + media::kChunkBlocks;
    }
    std::uint64_t evacuation_helps_at GUARDED_BY(lock) = 0;
    // An inode whose last name is gone and to which nobody refers.
    Result<> reap(InodeNo ino) REQUIRES(lock);
    void reap_or_park(InodeNo ino) EXCLUDES(lock);
    void go_on(std::shared_ptr<Operation> operation) EXCLUDES(lock);
    // Frees the nodes of a tree that is empty of entries, or is not needed any more.
    Result<> clear_tree(InodeNo ino, media::TreeKind kind) REQUIRES(lock);
    Result<bool> clear_tree_step(InodeNo ino, media::TreeKind kind) REQUIRES(lock);

    // --- the superblock: grow.cc
    Result<> may_tune(const Caller &caller) const;
    Result<> grow_medium(std::uint64_t blocks) EXCLUDES(lock) REQUIRES(superblock_run);
    Result<> grow(std::uint64_t blocks) EXCLUDES(lock) REQUIRES(superblock_run);
    Mutex superblock_run;  // one change of the superblock at a time; outside `commit_run`

    // --- names
    static Result<> orphan(core::Change &change, InodeNo ino, media::Inode *inode);
    Result<Attr> lookup_number(InodeNo ino) REQUIRES_SHARED(lock);
    Result<core::NewInode> new_inode(core::Change &change, const media::Inode &dir, InodeNo dir_ino,
                                     std::uint64_t group, std::uint32_t mode, const Caller &caller);

    // --- group commits (image files): commit.cc
    void commit_loop();
    Result<> commit_now(bool checkpoint) EXCLUDES(lock, commit_run);
    Result<> commit_held(bool checkpoint) EXCLUDES(lock) REQUIRES(commit_run);
    void stop_commits();
    // seal, unseal, prepare and grants are durable when they return.
    Result<> make_durable() EXCLUDES(lock);
    // Runs `again` on another thread: on an image file behind a checkpoint.
    void parked_later(std::function<void()> again);
    void drop_parked();

    std::atomic<bool> data_dirty{false};  // written since the last group commit began
    Mutex commit_run;                     // one group commit at a time
    Mutex queue_mutex;
    CondVar queue_changed;
    bool stopping GUARDED_BY(queue_mutex) = false;
    std::vector<Completion> syncing GUARDED_BY(queue_mutex);
    std::vector<std::function<void()>> parked GUARDED_BY(queue_mutex);
    std::thread commit_thread;

    std::atomic<std::uint64_t> resumed{0};
    FairPool pool{"pmfs-operation", 4};
    Caretaker caretaker;  // last: its thread ends first
};

}  // namespace pmfs
