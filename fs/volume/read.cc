// Reading a file, and finding its data and its holes.
//
// The map is read with the volume's lock held shared, and the data without it, inside an epoch
// (core/epoch.h).
#include <algorithm>

#include "core/extent_map.h"
#include "media/geometry.h"
#include "volume/data.h"
#include "volume/operation.h"
#include "volume/parts.h"

namespace pmfs {

using core::Reader;

namespace {

constexpr std::size_t kZeroesSize = 1 << 20;
alignas(4096) const std::byte kZeroes[kZeroesSize] = {};

// Where bytes of a file are.  Fewer at its end.
Result<std::size_t> find_data(Engine &engine, InodeNo ino, std::uint64_t offset, std::size_t size,
                              std::vector<iovec> *pieces) EXCLUDES(engine.lock) {
    SharedLock held(engine.lock);
    const Reader reader(*engine.core);
    const auto *inode = TRY(read_file(reader, ino));
    const std::uint64_t file_size = inode->size.get();
    pieces->clear();
    if (offset >= file_size || size == 0) return std::size_t{0};
    const std::uint64_t end = std::min<std::uint64_t>(file_size, offset + size);
    for (std::uint64_t at = offset; at < end;) {
        const Extent e = TRY(core::find_extent(reader, *inode, ino, media::file_block_of(at)));
        std::uint64_t n = std::min(end, end_byte(e)) - at;
        const std::byte *from = kZeroes;
        if (e.hole() || e.unwritten) {
            n = std::min<std::uint64_t>(n, kZeroesSize);
        } else {
            from = engine.region->data() + device_byte(e, at);
            if (engine.region->lost(device_byte(e, at), n))
                return Error(EIO, "the medium has lost a page of the file");
        }
        pieces->push_back({const_cast<std::byte *>(from), n});
        at += n;
    }
    return static_cast<std::size_t>(end - offset);
}

Result<std::uint64_t> seek(Engine &engine, InodeNo ino, std::uint64_t offset, bool data)
    EXCLUDES(engine.lock) {
    for (FileBlock at = media::file_block_of(offset);;) {
        SharedLock held(engine.lock);
        const Reader reader(*engine.core);
        const auto *inode = TRY(read_file(reader, ino));
        const std::uint64_t size = inode->size.get();
        if (offset >= size) return Error(ENXIO, "the offset is past the end of the file");
        for (unsigned n = 0; n < kLookedAt; ++n) {
            if (media::byte_of(at) >= size) {
                if (data) return Error(ENXIO, "there is no data up to the end of the file");
                return size;
            }
            const Extent e = TRY(core::find_extent(reader, *inode, ino, at));
            if ((e.hole() || e.unwritten) != data) return std::max(offset, media::byte_of(at));
            at = e.end();
        }
    }
}

}  // namespace

Result<std::size_t> Volume::read(InodeNo ino, std::uint64_t offset, std::size_t size,
                                 const ReadSink &sink) {
    thread_local std::vector<iovec> pieces;
    // Before the map is read: its blocks remain the file's data until the sink is done.
    const core::Epochs::Section inside(parts_->engine.readers);
    const std::size_t count = TRY(find_data(parts_->engine, ino, offset, size, &pieces));
    sink(pieces);
    return count;
}

Result<std::uint64_t> Volume::seek_data(InodeNo ino, std::uint64_t offset) {
    return seek(parts_->engine, ino, offset, true);
}

Result<std::uint64_t> Volume::seek_hole(InodeNo ino, std::uint64_t offset) {
    return seek(parts_->engine, ino, offset, false);
}

}  // namespace pmfs
