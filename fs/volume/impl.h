// What a volume consists of, and the steps that its operations share.  Included by fs/volume only.
#pragma once
#include <atomic>
#include <deque>
#include <thread>

#include "base/errors.h"
#include "base/mutex.h"
#include "core/alloc.h"
#include "core/change.h"
#include "core/extent_map.h"
#include "core/inode.h"
#include "journal/journal.h"
#include "volume/live.h"
#include "volume/volume.h"

namespace pmfs {

class Volume::Impl {
public:
    Impl(std::unique_ptr<pm::Region> region, const media::Superblock &superblock,
         const MountOptions &options);
    ~Impl();

    std::unique_ptr<pm::Region> region;
    const media::Superblock superblock;
    const MountOptions options;
    std::unique_ptr<journal::Journal> journal;
    std::unique_ptr<core::Allocator> allocator;
    std::unique_ptr<core::Core> core;
    LiveTable live;

    // Shared: lookups, reads, overwrites in place.  Exclusive: whatever makes a Change.
    SharedMutex lock;

    // --- open and recovery
    Result<> start();
    Result<> finish_orphans() REQUIRES(lock);

    // EROFS where nothing may be written.
    Result<> writable() const;

    // --- attributes
    Attr attr_of(InodeNo ino, const media::Inode &inode) const;
    static void touch(media::Inode *inode, bool mtime);
    static bool has_setid(std::uint32_t mode);
    static void kill_setid(media::Inode *inode);
    Result<> drop_capability(InodeNo ino) REQUIRES(lock);

    Result<> check_seal(InodeNo ino, const media::Inode &inode) REQUIRES_SHARED(lock);

    // --- size and space
    // Finishes an interrupted truncation or move: before anything changes the map.
    Result<> settle_trim(InodeNo ino) REQUIRES(lock);
    Result<> set_size(InodeNo ino, std::uint64_t size) REQUIRES(lock);
    // Zeroes what written blocks hold in bytes [from, to), which the file is about to reach.
    Result<pm::Unfenced> zero_written(const core::Reader &reader, const media::Inode &inode,
                                      InodeNo ino, std::uint64_t from, std::uint64_t to);
    core::Goal goal_for(const core::Reader &reader, const media::Inode &inode, InodeNo ino,
                        std::uint64_t file_block, std::uint64_t blocks);
    // An inode whose last name is gone and to which nobody refers.
    Result<> reap(InodeNo ino) REQUIRES(lock);
    void reap_or_park(InodeNo ino) EXCLUDES(lock);

    // --- names
    Result<core::NewInode> new_inode(core::Change &change, const media::Inode &dir, InodeNo dir_ino,
                                     std::uint32_t mode, const Caller &caller);

    // --- group commits (image files): commit.cc
    void commit_loop();
    Result<> commit_now(bool checkpoint) EXCLUDES(lock);
    void stop_commits();
    // seal, unseal, prepare and grants are durable when they return.
    Result<> make_durable() EXCLUDES(lock);

    std::atomic<bool> data_dirty{false};  // written since the last group commit began
    Mutex commit_run;                     // one group commit at a time
    Mutex queue_mutex;
    CondVar queue_changed;
    bool stopping GUARDED_BY(queue_mutex) = false;
    std::vector<Completion> syncing GUARDED_BY(queue_mutex);
    std::vector<std::function<void()>> parked GUARDED_BY(queue_mutex);
    std::thread commit_thread;
};

}  // namespace pmfs
