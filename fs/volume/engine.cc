// Opening the engine, and whether it may write: see engine.h.
#include "volume/engine.h"

#include "core/node.h"

namespace pmfs {

namespace {

bool sane(const std::byte *block, media::Magic magic) {
    return magic != media::Magic::node || core::NodeView(block).check();
}

}  // namespace

Engine::Engine(std::unique_ptr<pm::Region> r, const media::Superblock &sb, const MountOptions &o,
               Claims::Resume resume)
    : options(o),
      region(std::move(r)),
      superblock(sb),
      claims(std::move(resume)),
      live(o.grants_max, o.writeback) {}

Result<> Engine::open(const std::array<std::uint8_t, 16> &boot_id) {
    using journal::Journal;
    const auto use = !options.read_only    ? Journal::Use::write
                     : options.no_recovery ? Journal::Use::read_unreplayed
                                           : Journal::Use::read;
    journal = TRY(Journal::open(*region, superblock, boot_id, use));
    journal->blocks().set_sane_check(&sane);
    if (options.park_hook) journal->set_park_hook(options.park_hook);
    if (options.absent_hook) journal->blocks().set_absent_hook(options.absent_hook);
    allocator = TRY(core::Allocator::open(*journal, superblock, options.read_only));
    allocator->set_readers(readers);
    core = std::make_unique<core::Core>(core::Core{*journal, superblock, *allocator});
    return {};
}

Result<> writable(const Engine &e) {
    if (e.options.read_only) return Error(EROFS, "the volume is mounted read-only");
    if (e.holders->damaged())
        return Error(EROFS,
                     "the list of processes that map the device is damaged, so the volume is "
                     "read-only: run fsck.pmfs");
    if (e.journal->failed()) return Error(EROFS, "the medium failed, so the volume is read-only");
    return {};
}

}  // namespace pmfs
