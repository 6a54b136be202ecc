// A mounted volume: every operation of the filesystem, for all transports.
//
// Front ends translate words and decide nothing.  Every operation is atomic for metadata and size,
// and may be called by any thread.  On DAX media an operation is durable when it returns; on an
// image file it then survives the death of the server, and a power cut after fsync() or the next
// group commit.
//
// Errors are errno values for the kernel.  EUCLEAN: the media contradicts itself (run fsck.pmfs);
// EIO: the medium failed; EROFS: read-only, by choice or after damage; ETXTBSY: the block map is
// sealed (docs/seal.md); must_park(): see base/errors.h, and volume/progress.h.
//
// Lock order (outermost first): Engine::lock -> LiveTable shard -> Journal's -> none.
// Completions and sinks are called without it.
#pragma once
#include <sys/uio.h>

#include <array>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/file_descriptor.h"
#include "pm/region.h"
#include "volume/types.h"

namespace pmfs {

struct MountOptions {
    bool read_only = false;
    bool no_recovery = false;     // -o norecovery, with read_only: the journal is not replayed
    bool owner_may_seal = false;  // -o seal=owner
    bool sealed_direct = false;   // -o sealed_reads=direct
    // -o writeback: the kernel keeps what write(2) writes.  Seals and grants are EBUSY while a file
    // is open so.
    bool writeback = false;
    bool no_background = false;          // tests: no group-commit thread; call commit_group()
    unsigned commit_interval_ms = 5000;  // image files: longest time without a group commit
    // The most grants at a time, including those of quarantined holders: an eighth is reserved for
    // root, and no other user gets more than half.  Sixteen times as many pins that map nothing.
    std::size_t grants_max = 8192;
    // What holders of a file forbid is tried again so often before it is EBUSY, first after a
    // millisecond, then after twice the time before (see kCloseErrno).
    unsigned close_waits = 6;
    unsigned lease_break_ms = 45000;         // how long a lease's holder may take to give it back
    std::optional<std::uint64_t> pin_quota;  // bytes a user may pin; default: its RLIMIT_MEMLOCK
    ProcessView processes;
    std::function<bool()> park_hook;           // tests: Journal::set_park_hook
    std::function<bool(BlockNo)> absent_hook;  // tests: Blocks::set_absent_hook
    // Tests: the kernel boot that this mount pretends to live in.
    std::optional<std::array<std::uint8_t, 16>> boot_id;
};

class Volume {
public:
    // Replays the journal, finishes interrupted operations and opens the volume.  EINVAL: not a
    // pmfs volume; ENOTSUP: a newer major version or an unknown incompat feature; EUCLEAN: damaged
    // beyond a mount.  Cost: O(groups).
    static Result<std::unique_ptr<Volume>> open(std::unique_ptr<pm::Region> region,
                                                const MountOptions &options);
    // close() makes everything durable and marks the volume clean; the destructor alone does not
    // (that is like a crash, which loses nothing that had returned).
    Result<> close();
    // Ends the threads; call it before close(), and before destroying objects that operations refer
    // to (a broker).  Operations that wait for a checkpoint run; those that wait for leases, or
    // that wait later, are dropped.
    void quiesce();
    ~Volume();

    // --- names.  lookup, make and link count one reference on the inode; forget() returns
    // references.  `.` finds any file by its number (ESTALE: there is none), for exported handles.
    Result<Attr> lookup(InodeNo dir, std::string_view name);
    void forget(InodeNo ino, std::uint64_t count);
    // ESTALE unless `ino` is a file that has a name: only these may be found by their number alone
    // (a handle of open_by_handle_at(2)).
    Result<> check_named(InodeNo ino);
    Result<Attr> make(InodeNo dir, std::string_view name, std::uint32_t mode, std::uint64_t rdev,
                      const Caller &caller);  // any type but a symlink, by mode's S_IFMT
    Result<Attr> symlink(InodeNo dir, std::string_view name, std::string_view target,
                         const Caller &caller);
    Result<Attr> link(InodeNo ino, InodeNo dir, std::string_view name,
                      Progress *progress = nullptr);
    // A regular file without a name, opened (O_TMPFILE).  Counts one reference.  It is freed with
    // the last reference, or when the server ends, unless it is `linkable` and link() names it.
    Result<Attr> create_nameless(InodeNo dir, std::uint32_t mode, bool linkable,
                                 const OpenRequest &request, OpenReply *reply);
    // *removed: the inode of the removed name.
    Result<> unlink(InodeNo dir, std::string_view name, InodeNo *removed = nullptr);
    Result<> rmdir(InodeNo dir, std::string_view name, InodeNo *removed = nullptr);
    // flags: RENAME_NOREPLACE, RENAME_WHITEOUT, both, or RENAME_EXCHANGE; others EINVAL.  A
    // whiteout (a character device 0:0 under the old name) is `caller`'s.
    Result<> rename(InodeNo from, std::string_view from_name, InodeNo to, std::string_view to_name,
                    unsigned flags, Renamed *renamed = nullptr, const Caller &caller = {});
    Result<std::string> readlink(InodeNo ino);
    // Entries after `cookie` (0 = from the start), `.` and `..` included.
    Result<> readdir(InodeNo dir, std::uint64_t cookie, const DirSink &sink);

