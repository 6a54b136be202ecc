// Inodes that are referenced, their open handles and their grants: the state that ends with the
// server.
//
// Guarded by locks of its own, one for each shard, taken inside the volume's lock or without it.
#pragma once
#include <array>
#include <atomic>
#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "base/ids.h"
#include "base/mutex.h"
#include "base/places.h"
#include "core/seal.h"
#include "holders/grants.h"
#include "holders/types.h"

namespace pmfs {

class LiveTable {
public:
    // `written_back`: the kernel keeps what is written through its cache, and the new size, until
    // later (-o writeback).
    explicit LiveTable(std::size_t grants_max, bool written_back = false)
        : written_back_(written_back),
          grants_share_(grants_max / 2),
          places_(grants_max),
          pin_places_(grants_max * kPinsEach) {}

    void reference(InodeNo ino, std::uint64_t count = 1);
    // Counts one only if it was looked up before; false: it was not.
    bool reference_known(InodeNo ino);
    bool referenced(InodeNo ino);
    // True when the inode has no reference and no name any more: reap it.
    bool forget(InodeNo ino, std::uint64_t count);
    // The last name was removed.  True when there is no reference either.
    bool mark_unlinked(InodeNo ino);
    // For a referenced inode: it was made without a name, and may be given one (`linkable`); it got
    // one; whether it may get one.
    void set_nameless(InodeNo ino, bool linkable);
    void set_named(InodeNo ino);
    bool linkable(InodeNo ino);
    // The digest of a sealed map is compared once while the inode is referred to.
    bool seal_checked(InodeNo ino);
    void set_seal_checked(InodeNo ino, bool checked);

    struct Counts {
        std::uint64_t cached = 0, cached_write = 0, direct = 0, direct_write = 0, grants = 0;
        std::uint64_t asked_write = 0;  // of cached_write: their kernel can be asked
        FileBlock dense_end;            // as set by dense_to()
    };
    Counts counts(InodeNo ino);
    // Several clients have it open, and the kernel of one of them notices a change only by its
    // time.
    bool shared(InodeNo ino);
    // File blocks before `end` were found to be allocated and written.  It is forgotten with the
    // last reference, and when blocks are removed (not_dense_from(), with the volume's lock held
    // exclusively).  False: it is forgotten already, because nobody holds the file.
    bool dense_to(InodeNo ino, FileBlock end);
    void not_dense_from(InodeNo ino, FileBlock first);

    struct Opened {
        HandleId handle;
        bool keep_cache;
    };
    // A cached handle is refused (nullopt) while there is a grant that stores.  A cached handle
    // that may write is also refused while there is a grant that may store or that freezes a map
    // with gaps, and with `written_back` while there is any grant.
    std::optional<Opened> open(InodeNo ino, const OpenRequest &request, bool direct_io);
    struct Released {
        InodeNo ino;
        bool reap = false;  // as forget()
        bool last_handle = false;
        bool leases_gone = false;  // the last breakable lease was its
        bool kept_back = false;    // the kernel kept its writes for a while
    };
    // The handle has no grants left except leases and grants that map nothing, and pins; these end.
    std::optional<Released> release(HandleId handle);
    std::optional<HandleInfo> handle(HandleId handle);
    // Whether that thread has opened it with O_NONBLOCK: one of the last handles is its, and is so.
    bool opened_nonblocking(InodeNo ino, const Caller &caller);
    std::vector<HandleInfo> handles(InodeNo ino);
    // Bytes [from, to) were written through this handle.  (The kernel's write-back has none, and
    // no reader can fill a page while it is under way.)
    struct Wrote {
        // The handle bypasses the kernel's cache, and pages with the old bytes may be in use there,
        // or in another client's.  Unused pages are dropped by the next cached open.
        bool past_cache = false;
        // It does not, and since the write before it the kernel was told to drop some of these
        // pages, and filled them again: with bytes from before this write, as far as it can tell.
        // The second one: of its part of the last page (WrittenPages).
        bool refilled = false, refilled_part = false;
    };
    // `ended`: the write will be answered with what it has stored.  (If not, it is run again, or
    // the kernel gives up its pages.)  `thread`: whose write it is, as FUSE names it; 0: unknown.
    Wrote wrote(HandleId handle, ByteRange bytes, bool ended = true, std::uint32_t thread = 0);
    // The kernel that is notified is about to be told to drop these pages, while that thread waits
    // for the answer to a request (0: unknown); it has dropped them; it asks for bytes to fill
    // these.  (It sends one cached write to a file at a time.)  Until all pages have gone, an open
    // does not keep those from before a store that bypassed the cache.
    void pages_go(InodeNo ino, ByteRange pages, std::uint32_t thread = 0);
    void pages_gone(InodeNo ino, ByteRange pages);
    void pages_fill(InodeNo ino, ByteRange pages);

