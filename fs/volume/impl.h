// What a volume consists of, and the steps that its operations share.  Included by fs/volume only.
#pragma once
#include <atomic>
#include <map>
#include <thread>
#include <type_traits>

#include "base/errors.h"
#include "base/fair_pool.h"
#include "base/mutex.h"
#include "core/alloc.h"
#include "core/change.h"
#include "core/epoch.h"
#include "core/extent_map.h"
#include "core/inode.h"
#include "holders/holders.h"
#include "holders/live.h"
#include "journal/journal.h"
#include "volume/claims.h"
#include "volume/scheduler.h"
#include "volume/volume.h"

namespace pmfs {

inline std::uint64_t blocks_up(std::uint64_t bytes) {
    return (bytes + media::kBlockSize - 1) / media::kBlockSize;
}

class Volume::Impl final : public VolumeSide {
public:
    Impl(std::unique_ptr<pm::Region> region, const media::Superblock &superblock,
         const MountOptions &options);
    ~Impl() override;

    std::unique_ptr<pm::Region> region;
    const media::Superblock superblock;
    std::uint64_t superblock_from = 0;  // block; not 0: a copy stands in for a damaged one
    const MountOptions options;
    std::unique_ptr<journal::Journal> journal;
    std::unique_ptr<core::Allocator> allocator;
    std::unique_ptr<core::Core> core;
    LiveTable live;

    // Shared: lookups.  Exclusive: whatever makes a Change.  File data is copied without it.
    SharedMutex lock{Blocking::never};
    core::Epochs readers;  // of file data, and writers in place
    Claims file_claims;
    Scheduler scheduler{lock, file_claims};
    // Goes on with operations that waited, on threads of its own; by the user and inode, fairly.
    void resume(InodeNo ino, std::function<void()> again, std::uint32_t user);

    // --- open and recovery
    Result<> start();
    Result<> start_holders(const std::array<std::uint8_t, 16> &boot_id);
    void quiesce();
    Result<> finish_orphans() REQUIRES(lock);

    std::uint64_t leaving_blocks() REQUIRES_SHARED(lock);
    // EROFS where nothing may be written.
    Result<> writable() const override;

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

    // --- holders (holders/holders.h)
    // With the lock held: what the seal and the grants say to a change of the map.  kBreakErrno:
    // leases are in the way, and asking() asks them to go.
    Result<core::MapPermit> permit(InodeNo ino, const media::Inode &inode, core::Move move,
                                   std::uint64_t first, std::uint64_t end, const Caller &) {
        return holders->permit(ino, inode, move, first, end);
    }
    // Runs a body that takes the lock.  Behind it, leases that were in its way are asked to go.
    template <class Body>
    std::invoke_result_t<Body> asking(const Caller &caller, const Body &body) EXCLUDES(lock) {
        auto done = body();
        if (done.ok() || done.error().errno_value() != kBreakErrno) return done;
        const Error answer = holders->begin_break(done.error(), caller);
        if (!must_park(answer) && caller.progress != nullptr) caller.progress->drop();
        return answer;
    }

    // --- what holders ask of the volume (holders/ground.h): stores.cc
    Result<> unclaimed_held(InodeNo ino) override { return file_claims.respect(ino); }
    void wait_for_writers() override { readers.wait_for_readers(); }
    Result<> settle_trim_held(InodeNo ino) override;
    Result<> clear_map_held(InodeNo ino) override;
    Result<> stored_held(InodeNo ino, std::uint32_t uid) override;
    Result<> will_store_held(InodeNo ino, std::uint32_t uid) override;
    Result<> clear_behind_end_held(InodeNo ino) override;
    Result<> checkpoint() override { return commit_now(true); }
    // At close, for a step that must park.
    Result<> make_room() REQUIRES(lock);

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
    void reap_or_park(InodeNo ino) EXCLUDES(lock) override;
    void go_on(std::shared_ptr<Operation> operation) EXCLUDES(lock);
    // Frees the nodes of a tree that is empty of entries, or is not needed any more.
    Result<> clear_tree(InodeNo ino, media::TreeKind kind) REQUIRES(lock);
    Result<bool> clear_tree_step(InodeNo ino, media::TreeKind kind) REQUIRES(lock);

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
    Result<> make_durable() EXCLUDES(lock) override;
    // Runs `again` on another thread: on an image file behind a checkpoint.
    void parked_later(std::function<void()> again) override { park(0, std::move(again)); }
    void park(std::uint32_t user, std::function<void()> again);
    void drop_parked();

    std::atomic<bool> data_dirty{false};  // written since the last group commit began
    Mutex commit_run;                     // one group commit at a time
    Mutex queue_mutex;
    CondVar queue_changed;
    bool stopping GUARDED_BY(queue_mutex) = false;
    std::vector<Completion> syncing GUARDED_BY(queue_mutex);
    struct Parked {
        std::uint32_t user = 0;
        std::function<void()> again;
    };
    std::vector<Parked> parked GUARDED_BY(queue_mutex);
    std::thread commit_thread;

    // What may take long, and what had to wait: fair by user and by file.
    FairPool workers{"pmfs-work", 8};
    std::atomic<std::uint64_t> resumed{0};
    std::unique_ptr<Holders> holders;

    AttributeWatcher *attribute_watcher = nullptr;
};

}  // namespace pmfs