    // --- attributes
    Result<Attr> getattr(InodeNo ino);
    Result<Attr> setattr(InodeNo ino, const SetAttr &set, const Caller &caller);

    // chattr(1), of files and directories (others: EOPNOTSUPP).  The kernel has checked
    // CAP_LINUX_IMMUTABLE and written the file's pages back.  EBUSY: the file would become
    // immutable or append-only, and there is a grant that may store.  May wait for a disk.
    Result<FileFlags> file_flags(InodeNo ino);
    Result<> set_file_flags(InodeNo ino, const FileFlags &flags, Progress *progress = nullptr);

    // --- open files.  A handle keeps the inode's blocks; release ends its grants.
    Result<OpenReply> open_file(InodeNo ino, const OpenRequest &request);
    // Whether the caller's thread has opened it last with O_NONBLOCK.  (For O_TRUNC, which the
    // kernel makes a request of its own, without a handle, right after OPEN.)
    bool opened_nonblocking(InodeNo ino, const Caller &caller);
    void release(HandleId handle);
    // make() and open_file() in one, for FUSE_CREATE; counts one reference.
    Result<Attr> create(InodeNo dir, std::string_view name, std::uint32_t mode,
                        const OpenRequest &request, OpenReply *reply);

    // --- data.  The sink gets pieces of the region itself (and of zeroes for holes), valid only
    // during the call.  Returns bytes, fewer at the end of the file.
    using ReadSink = std::function<void(std::span<const iovec>)>;
    Result<std::size_t> read(InodeNo ino, std::uint64_t offset, std::size_t size,
                             const ReadSink &sink);
    // A seal or a grant refuses it as a whole; on a volume that becomes full the part that fits is
    // written, unless the kernel writes pages back.  kill_suid_sgid as in SetAttr.  *stale is set
    // in any case.
    Result<std::size_t> write(InodeNo ino, std::uint64_t offset, const Pieces &bytes,
                              bool kill_suid_sgid, const Caller &caller, Stale *stale = nullptr);
    // The kernel is about to be told to drop the pages of these bytes, while that thread (as
    // Caller::pid) waits for an answer; it has dropped them; it reads to fill these pages, which is
    // to be said before read().  (A write through its cache that is on its way comes too late for
    // whoever fills them again: write() says so, in Stale::refilled.)
    void pages_go(InodeNo ino, ByteRange pages, std::uint32_t thread = 0);
    void pages_gone(InodeNo ino, ByteRange pages);
    void pages_fill(InodeNo ino, ByteRange pages);
    // How often the kernel has written back pages of the file since it is known.
    std::uint64_t write_backs(InodeNo ino);
    // `done` may be called before it returns (DAX media: always) or later by the commit thread.
    void fsync(InodeNo ino, Completion done);
    // The modes of fallocate(2) that FUSE forwards, and the two of docs/seal.md.
    Result<> fallocate(HandleId handle, InodeNo ino, unsigned mode, std::uint64_t offset,
                       std::uint64_t length, const Caller &caller, Stale *stale = nullptr);
    // From which byte on the kernel may hold stores that the volume has not seen, because no block
    // was needed for them yet: the file has holes or unwritten blocks there, and is open for cached
    // writing.  Nothing: the map is complete.  O(1), except for extents that it has not read
    // before.
    Result<std::optional<std::uint64_t>> unseen_from(InodeNo ino);
    // Whether it may hold some anywhere that this handle, which bypasses the cache, does not see.
    bool unseen_by(HandleId handle);
    // Whether reads and writes by it bypass the kernel's cache.
    bool past_cache(HandleId handle);
    Result<std::uint64_t> seek_data(InodeNo ino, std::uint64_t offset);
    Result<std::uint64_t> seek_hole(InodeNo ino, std::uint64_t offset);

