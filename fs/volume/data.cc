// Reading and writing file data.
//
// Reads and overwrites in place hold the volume's lock shared.  All that changes the map, the size
// or the times is a change: one transaction for each contiguous piece, front to back, so that an
// interrupted write is a prefix.
#include <sys/stat.h>

#include <algorithm>

#include "core/xattr.h"
#include "volume/impl.h"

namespace pmfs {

using core::Change;
using core::Reader;
using core::Run;
using media::kBlockSize;

namespace {

constexpr std::size_t kZeroesSize = 1 << 20;
alignas(4096) const std::byte kZeroes[kZeroesSize] = {};

Result<const media::Inode *> read_file(const Reader &reader, InodeNo ino) {
    const auto *inode = TRY(core::read_inode(reader, ino));
    if (S_ISDIR(inode->mode.get())) return Error(EISDIR, "a directory");
    if (!S_ISREG(inode->mode.get())) return Error(EINVAL, "not a regular file");
    return inode;
}

struct Span {  // bytes of a file
    std::uint64_t from, to;
    std::uint64_t first_block() const { return from / kBlockSize; }
    std::uint64_t end_block() const { return (to + kBlockSize - 1) / kBlockSize; }
};

// Where an extent ends in the file.  A hole behind the last extent has no end that bytes can count.
std::uint64_t end_byte(const Extent &e) {
    constexpr std::uint64_t kEndless = ~std::uint64_t{0};
    return e.end() > kEndless / kBlockSize ? kEndless : e.end() * kBlockSize;
}

std::uint64_t device_byte(const Extent &e, std::uint64_t file_byte) {
    return e.start * kBlockSize + (file_byte - e.file_block * kBlockSize);
}

}  // namespace

Result<std::size_t> Volume::read(InodeNo ino, std::uint64_t offset, std::size_t size,
                                 const ReadSink &sink) {
    Impl &v = *impl_;
    SharedLock held(v.lock);
    const Reader reader(*v.core);
    const auto *inode = TRY(read_file(reader, ino));
    const std::uint64_t file_size = inode->size.get();
    if (offset >= file_size || size == 0) {
        sink({});
        return std::size_t{0};
    }
    const std::uint64_t end = std::min<std::uint64_t>(file_size, offset + size);
    thread_local std::vector<iovec> pieces;
    pieces.clear();
    for (std::uint64_t at = offset; at < end;) {
        const Extent e = TRY(core::find_extent(reader, *inode, ino, at / kBlockSize));
        std::uint64_t n = std::min(end, end_byte(e)) - at;
        const std::byte *from = kZeroes;
        if (e.hole() || e.unwritten) {
            n = std::min<std::uint64_t>(n, kZeroesSize);
        } else {
            from = v.region->data() + device_byte(e, at);
            if (v.region->lost(device_byte(e, at), n))
                return Error(EIO, "the medium lost a page of the file");
        }
        pieces.push_back({const_cast<std::byte *>(from), n});
        at += n;
    }
    sink(pieces);
    return static_cast<std::size_t>(end - offset);
}

namespace {

// An overwrite of written blocks inside the file: what needs no change.
class InPlace {
public:
    InPlace(Volume::Impl &v, InodeNo ino, Span span) : v_(v), ino_(ino), span_(span) {}