    // The kernel has written back pages of the file, and how often it has.
    void wrote_back(InodeNo ino);
    std::uint64_t write_backs(InodeNo ino);

    // --- grants
    core::Standing standing(InodeNo ino, FileBlock first = FileBlock(0),
                            FileBlock end = FileBlock(~0ull));
    // ... to an operation that leaves bound blocks where they are.
    core::Standing standing_around(InodeNo ino, FileBlock first, FileBlock end);
    // The first blocks at or behind `from` that pins bind to their place in the file; nothing:
    // none.
    std::optional<core::PinTable::Blocks> bound(InodeNo ino, FileBlock from);
    // Behind the last one of them; 0: none are.
    FileBlock bound_end(InodeNo ino);
    // Bound blocks were left behind the end of the file: they are freed with the last such pin.
    void bound_behind_end(InodeNo ino);
    std::vector<Grant> grants(InodeNo ino);
    std::vector<Grant> grants_of(HandleId handle);
    std::optional<Grant> grant(HandleId handle, GrantId id);
    // Grants that may store and have no record on the medium.
    std::vector<Grant> storing_unrecorded();
    // EBUSY: it stores, and cached handles are open; or it may store, freezes a map with gaps, or
    // the kernel writes back, and cached handles for writing are open.  EBADF: the handle is gone.
    // EUSERS: there are too many grants, or too many of this user; `lost` ones count as well.
    Result<> add_grant(InodeNo ino, const Grant &grant, Places::Elsewhere lost);
    void set_record(HandleId handle, GrantId id, InodeNo record, const Process &holder);
    // With the volume's lock held exclusively, where no cached handle is open.
    void begin_stores(HandleId handle, GrantId id);
    struct Dropped {
        InodeNo ino;
        Grant grant;
        bool reap = false;
        bool leases_gone = false;
        bool left_behind = false;  // unbound blocks are left behind the end
    };
    std::optional<Dropped> drop_grant(HandleId handle, GrantId id);
    std::vector<Grant> ask_leases(InodeNo ino);
    // True: the record's grant is still valid, and its holder is about to get a descriptor; code
    // that ends the grant sees that in `lendings`.  False: the grant has ended.
    bool note_lent(HandleId handle, GrantId id, InodeNo record);
    GrantId next_grant_id() { return grant_ids_.fetch_add(1) + 1; }

