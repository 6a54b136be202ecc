// Opening, recovering and closing a volume, and what it says of itself.
#include "volume/volume.h"

#include <sodium.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "base/thread.h"
#include "core/btree.h"
#include "core/node.h"
#include "media/geometry.h"
#include "media/verify.h"
#include "pm/advice.h"
#include "pm/advise.h"
#include "volume/impl.h"

namespace pmfs {

namespace {

bool sane(const std::byte *block, media::Magic magic) {
    return magic != media::Magic::node || core::NodeView(block).check();
}

Result<media::FoundSuperblock> find_superblock(const pm::Region &region) {
    const pm::ScatteredAccess scattered(region);
    const auto found = media::find_superblock({region.data(), region.size()});
    (void)pm::take_fault();  // block 0 was on a bad page
    return found;
}

}  // namespace

Volume::Volume(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Volume::~Volume() {
    if (impl_) impl_->quiesce();  // what its threads run calls the Volume
}

Volume::Impl::Impl(std::unique_ptr<pm::Region> r, const media::Superblock &sb,
                   const MountOptions &o)
    : region(std::move(r)),
      superblock(sb),
      options(o),
      live(o.grants_max),
      file_claims(
          [this](InodeNo ino, std::function<void()> again) { resume(ino, std::move(again), 0); }) {}

Volume::Impl::~Impl() {
    quiesce();
}

void Volume::Impl::quiesce() {
    if (holders) holders->stop();
    stop_commits();
    workers.finish();
    file_claims.drop_waiting();
    drop_parked();
}

// Before the first operation, and behind the core.
Result<> Volume::Impl::start_holders(const std::array<std::uint8_t, 16> &boot_id) {
    holders = std::make_unique<Holders>(Ground{.lock = lock,
                                               .core = *core,
                                               .live = live,
                                               .volume = *this,
                                               .pool = options.no_background ? nullptr : &workers,
                                               .processes = options.processes,
                                               .boot_id = boot_id,
                                               .read_only = options.read_only,
                                               .lease_break_ms = options.lease_break_ms,
                                               .pin_quota = options.pin_quota});
    if (!options.no_background) TRY(workers.start());
    return holders->start();
}

Result<std::unique_ptr<Volume>> Volume::open(std::unique_ptr<pm::Region> region,
                                             const MountOptions &options) {
    const pm::FaultScope faults;
    if (sodium_init() < 0) return Error(EIO, "libsodium does not start");
    const auto found = TRY(find_superblock(*region));
    const media::Superblock &sb = found.sb;
    if (media::must_mount_read_only(sb) && !options.read_only)
        return Error(EROFS, "made by a newer pmfs: mount it read-only (-o ro)");
    if (region->mapping_unit() > sb.mapping_unit.get() && !options.read_only)
        return pm::advice_for_unit(*region, sb.mapping_unit.get());
    auto impl = std::make_unique<Impl>(std::move(region), sb, options);
    impl->superblock_from = found.block;
    TRY(impl->start());
    return std::unique_ptr<Volume>(new Volume(std::move(impl)));
}

Result<> Volume::Impl::start() {
    const auto boot_id = options.boot_id ? *options.boot_id : journal::current_boot_id();
    journal = TRY(journal::Journal::open(*region, superblock, boot_id, options.read_only));
    journal->blocks().set_sane_check(&sane);
    if (options.park_hook) journal->set_park_hook(options.park_hook);
    allocator = TRY(core::Allocator::open(*journal, superblock));
    allocator->set_readers(readers);
    core = std::make_unique<core::Core>(core::Core{*journal, superblock, *allocator});
    const core::Reader reader(*core);
    const auto root = core::read_inode(reader, InodeNo(media::kRootIno));
    if (!root.ok() && root.error().errno_value() != ESTALE) return root.error();
    if (!root.ok() || (root.value()->mode.get() & S_IFMT) != S_IFDIR)
        return corrupt("the root is not a directory");
    TRY(start_holders(boot_id));
    if (options.read_only) return {};
    auto lender = pm::Lender::make(region->mapping_fd(), region->mapping_unit());
    holders->load(lender.ok() ? std::optional(std::move(lender).take()) : std::nullopt);
    if (!holders->damaged()) {
        ExclusiveLock held(lock);
        TRY(finish_orphans());
    }
    if (region->is_image() && !options.no_background)
        commit_thread = TRY(start_thread("pmfs-commit", [this] { commit_loop(); }));
    return {};
}

// What a crash interrupted: inodes without a name go, truncations and moves are finished.  Damage
// ends it for a group: what is left on its list takes space, and fsck frees it, but nobody's file
// needs it.
Result<> Volume::Impl::finish_orphans() {
    const core::Reader reader(*core);
    core::GroupSet &groups = allocator->map().listed(true);
    for (auto g = groups.search(0); g; g = groups.search(*g + 1)) {
        for (std::uint64_t last = 0;;) {
            const InodeNo ino(TRY(core::read_summary(reader, *g))->orphan_head.get());
            const auto inode = core::read_inode(reader, ino);
            if (!inode.ok() || last == ino.value()) break;  // none, or it does not get shorter
            auto done = inode.value()->nlink.get() == 0 ? reap(ino) : settle_trim(ino);
            if (!done.ok() && must_park(done.error())) {
                TRY(make_room());
                continue;
            }
            if (!done.ok()) break;
            last = ino.value();
        }
    }
    return {};
}

void Volume::quiesce() {
    impl_->quiesce();
}

Result<> Volume::close() {
    Impl &v = *impl_;
    const pm::FaultScope faults;
    quiesce();
    if (v.options.read_only) return {};
    ExclusiveLock held(v.lock);
    // The others have records, which the next mount finds.
    for (const Grant &grant : v.live.storing_unrecorded()) {
        auto noted = v.stored_held(grant.file, grant.uid);
        for (; !noted.ok() && must_park(noted.error());
             noted = v.stored_held(grant.file, grant.uid))
            TRY(v.make_room());
    }
    return v.journal->close();
}

Result<> Volume::Impl::writable() const {
    if (options.read_only) return Error(EROFS, "the volume is mounted read-only");
    if (holders->damaged())
        return Error(EROFS,
                     "the list of those who map the device is damaged; the volume is read-only");
    if (journal->failed()) return Error(EROFS, "the medium failed; the volume is read-only");
    return {};
}

// Blocks of files without a name that nobody has open: they are free as soon as the client forgets
// them, which is a moment after the last unlink.  A hint: the list is followed so far and no
// further.
std::uint64_t Volume::Impl::leaving_blocks() {
    constexpr int kOrphansMax = 10000;
    const core::Reader reader(*core);
    std::uint64_t blocks = 0;
    int looked_at = 0;
    core::GroupSet &groups = allocator->map().listed(true);
    for (auto g = groups.search(0); g; g = groups.search(*g + 1)) {
        const auto summary = core::read_summary(reader, *g);
        std::uint64_t next = summary.ok() ? summary.value()->orphan_head.get() : 0;
        for (; next != 0 && looked_at < kOrphansMax; ++looked_at) {
            const InodeNo ino(next);
            const auto inode = core::read_inode(reader, ino);
            if (!inode.ok()) break;
            next = inode.value()->next.get();
            const auto counts = live.counts(ino);
            const bool used = counts.cached + counts.direct + counts.grants != 0;
            if (inode.value()->nlink.get() == 0 && !used) blocks += inode.value()->blocks.get();
        }
    }
    return blocks;
}

VolumeInfo Volume::info() {
    Impl &v = *impl_;
    SharedLock held(v.lock);
    VolumeInfo info;
    const media::Superblock &sb = v.superblock;
    std::memcpy(info.uuid, sb.uuid, sizeof info.uuid);
    info.label.assign(reinterpret_cast<const char *>(sb.label),
                      strnlen(reinterpret_cast<const char *>(sb.label), sizeof sb.label));
    info.source = v.region->path();
    info.medium = pm::name_of(v.region->kind());
    info.size = sb.block_count.get() * media::kBlockSize;
    info.mapping_unit = sb.mapping_unit.get();
    info.journal_size = sb.journal_blocks.get() * media::kBlockSize;
    info.chunks = sb.block_count.get() / media::kChunkBlocks;
    const std::uint64_t own =
        media::group_count(sb.block_count.get()) * media::group_layout(0).end +
        sb.journal_blocks.get() + (sb.copy_block.get() != 0 ? 1 : 0);
    info.blocks_total = sb.block_count.get() - own;
    const std::uint64_t leaving = v.leaving_blocks();
    info.blocks_free = std::min(v.allocator->free_blocks() + leaving, info.blocks_total);
    info.blocks_for_root =
        std::min(v.allocator->available_blocks(true) + leaving, info.blocks_free);
    info.blocks_available =
        std::min(v.allocator->available_blocks(false) + leaving, info.blocks_free);
    info.inodes_used = v.allocator->map().inodes_used();
    info.inodes_available = v.allocator->available_inodes(false);
    info.superblock_from = v.superblock_from;
    info.tx_last = v.journal->last().value();
    info.tx_durable = v.journal->durable().value();
    info.damaged = v.journal->failed() || v.holders->damaged();
    info.read_only = v.options.read_only || info.damaged;
    return info;
}

Result<> Volume::chunks(std::uint64_t first, std::span<ChunkInfo> out) {
    Impl &v = *impl_;
    ExclusiveLock held(v.lock);  // bitmaps are loaded on first use
    for (std::size_t i = 0; i < out.size(); ++i)
        TRY(v.allocator->chunk_info(first + i, &out[i].kind, &out[i].used_blocks));
    return {};
}

void Volume::run_later(std::uint32_t user, std::uint64_t file, bool lengthy,
                       std::function<void()> work) {
    auto run = [work = std::move(work)] {
        const pm::FaultScope faults;
        work();
    };
    Impl &v = *impl_;
    if (v.options.no_background || !v.workers.submit({user, file, run, lengthy})) run();
}

const pm::Region &Volume::region() const {
    return *impl_->region;
}

}  // namespace pmfs