    // True when the write can go ahead under the shared lock.
    Result<bool> fits(const Reader &reader, const media::Inode &inode, bool kill) {
        if (span_.to > inode.size.get()) return false;
        if (kill && Volume::Impl::has_setid(inode.mode.get())) return false;
        if (inode.xattr_root.get() != 0 &&
            core::has_xattr(reader, inode, ino_, "security.capability"))
            return false;
        if (core::from_media(inode.mtime) != now_coarse()) return false;
        count_ = 0;
        for (std::uint64_t at = span_.from; at < span_.to;) {
            const Extent e = TRY(core::find_extent(reader, inode, ino_, at / kBlockSize));
            if (e.hole() || e.unwritten || e.shared || count_ == pieces_.size()) return false;
            const std::uint64_t n = std::min(span_.to, end_byte(e)) - at;
            pieces_[count_++] = {device_byte(e, at), n};
            at += n;
        }
        return true;
    }
    void write(std::span<const std::byte> bytes) {
        pm::Unfenced duty;
        for (std::size_t i = 0; i < count_; ++i) {
            duty.add(v_.journal->write_data(pieces_[i].at, bytes.first(pieces_[i].size)));
            bytes = bytes.subspan(pieces_[i].size);
        }
        v_.journal->persist(std::move(duty));
    }

private:
    struct Piece {
        std::uint64_t at, size;
    };
    Volume::Impl &v_;
    InodeNo ino_;
    Span span_;
    std::array<Piece, 16> pieces_;
    std::size_t count_ = 0;
};

}  // namespace

core::Goal Volume::Impl::goal_for(const Reader &reader, const media::Inode &inode, InodeNo ino,
                                  std::uint64_t file_block, std::uint64_t blocks) {
    // From 256 KiB on a file gets chunks of its own.
    constexpr std::uint64_t kLargeBlocks = 64;
    core::Goal goal;
    goal.file_block = file_block;
    goal.owner = ino.value();
    goal.large = file_block + blocks >= kLargeBlocks;
    if (file_block == 0) return goal;
    const auto before = core::last_extent(reader, inode, ino, file_block - 1);
    if (!before.ok() || before.value().hole()) return goal;
    const Extent &e = before.value();
    goal.near = e.start + (file_block - e.file_block);
    return goal;
}

// Bytes [from, to) are about to be inside the file; whatever written blocks hold there must read
// as zeroes.
Result<pm::Unfenced> Volume::Impl::zero_written(const Reader &reader, const media::Inode &inode,
                                                InodeNo ino, std::uint64_t from, std::uint64_t to) {
    pm::Unfenced duty;
    while (from < to) {
        const auto found = core::next_extent(reader, inode, ino, from / kBlockSize);
        if (!found.ok()) {
            journal->persist(std::move(duty));
            return found.error();
        }
        const Extent &e = found.value();
        if (e.hole() || e.file_block * kBlockSize >= to) break;
        from = std::max(from, e.file_block * kBlockSize);
        const std::uint64_t end = std::min(to, end_byte(e));
        if (!e.unwritten) duty.add(journal->zero_data(device_byte(e, from), end - from));
        from = end;
    }
    return duty;
}

namespace {

// One write that changes metadata, under the exclusive lock.
class Writer {
public:
    Writer(Volume::Impl &v, InodeNo ino, Span span, std::span<const std::byte> bytes, bool kill,
           const Caller &caller, Stale *stale)
        : v_(v),
          ino_(ino),
          span_(span),
          bytes_(bytes),
          kill_(kill),
          caller_(caller),
          stale_(stale) {}

    // All or nothing: nothing is written unless the seal allows every part of the write.
    Result<> ask_seal() {
        const Reader reader(*v_.core);
        const auto *inode = TRY(core::read_inode(reader, ino_));
        const std::uint64_t first = span_.first_block(), end = span_.end_block();
        if (span_.to > inode->size.get())
            TRY(v_.permit(ino_, *inode, core::Move::grow, first, end, caller_));
        for (std::uint64_t at = first; at < end;) {
            const Extent e = TRY(core::find_extent(reader, *inode, ino_, at));
            if (e.hole() || e.unwritten || e.shared)
                TRY(v_.permit(ino_, *inode, core::Move::allocate, at, std::min(e.end(), end),
                              caller_));
            at = e.end();
        }
        return {};
    }

    Result<std::size_t> run() {
        for (std::uint64_t at = span_.from; at < span_.to;) {
            auto next = piece(at);
            if (!next.ok()) {
                // What is written is written; the rest is the next call's error.
                if (next.error().errno_value() == ENOSPC && at > span_.from &&
                    !caller_.written_back)
                    return static_cast<std::size_t>(at - span_.from);
                return next.error();
            }
            at = next.value();
        }
        return static_cast<std::size_t>(span_.to - span_.from);
    }

private:
    // Writes from `at` as far as one transaction goes; returns where the next one begins.
    Result<std::uint64_t> piece(std::uint64_t at) {
        const std::uint64_t block = at / kBlockSize, end_block = span_.end_block();
        const Reader reader(*v_.core);
        const auto *was = TRY(core::read_inode(reader, ino_));
        const Extent e = TRY(core::find_extent(reader, *was, ino_, block));
        const std::uint64_t upto = std::min(e.end(), end_block);
        const bool allocate = e.hole(), convert = !e.hole() && e.unwritten;
        const std::uint64_t in_place_end = std::min(span_.to, upto * kBlockSize);
        if (touched_ && !allocate && !convert && in_place_end <= was->size.get()) {
            // No record: a write that waits for room goes over what it wrote before, and must not
            // fill the journal with that.
            v_.journal->persist(v_.journal->write_data(device_byte(e, at), part(at, in_place_end)));
            return in_place_end;
        }
        if (allocate || convert) TRY(core::map_make_room(*v_.core, ino_, block, 2));
        if (convert) TRY(core::map_make_room(*v_.core, ino_, upto, 2));

        Change change(*v_.core);
        TRY(change.begin());
        auto *inode = TRY(core::edit_inode(change, ino_));
        const std::uint64_t old_size = inode->size.get();
        if (span_.from > old_size)
            change.after(TRY(v_.zero_written(reader, *was, ino_, old_size, span_.from)));
        std::uint64_t end;
        if (allocate || convert) {
            const auto permit =
                TRY(v_.permit(ino_, *inode, core::Move::allocate, block, upto, caller_));
            Run run{e.start + (block - e.file_block), upto - block};
            if (allocate) {
                run = TRY(v_.allocator->take_data(
                    change, v_.goal_for(reader, *was, ino_, block, end_block - block),
                    upto - block));
                TRY(core::map_insert(change, inode, ino_,
                                     {block, run.start, run.blocks, false, false}, permit));
                inode->blocks.set(inode->blocks.get() + run.blocks);
            } else {
                TRY(core::map_set_written(change, inode, ino_, block, upto, permit));
            }
            end = std::min(span_.to, (block + run.blocks) * kBlockSize);
            fill_new(change, run, at, end);
        } else {
            end = in_place_end;
            change.after(v_.journal->write_data(device_byte(e, at), part(at, end)));
        }
        touched_ = true;
        if (end > old_size) inode->size.set(end);
        const std::uint32_t mode = inode->mode.get();
        if (kill_) Volume::Impl::kill_setid(inode);
        const bool killed = inode->mode.get() != mode;
        Volume::Impl::touch(inode, true);
        TRY(change.commit());
        stale_->attributes |= killed;
        return end;
    }