    // --- pins.  ENOMEM: the user would be charged more than `limit` bytes, on all files together.
    // EUSERS: there are too many pins (kPinsEach for each grant).  EBUSY: the kernel writes back,
    // and cached handles for writing are open.  `counted`: it maps nothing, and so is not counted
    // among the grants.  `bound`: see Grant.
    static constexpr std::size_t kPinsEach = 16;
    Result<GrantId> pin(InodeNo ino, core::PinTable::Pin pin, std::uint64_t limit, bool counted,
                        bool bound);
    bool unpin(HandleId handle, GrantId pin, bool bound = false);
    std::vector<Holder> pins(InodeNo ino);

private:
    // Pages that the kernel was told to drop since its last cached write, and what it filled again.
    struct Drops {
        unsigned going = 0;          // drops under way
        bool alone = false;          // no other one was under way at the same time as the last
        bool covers_stores = false;  // none was made past the cache since the last began
        ByteRange dropped;
        ByteRanges filled, filled_before;  // since the last drop began, and earlier
        // The thread that waited for all of the drops; 0: it is unknown, or there were several.
        std::uint32_t thread = 0;
        bool any() const { return going != 0 || !dropped.empty(); }
    };
    struct Inode {
        std::uint64_t lookups = 0;
        std::uint64_t cached = 0, cached_write = 0, direct = 0, direct_write = 0, asked_write = 0;
        std::uint64_t write_backs = 0;
        std::uint64_t untold = 0;  // of clients whose kernels cannot be told of changes
        FileBlock dense_end;
        HandleId first_handle = 0;  // of its list; 0 = none
        bool unlinked = false;
        bool linkable = false;  // has no name yet, and may get one
        bool seal_checked = false;
        bool stored_directly = false;  // bypassing the cache, since all pages were dropped
        bool bound_behind_end = false;
        Drops drops;
        InodeGrants grants;

        bool idle() const { return lookups == 0 && cached == 0 && direct == 0 && grants.empty(); }
    };
    struct OpenHandle : HandleInfo {
        HandleId previous = 0, next = 0;  // of the same inode; 0 = none
    };
    static constexpr ByteRange kWhole{0, ~std::uint64_t{0}};
    static constexpr std::size_t kShards = 16;
    struct Shard {
        Mutex mutex;
        std::unordered_map<std::uint64_t, Inode> inodes GUARDED_BY(mutex);
        std::unordered_map<HandleId, OpenHandle> handles GUARDED_BY(mutex);
    };
    Shard &shard_of(std::uint64_t ino_or_handle) { return shards_[ino_or_handle % kShards]; }
    // Forgets an idle inode; true when it is to be reaped.
    bool drop_if_idle(Shard &shard, InodeNo ino) REQUIRES(shard.mutex);
    void end_drops(Inode &inode);
    static void note_direct_store(Inode &inode);
    static void enlist(Shard &shard, Inode &inode, OpenHandle handle) REQUIRES(shard.mutex);
    static void delist(Shard &shard, Inode &inode, const OpenHandle &handle) REQUIRES(shard.mutex);
    bool drop_pin(Inode &inode, HandleId handle, std::uint64_t number, bool bound);
    Result<> charge(const core::PinTable::Pin &pin, std::uint64_t blocks, std::uint64_t limit)
        EXCLUDES(pins_mutex_);
    void discharge(std::uint32_t uid, std::uint64_t blocks, bool counted) EXCLUDES(pins_mutex_);
    // The inode and the grant; null: the handle or the grant is gone.
    static Inode *inode_of(Shard &shard, HandleId handle) REQUIRES(shard.mutex);
    static Grant *find_grant(Shard &shard, HandleId handle, GrantId id) REQUIRES(shard.mutex);
    std::optional<Grant> remove(Inode &inode, HandleId handle, GrantId id);
    // The kernel may have written data, or a size, that the server does not know yet.
    bool kept_back(const Inode &inode) const { return written_back_ && inode.cached_write != 0; }

    const bool written_back_;

    std::array<Shard, kShards> shards_;
    std::atomic<std::uint64_t> untold_{0};  // handles, of all inodes
    std::atomic<std::uint64_t> drops_{0};   // inodes with such
    std::atomic<std::uint64_t> handle_ids_{1};
    std::atomic<std::uint64_t> grant_ids_{0};
    Mutex places_mutex_;  // innermost, like the next one
    const std::size_t grants_share_;
    Places places_ GUARDED_BY(places_mutex_);  // of all grants but pins that map nothing
    Mutex pins_mutex_;
    Places pin_places_ GUARDED_BY(pins_mutex_);  // of pins that map nothing
    std::unordered_map<std::uint32_t, std::uint64_t> pinned_
        GUARDED_BY(pins_mutex_);  // uid -> blocks
};

}  // namespace pmfs
