// Opening, recovering and closing a volume, and information about it.
#include "volume/volume.h"

#include <sodium.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "base/clock.h"
#include "core/inode.h"
#include "media/geometry.h"
#include "media/verify.h"
#include "pm/advice.h"
#include "pm/advise.h"
#include "volume/parts.h"

namespace pmfs {

namespace {

Result<media::FoundSuperblock> find_superblock(const pm::Region &region) {
    const pm::ScatteredAccess scattered(region);
    const auto found = media::find_superblock({region.data(), region.size()});
    (void)pm::take_fault();  // block 0 was on a bad page
    return found;
}

}  // namespace

Volume::Volume(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
Volume::~Volume() {
    if (parts_) parts_->quiesce();  // its threads call the Volume
}

Volume::Parts::Parts(std::unique_ptr<pm::Region> region, const media::Superblock &sb,
                     BlockNo superblock_from, const MountOptions &options)
    : engine(std::move(region), sb, options,
             [this](InodeNo ino, std::function<void()> again) {
                 workers.resume(ino, std::move(again), 0);
             }),
      scheduler(
          engine.lock, engine.claims,
          [this] {
              SharedLock held(engine.lock);
              return files_leave(engine);
          },
          options.close_waits),
      workers(!options.no_background,
              [this](std::function<void()> again) { engine.holders->run(std::move(again)); }),
      commits(engine, workers),
      reaper(engine, scheduler, commits),
      for_holders(engine, commits, reaper),
      tuning(engine, commits, superblock_from) {}

Volume::Parts::~Parts() {
    quiesce();
    engine.holders.reset();  // they call the other parts
}

void Volume::Parts::quiesce() {
    if (engine.holders) engine.holders->stop();
    commits.stop();
    workers.finish();
    engine.claims.drop_waiting();
    commits.drop_parked();
}

// Before the first operation, and after the core.
Result<> Volume::Parts::start_holders(const std::array<std::uint8_t, 16> &boot_id) {
    engine.holders =
        std::make_unique<Holders>(Ground{.lock = engine.lock,
                                         .core = *engine.core,
                                         .live = engine.live,
                                         .volume = for_holders,
                                         .pool = workers.pool(),
                                         .processes = engine.options.processes,
                                         .boot_id = boot_id,
                                         .read_only = engine.options.read_only,
                                         .lease_break_ms = engine.options.lease_break_ms,
                                         .pin_quota = engine.options.pin_quota});
    TRY(workers.start());
    return engine.holders->start();
}

Result<> Volume::Parts::start() {
    const auto boot_id =
        engine.options.boot_id ? *engine.options.boot_id : journal::current_boot_id();
    TRY(engine.open(boot_id));
    const auto root = core::read_inode(core::Reader(*engine.core), InodeNo(media::kRootIno));
    if (!root.ok() && root.error().errno_value() != ESTALE) return root.error();
    if (!root.ok() || (root.value()->mode.get() & S_IFMT) != S_IFDIR)
        return corrupt("the root is not a directory");
    TRY(start_holders(boot_id));
    if (engine.options.read_only) return {};
    auto lender = pm::Lender::make(*engine.region);
    engine.holders->load(lender.ok() ? std::optional(std::move(lender).take()) : std::nullopt);
    if (!engine.holders->damaged()) {
        ExclusiveLock held(engine.lock);
        TRY(finish_orphans(engine));
    }
    return commits.start();
}

Result<std::unique_ptr<Volume>> Volume::open(std::unique_ptr<pm::Region> region,
                                             const MountOptions &options) {
    const pm::FaultScope faults;
    if (sodium_init() < 0) return Error(EIO, "libsodium could not be initialized");
    const auto found = TRY(find_superblock(*region));
    const media::Superblock &sb = found.sb;
    if (media::must_mount_read_only(sb) && !options.read_only)
        return Error(EROFS, "the volume was made by a newer pmfs: mount it read-only (-o ro)");
    if (region->mapping_unit() > sb.mapping_unit.get() && !options.read_only)
        return pm::advice_for_unit(*region, sb.mapping_unit.get());
    auto parts = std::make_unique<Parts>(std::move(region), sb, BlockNo(found.block), options);
    TRY(parts->start());
    return std::unique_ptr<Volume>(new Volume(std::move(parts)));
}

void Volume::quiesce() {
    parts_->quiesce();
}

Result<> Volume::close() {
    Engine &e = parts_->engine;
    const pm::FaultScope faults;
    quiesce();
    if (e.options.read_only) return {};
    ExclusiveLock held(e.lock);
    // The other grants have records, which the next mount finds.
    for (const Grant &grant : e.live.storing_unrecorded()) {
        auto noted = parts_->for_holders.stored_held(grant.file, grant.uid);
        for (; !noted.ok() && must_park(noted.error());
             noted = parts_->for_holders.stored_held(grant.file, grant.uid))
            TRY(make_room(e));
    }
    return e.journal->close();
}

VolumeInfo Volume::info() {
    Engine &e = parts_->engine;
    SharedLock held(e.lock);
    VolumeInfo info;
    const media::Superblock &sb = e.superblock;
    std::memcpy(info.uuid, sb.uuid, sizeof info.uuid);
    info.label.assign(reinterpret_cast<const char *>(sb.label),
                      strnlen(reinterpret_cast<const char *>(sb.label), sizeof sb.label));
    info.source = e.region->path();
    info.medium = pm::name_of(e.region->kind());
    info.size = sb.block_count.get() * media::kBlockSize;
    info.mapping_unit = sb.mapping_unit.get();
    info.journal_size = sb.journal_blocks.get() * media::kBlockSize;
    info.chunks = sb.block_count.get() / media::kChunkBlocks;
    const std::uint64_t own =
        media::group_count(sb.block_count.get()) * media::group_layout(0).end +
        sb.journal_blocks.get() + (sb.copy_block.get() != 0 ? 1 : 0);
    info.blocks_total = sb.block_count.get() - own;
    const std::uint64_t leaving = leaving_blocks(e);
    info.blocks_free = std::min(e.allocator->free_blocks() + leaving, info.blocks_total);
    info.blocks_for_root =
        std::min(e.allocator->available_blocks(true) + leaving, info.blocks_free);
    info.blocks_available =
        std::min(e.allocator->available_blocks(false) + leaving, info.blocks_free);
    info.inodes_used = e.allocator->map().inodes_used();
    info.inodes_available = e.allocator->available_inodes(false);
    info.superblock_from = parts_->tuning.superblock_from();
    info.tx_last = e.journal->last().value();
    info.tx_durable = e.journal->durable().value();
    info.damaged = e.journal->failed() || e.holders->damaged();
    info.read_only = e.options.read_only || info.damaged;
    return info;
}

Result<> Volume::chunks(ChunkNo first, std::span<ChunkInfo> out) {
    Engine &e = parts_->engine;
    for (std::size_t i = 0; i < out.size(); ++i) {
        ExclusiveLock held(e.lock);  // a group's bitmaps are loaded on first use
        TRY(e.allocator->chunk_info(first + i, &out[i].kind, &out[i].used_blocks));
    }
    return {};
}

Result<> Volume::grow(std::uint64_t size, const Caller &caller, Growth *growth) {
    return parts_->tuning.grow(size, caller, growth);
}

Result<std::uint32_t> Volume::root_reserve() {
    SharedLock held(parts_->engine.lock);
    return parts_->engine.superblock.root_reserve.get();
}

Result<> Volume::set_root_reserve(std::uint32_t reserve, const Caller &caller) {
    return parts_->tuning.set_root_reserve(reserve, caller);
}

// --- waiting

void Volume::fsync(InodeNo, Completion done) {
    parts_->commits.sync(std::move(done));
}

Result<> Volume::commit_group() {
    return parts_->commits.now(true);
}

void Volume::when_ready(const Error &why, std::function<void()> again, std::uint32_t user) {
    Engine &e = parts_->engine;
    const InodeNo ino(why.subject());
    if (why.errno_value() == kBreakErrno) return e.holders->wait(why, user, std::move(again));
    if (why.errno_value() == kClaimErrno) return e.claims.wait(ino, std::move(again));
    constexpr std::uint64_t kMoment = 3'000'000;
    if (why.errno_value() == kForgetErrno)
        return e.holders->run_at(monotonic_ns() + kMoment, user, std::move(again));
    if (why.errno_value() == kCloseErrno)
        return e.holders->run_at(monotonic_ns() + why.subject(), user, std::move(again));
    parts_->commits.await_room(ino, user, std::move(again));
}

void Volume::run_later(std::uint32_t user, std::uint64_t file, bool lengthy,
                       std::function<void()> work) {
    parts_->workers.run(user, file, lengthy, std::move(work));
}

const pm::Region &Volume::region() const {
    return *parts_->engine.region;
}

}  // namespace pmfs