    // New blocks: what the write does not cover of its first and last one is zeroed.
    void fill_new(Change &change, const Run &run, std::uint64_t at, std::uint64_t end) {
        const std::uint64_t device = run.start * kBlockSize, head = at % kBlockSize;
        const std::uint64_t tail = device + run.blocks * kBlockSize;
        if (head != 0) change.after(v_.journal->zero_data(device, head));
        change.after(v_.journal->write_data(device + head, part(at, end)));
        const std::uint64_t written_to = device + head + (end - at);
        if (written_to < tail) change.after(v_.journal->zero_data(written_to, tail - written_to));
    }
    std::span<const std::byte> part(std::uint64_t at, std::uint64_t end) const {
        return bytes_.subspan(at - span_.from, end - at);
    }

    Volume::Impl &v_;
    InodeNo ino_;
    Span span_;
    std::span<const std::byte> bytes_;
    bool kill_;
    const Caller &caller_;
    Stale *stale_;
    bool touched_ = false;  // times and mode are those of this write
};

}  // namespace

Result<std::size_t> Volume::write(InodeNo ino, std::uint64_t offset,
                                  std::span<const std::byte> bytes, bool kill_suid_sgid,
                                  const Caller &caller, Stale *stale) {
    Impl &v = *impl_;
    Stale nobody_asks;
    if (stale == nullptr) stale = &nobody_asks;
    TRY(v.writable());
    if (offset > media::kFileSizeMax || bytes.size() > media::kFileSizeMax - offset)
        return Error(EFBIG, "a file has at most 2^50 bytes");
    if (bytes.empty()) return std::size_t{0};
    const Span span{offset, offset + bytes.size()};
    {
        SharedLock held(v.lock);
        const Reader reader(*v.core);
        const auto *inode = TRY(read_file(reader, ino));
        InPlace in_place(v, ino, span);
        if (TRY(in_place.fits(reader, *inode, kill_suid_sgid))) {
            in_place.write(bytes);
            // Behind the data: a group commit that clears this before it syncs has missed nothing.
            v.data_dirty.store(true, std::memory_order_release);
            stale->pages = v.live.wrote_past_cache(caller.handle);
            return bytes.size();
        }
    }
    return v.asking(caller, [&]() -> Result<std::size_t> {
        ExclusiveLock held(v.lock);
        TRY(read_file(Reader(*v.core), ino));
        TRY(v.settle_trim(ino));
        Writer writer(v, ino, span, bytes, kill_suid_sgid, caller, stale);
        TRY(writer.ask_seal());
        TRY(v.drop_capability(ino));
        auto written = writer.run();
        stale->pages = v.live.wrote_past_cache(caller.handle);  // also of a part
        // It is run again if it had to park, and would not find the bits any more.
        if (!written.ok() && stale->attributes) v.attributes_changed(ino);
        return written;
    });
}

Result<std::uint64_t> Volume::seek_data(InodeNo ino, std::uint64_t offset) {
    Impl &v = *impl_;
    SharedLock held(v.lock);
    const Reader reader(*v.core);
    const auto *inode = TRY(read_file(reader, ino));
    const std::uint64_t size = inode->size.get();
    if (offset >= size) return Error(ENXIO, "past the end of the file");
    for (std::uint64_t at = offset / kBlockSize;;) {
        const Extent e = TRY(core::next_extent(reader, *inode, ino, at));
        if (e.hole() || e.file_block * kBlockSize >= size)
            return Error(ENXIO, "no data up to the end of the file");
        if (!e.unwritten) return std::max(offset, e.file_block * kBlockSize);
        at = e.end();
    }
}

Result<std::uint64_t> Volume::seek_hole(InodeNo ino, std::uint64_t offset) {
    Impl &v = *impl_;
    SharedLock held(v.lock);
    const Reader reader(*v.core);
    const auto *inode = TRY(read_file(reader, ino));
    const std::uint64_t size = inode->size.get();
    if (offset >= size) return Error(ENXIO, "past the end of the file");
    for (std::uint64_t at = offset / kBlockSize; at * kBlockSize < size;) {
        const Extent e = TRY(core::find_extent(reader, *inode, ino, at));
        if (e.hole() || e.unwritten) return std::max(offset, at * kBlockSize);
        at = e.end();
    }
    return size;
}

}  // namespace pmfs