    // --- xattrs: names with their prefix.  flags: 0, XATTR_CREATE, XATTR_REPLACE.
    // pmfs.seal in `trusted.` and `user.` is an interface to the seal (docs/seal.md); it is not
    // listed.  An access control list (core/acl.h) also sets the mode; drop_setgid: the caller may
    // not keep the set-group-ID bit.
    Result<> setxattr(InodeNo ino, std::string_view name, std::span<const std::byte> value,
                      int flags, const Caller &caller, bool drop_setgid = false);
    Result<std::vector<std::byte>> getxattr(InodeNo ino, std::string_view name);
    // Names, each ended by a zero byte.  `trusted`: those of trusted.* as well.
    Result<std::string> listxattr(InodeNo ino, bool trusted = true);
    Result<> removexattr(InodeNo ino, std::string_view name, const Caller &caller);

    // --- seals (docs/seal.md).  seal, unseal, prepare and take_grant are durable when they return;
    // on an image file that is an fdatasync, so call them on a thread that may wait.  bad_offset:
    // with EINVAL, the first offset in bytes that does not meet the requirements.  `privileged`:
    // the request came through an interface that needs CAP_SYS_ADMIN (trusted.*).
    Result<> seal(InodeNo ino, SealLevel level, const Caller &caller, bool privileged,
                  std::uint64_t *bad_offset);
    Result<> unseal(InodeNo ino, const Caller &caller, bool privileged);
    // Allocates, writes zeroes to unwritten blocks, and aligns to units of `unit` bytes (0 = 2 MiB
    // where the file is that large, else the volume's mapping unit).  May be called again after an
    // interruption.  length 0 = to the end.
    Result<> prepare(InodeNo ino, std::uint64_t offset, std::uint64_t length, std::uint64_t unit,
                     const Caller &caller);
    // Does the same, and makes one extent of the range, in whole chunks of 2 MiB: one for each
    // kContiguousMax of it, from its beginning on.  Bytes behind the end of the file become zero.
    // ENOSPC: there is no place where so many chunks in a row are free or can be emptied.
    static constexpr std::uint64_t kContiguousMax =  // a group's first chunk has metadata
        (media::kGroupChunks - 1) * media::kChunkSize;
    Result<> prepare_contiguous(InodeNo ino, std::uint64_t offset, std::uint64_t length,
                                const Caller &caller);
    // Between the steps of a long scan the file does not change: see kClaimErrno.
    Result<FileInfo> file_info(InodeNo ino, Progress *progress = nullptr);
    // Extents from `from` on; fewer than out.size() = the end.
    Result<std::size_t> extents(InodeNo ino, FileBlock from, std::span<Extent> out);

