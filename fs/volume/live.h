// Inodes that somebody refers to, their open handles and their grants: what dies with the server.
//
// Guarded by locks of its own, a shard each, taken inside the volume's lock or without it.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "base/ids.h"
#include "base/mutex.h"
#include "core/seal.h"
#include "volume/types.h"

namespace pmfs {

class LiveTable {
public:
    void reference(InodeNo ino, std::uint64_t count = 1);
    // True when nobody refers to the inode any more, and its last name is gone: reap it.
    bool forget(InodeNo ino, std::uint64_t count);
    // The last name is gone.  True when nobody refers to it either.
    bool mark_unlinked(InodeNo ino);
    bool referenced(InodeNo ino);
    // The digest of a sealed map is compared once while the inode is referred to.
    bool seal_checked(InodeNo ino);
    void set_seal_checked(InodeNo ino, bool checked);

    struct Counts {
        std::uint64_t cached = 0, cached_write = 0, direct = 0, grants = 0;
        bool storing = false;  // a grant that may store is alive
    };
    Counts counts(InodeNo ino);

    struct Opened {
        HandleId handle;
        bool keep_cache;
    };
    // A cached handle is refused (nullopt) while a grant that may store is alive.
    std::optional<Opened> open(InodeNo ino, bool write, bool direct_io, const Caller &opener);
    struct Released {
        InodeNo ino;
        bool reap = false;  // as forget()
        bool last_handle = false;
    };
    std::optional<Released> release(HandleId handle);
    std::optional<HandleInfo> handle(HandleId handle);
    std::vector<HandleInfo> handles(InodeNo ino);

    std::vector<core::Grant> grants(InodeNo ino);
    // False when cached handles are open and the grant may store, unless `cached_ok`.
    bool add_grant(InodeNo ino, const core::Grant &grant, bool cached_ok);
    struct Dropped {
        InodeNo ino;
        bool reap = false;
    };
    std::optional<Dropped> drop_grant(HandleId handle, GrantId grant);
    GrantId next_grant_id() { return grant_ids_.fetch_add(1) + 1; }

private:
    struct Inode {
        std::uint64_t lookups = 0;
        std::uint64_t cached = 0, cached_write = 0, direct = 0;
        bool unlinked = false;
        bool seal_checked = false;
        bool stored_directly = false;  // since the last cached open
        std::vector<core::Grant> grants;

        bool idle() const { return lookups == 0 && cached == 0 && direct == 0 && grants.empty(); }
    };
    static constexpr std::size_t kShards = 16;
    struct Shard {
        Mutex mutex;
        std::unordered_map<std::uint64_t, Inode> inodes GUARDED_BY(mutex);
        std::unordered_map<HandleId, HandleInfo> handles GUARDED_BY(mutex);
    };
    Shard &shard_of(std::uint64_t ino_or_handle) { return shards_[ino_or_handle % kShards]; }
    // Forgets an idle inode; true when it is to be reaped.
    static bool drop_if_idle(Shard &shard, InodeNo ino) REQUIRES(shard.mutex);

    std::array<Shard, kShards> shards_;
    std::atomic<std::uint64_t> handle_ids_{1};
    std::atomic<std::uint64_t> grant_ids_{0};
};

}  // namespace pmfs
