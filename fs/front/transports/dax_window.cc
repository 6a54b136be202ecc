// Ranges, pins and pieces: see dax_window.h.
#include "front/transports/dax_window.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <future>

#include "base/bytes.h"
#include "base/errors.h"
#include "media/geometry.h"

namespace pmfs::front {
namespace {

// Runs an operation until it need not wait any more.  (The guest has more threads than its kernel
// has requests for a window, and a pin waits for short things only.)
template <class Operation>
auto wait_through(Volume &volume, Operation operation) {
    for (;;) {
        auto done = operation();
        if (done.ok() || !must_park(done.error())) return done;
        auto ready = std::make_shared<std::promise<void>>();
        volume.when_ready(done.error(), [ready] { ready->set_value(); });
        auto future = ready->get_future();
        ready.reset();  // (a callback that is dropped breaks the promise)
        future.wait();
    }
}

bool stores(const fuse_setupmapping_in &in) {
    return (in.flags & FUSE_SETUPMAPPING_FLAG_WRITE) != 0;
}

bool is_in(const struct stat &file, int fd) {
    struct stat other {};
    return ::fstat(fd, &other) == 0 && file.st_dev == other.st_dev && file.st_ino == other.st_ino &&
           file.st_rdev == other.st_rdev;
}

}  // namespace

// Its pin ends with it, and is quarantined as long as a process still maps.
DaxWindow::Range::~Range() {
    if (handle != 0) volume.release(handle);
}

void DaxWindow::connect(const virtio::Peer &peer, std::shared_ptr<virtio::BackChannel> channel) {
    const Lock held(mutex_);
    peer_ = peer;
    channel_ = std::move(channel);
}

void DaxWindow::forget() {
    std::map<std::uint64_t, std::shared_ptr<Range>> gone;
    const Lock turn(turn_);
    const Lock held(mutex_);
    gone.swap(ranges_);
    guest_base_.reset();
}

std::shared_ptr<virtio::BackChannel> DaxWindow::channel() {
    const Lock held(mutex_);
    return channel_;
}

std::shared_ptr<DaxWindow::Range> DaxWindow::find(std::uint64_t window_offset) {
    const Lock held(mutex_);
    const auto found = ranges_.find(window_offset);
    return found == ranges_.end() ? nullptr : found->second;
}

Result<> DaxWindow::set_up(InodeNo ino, const fuse_setupmapping_in &in) {
    if (in.len != kRange || !is_aligned(in.moffset, kRange) || !is_aligned(in.foffset, kRange) ||
        in.moffset > size_ || in.len > size_ - in.moffset)
        return Error(EINVAL, "the range is outside of the window, or not aligned");
    const Lock turn(turn_);
    if (const auto there = find(in.moffset); there != nullptr) {
        // The guest wants to write to a range that it only read so far: it is mapped for both.
        if (there->ino == ino && there->file_offset == in.foffset)
            return stores(in) ? begin_stores(*there) : Result<>();
        // The guest uses the place for another range without having removed this one.
        unmap(*there, there->pieces.size());
        const Lock held(mutex_);
        ranges_.erase(in.moffset);
    }
    return take(ino, in);
}

// The guest's kernel asks again, with this flag, before it stores to a range that it has for
// reading; see linux fs/fuse/dax.c, fuse_upgrade_dax_mapping().
Result<> DaxWindow::begin_stores(const Range &range) {
    Progress progress;
    return wait_through(volume_,
                        [&] { return volume_.begin_stores(range.handle, range.pin, &progress); });
}

// Takes the pin with the range's handle, in whole units, which are made if necessary.
Result<> DaxWindow::take_pin(Range *range, std::uint64_t unit, const Caller &vmm) {
    GrantRequest pin;
    pin.kind = core::GrantKind::pin;
    pin.offset = range->file_offset;
    pin.length = range->length;
    pin.unit = unit;
    pin.may_store = pin.maps = pin.lent = pin.trusted = pin.bound = pin.announces = true;
    std::uint64_t bad = 0;
    const auto take = [&] {
        return wait_through(volume_,
                            [&] { return volume_.take_grant(range->handle, pin, vmm, &bad); });
    };
    auto grant = take();
    if (!grant.ok() && grant.error().errno_value() == EINVAL) {
        // Not in whole mapped units yet; a sealed file says ETXTBSY here.
        Progress progress;
        Caller caller = vmm;
        caller.progress = &progress;
        TRY(wait_through(volume_, [&] {
            return volume_.prepare(range->ino, pin.offset, pin.length, unit, caller);
        }));
        grant = take();
    }
    range->pin = TRY(std::move(grant));
    return {};
}

Result<> DaxWindow::take(InodeNo ino, const fuse_setupmapping_in &in) {
    Caller vmm;
    {
        const Lock held(mutex_);
        vmm.pid = static_cast<std::uint32_t>(peer_.pid);
    }
    const auto attributes = TRY(volume_.getattr(ino));
    const std::uint64_t size = attributes.size;
    if (in.foffset >= size) return Error(EINVAL, "the range is behind the end of the file");
    auto range = std::make_shared<Range>(volume_);
    range->ino = ino;
    range->file_offset = in.foffset;
    range->length = std::min(in.len, size - in.foffset);
    // The guest's kernel considers the whole range mapped, and does not ask again when the file
    // grows into it.  So all of it must belong to the file, unless the file cannot grow.
    const bool sealed = attributes.sealed;
    const std::uint64_t unit = sealed ? 0 : kRange;

    OpenRequest open;
    open.write = open.direct = true;
    range->handle = TRY(wait_through(volume_, [&] { return volume_.open_file(ino, open); })).handle;
    TRY(take_pin(range.get(), unit, vmm));
    if (TRY(volume_.getattr(ino)).sealed != sealed)
        return Error(EBUSY, "the file is being sealed or unsealed");
    TRY(find_pieces(*range, in.moffset, sealed ? range->length : kRange));
    const FileDescriptor device = TRY(volume_.lend_device(range->handle, range->pin));
    if (stores(in)) TRY(begin_stores(*range));
    {
        const Lock held(mutex_);
        ranges_[in.moffset] = range;  // from here on resolve() may use it
    }
    if (const auto mapped = map(*range, device); !mapped.ok()) {
        const Lock held(mutex_);
        ranges_.erase(in.moffset);
        return mapped.error();
    }
    return {};
}

// The places of the range's blocks, one piece for each extent.
Result<> DaxWindow::find_pieces(Range &range, std::uint64_t window_offset, std::uint64_t length) {
    std::array<Extent, 32> found;
    const std::uint64_t end = align_up(range.file_offset + length, media::kBlockSize);
    for (std::uint64_t at = range.file_offset; at < end;) {
        const std::size_t count = TRY(volume_.extents(range.ino, media::file_block_of(at), found));
        for (std::size_t i = 0; i < count && at < end; ++i) {
            const Extent &extent = found[i];
            const std::uint64_t upto = std::min(end, media::byte_of(extent.end()));
            if (extent.hole() || extent.unwritten || media::byte_of(extent.file_block) > at)
                return Error(EIO, "a pinned range has a hole");
            range.pieces.push_back({window_offset + (at - range.file_offset),
                                    media::byte_of(extent.place_of(media::file_block_of(at))),
                                    upto - at});
            at = upto;
        }
        if (count == 0) return Error(EIO, "a pinned range ends early");
    }
    return {};
}

Result<> DaxWindow::map(Range &range, const FileDescriptor &device) {
    const auto vmm = channel();
    if (vmm == nullptr || !vmm->has_window())
        return Error(EOPNOTSUPP, "the virtual machine monitor has no window");
    for (std::size_t i = 0; i < range.pieces.size(); ++i) {
        const Piece &piece = range.pieces[i];
        // If the kernel cannot tell who maps, all ranges use the same descriptor.
        const int fd = device.ok() ? device.get() : volume_.region().mapping_fd();
        const auto mapped = vmm->map(fd, piece.device, piece.window, piece.size, true);
        if (mapped.ok()) continue;
        unmap(range, i);
        return Error(EIO, "the virtual machine monitor did not map a range");
    }
    if (const auto settled = vmm->barrier(); !settled.ok()) {
        unmap(range, range.pieces.size());
        return Error(EIO, "the virtual machine monitor did not map a range");
    }
    return {};
}

void DaxWindow::unmap(const Range &range, std::size_t pieces) {
    const auto vmm = channel();
    if (vmm == nullptr) return;
    // A piece that could not be unmapped is found when the pin ends.
    for (std::size_t i = 0; i < pieces; ++i)
        (void)vmm->unmap(range.pieces[i].window, range.pieces[i].size).ok();
    (void)vmm->barrier().ok();
}

int DaxWindow::remove(std::uint64_t window_offset, std::uint64_t length) {
    if (window_offset > size_ || length > size_ - window_offset) return EINVAL;
    const Lock turn(turn_);
    std::vector<std::shared_ptr<Range>> gone;  // their pins end here, or with a request
    {
        const Lock held(mutex_);
        auto at = ranges_.lower_bound(window_offset);
        while (at != ranges_.end() && at->first < window_offset + length) {
            gone.push_back(at->second);
            at = ranges_.erase(at);
        }
    }
    for (const auto &range : gone) unmap(*range, range->pieces.size());
    return 0;
}

bool DaxWindow::owns(const virtio::MemoryRegion &region, int fd) {
    struct stat medium {};
    if (::fstat(volume_.region().mapping_fd(), &medium) != 0 || !is_in(medium, fd)) return false;
    const Lock held(mutex_);
    if (guest_base_) return true;
    for (const auto &[offset, range] : ranges_)
        for (const Piece &piece : range->pieces)
            if (piece.device == region.offset && piece.size == region.size &&
                region.guest >= piece.window) {
                guest_base_ = region.guest - piece.window;
                return true;
            }
    return true;
}

virtio::MemoryOwner::Answer DaxWindow::resolve(std::uint64_t guest, std::uint64_t size,
                                               std::vector<iovec> *pieces,
                                               std::shared_ptr<const void> *hold) {
    using Answer = virtio::MemoryOwner::Answer;
    const Lock held(mutex_);
    if (!guest_base_ || guest < *guest_base_ || guest - *guest_base_ >= size_)
        return Answer::not_mine;
    const std::uint64_t at = guest - *guest_base_;
    const auto found = ranges_.find(align_down(at, kRange));
    // The guest's kernel sends a descriptor for each page, so none crosses the end of a range.
    if (found == ranges_.end()) return Answer::refused;
    std::uint64_t from = at;
    std::vector<iovec> mine;
    for (const Piece &piece : found->second->pieces) {
        if (from < piece.window || from >= piece.window + piece.size || from == at + size) continue;
        const std::uint64_t n = std::min(at + size, piece.window + piece.size) - from;
        const std::byte *byte = volume_.region().data() + piece.device + (from - piece.window);
        mine.push_back({const_cast<std::byte *>(byte), n});
        from += n;
    }
    if (from != at + size) return Answer::refused;
    pieces->insert(pieces->end(), mine.begin(), mine.end());
    *hold = found->second;
    return Answer::mine;
}

}  // namespace pmfs::front