    // --- grants.  One that maps has a record on the medium until it is dropped.
    Result<GrantId> take_grant(HandleId handle, const GrantRequest &request, const Caller &caller,
                               std::uint64_t *bad_offset);
    // The holder gives it back, and does not map any more.
    Result<> drop_grant(HandleId handle, GrantId grant);
    // Ends a grant that its holder did not give back: if it maps, and its process may be alive, its
    // blocks are quarantined.
    void lose_grant(HandleId handle, GrantId grant);
    // Root ends grants of any holder: the one with that id or (0) all, those of one process or (0)
    // of all.  Gives how many.  EPERM; ENOENT: there is none.  May wait for the journal.
    Result<std::uint64_t> revoke(InodeNo ino, GrantId id, std::uint32_t pid, const Caller &caller);
    // From now on another process than its taker holds it.
    Result<> adopt_grant(HandleId handle, GrantId grant, const Caller &holder);
    // The holder of a grant that `announces` its stores is about to store.  May wait for the
    // journal.
    Result<> begin_stores(HandleId handle, GrantId grant, Progress *progress = nullptr);
    // A descriptor of the device for the holder of a grant that maps, and only for it: the kernel
    // tells when the descriptor and all its mappings are gone.  Once for each grant.  EOPNOTSUPP:
    // the medium does not support that; then use any descriptor.
    Result<FileDescriptor> lend_device(HandleId handle, GrantId grant);
    Result<std::vector<Holder>> holders(InodeNo ino);
    // Milliseconds until a lease that is being broken is lost; 0: it is not being broken.
    std::uint32_t lease_time_left(HandleId handle, GrantId grant);
    // Null: none.  When it returns, the previous watcher is not called any more.
    void set_watcher(GrantWatcher *watcher);
    // Before the first operation; it stays until the volume is closed.
    void set_attribute_watcher(AttributeWatcher &watcher);
    // So many rows from number `from` on.  `next`: the number of the row behind them, 0: none.
    Result<std::vector<Quarantined>> quarantine(std::uint64_t from = 0,
                                                std::size_t count = ~std::size_t{0},
                                                std::uint64_t *next = nullptr);
    Result<QuarantineTotal> quarantine_total();
    // EPERM: root only; ENOENT.
    Result<> release_quarantine(std::uint64_t id, const Caller &caller);
    // How a handle was opened.  EBADF: there is no such handle.
    Result<HandleInfo> handle_info(HandleId handle);
    Result<std::vector<HandleInfo>> handles(InodeNo ino);

    // --- the volume
    VolumeInfo info();
    // Grows the volume on its medium, up to `size` bytes (0: all of it), in whole chunks, and
    // reports the sizes, also on failure.  It is no error if the medium is not larger.  Durable
    // when it returns.  EPERM: root only; EROFS; EUCLEAN; EINVAL: smaller than it is; ENOSPC: the
    // medium is not that large; EOPNOTSUPP, ENOMEM: only possible after the volume was mounted
    // again.
    Result<> grow(std::uint64_t size, const Caller &caller, Growth *growth);
    // Sets the reserve for root, in ten-thousandths of the volume; in effect at once, and durable.
    Result<std::uint32_t> root_reserve();
    // EPERM, EROFS, EUCLEAN; EINVAL: more than half.
    Result<> set_root_reserve(std::uint32_t reserve, const Caller &caller);
    Result<> chunks(ChunkNo first, std::span<ChunkInfo> out);
    // Moves data out of partly used chunks of the group `from` that are at most three quarters
    // full, for a part of a second; a call empties at least one, unless there is none left in the
    // group.  EPERM: root only.
    Result<Compacted> compact(GroupNo from, const Caller &caller);
    const pm::Region &region() const;

    // --- durability
    // For an operation that must_park(), called by the thread that got `why` from it: `again` runs
    // on another thread after a checkpoint, or when the leases that it waits for are gone.  `user`:
    // whose operation it is, so that no user keeps all threads busy.
    void when_ready(const Error &why, std::function<void()> again, std::uint32_t user = 0);
    // Runs `work` on a thread for what may take long or wait for a disk: a bounded number of them,
    // fair by user and by file, and half of them for what is `lengthy` at most.  Without background
    // threads: at once.
    void run_later(std::uint32_t user, std::uint64_t file, bool lengthy,
                   std::function<void()> work);
    // Tests without background threads: runs what waited for a time, a lease or a process.
    void tend(std::uint64_t now_ns);
    // One group commit and checkpoint, now and by this thread (image files; otherwise nothing).
    Result<> commit_group();

private:
    struct Parts;  // parts.h
    Result<> seal_by_fallocate(HandleId handle, InodeNo ino, unsigned mode, std::uint64_t offset,
                               std::uint64_t length, const Caller &caller);
    Result<> check_seal(InodeNo ino, const Caller &caller);
    Result<> change_acl(InodeNo ino, std::string_view name, ConstBytes value, bool drop_setgid,
                        Progress *progress);
    Result<bool> truncate_by_open(InodeNo ino, const OpenRequest &request);
    Result<Attr> open_new(Attr attr, const OpenRequest &request, OpenReply *reply);
    Result<Attr> set_attributes(InodeNo ino, const SetAttr &set, const Caller &caller,
                                bool *killed);
    explicit Volume(std::unique_ptr<Parts> parts);
    std::unique_ptr<Parts> parts_;
};

}  // namespace pmfs
