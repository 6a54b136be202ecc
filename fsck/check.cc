// The order of a check: structures come before those that depend on them.
#include "fsck/check.h"

#include <fmt/format.h>

#include "fsck/context.h"
#include "fsck/directories.h"
#include "fsck/grants.h"
#include "fsck/inodes.h"
#include "fsck/lists.h"
#include "fsck/space.h"
#include "journal/recover.h"
#include "media/geometry.h"
#include "pm/advise.h"

namespace pmfs::fsck {

using namespace media;

namespace {

// Compares everything but the header, which contains each copy's place.  If the power was cut while
// a volume was growing, copies may have its new size already; block 0 counts.
bool same_content(const Superblock &copy, const Superblock &sb) {
    Superblock expected = sb;
    if (copy.block_count.get() > sb.block_count.get()) expected.block_count = copy.block_count;
    return std::ranges::equal(content_of(copy), content_of(expected));
}

Result<FoundSuperblock> superblock_of(const pm::Region &region) {
    const pm::ScatteredAccess scattered(region);
    return find_superblock({region.meta(), region.size()});
}

void check_superblock_copies(Context &context) {
    const pm::ScatteredAccess scattered(context.region);
    for_each_copy(context.sb, [&](std::uint64_t block) {
        const auto *copy = context.whole<Superblock>(block, Magic::superblock);
        if (copy == nullptr)
            context.found_block(Code::superblock_copy_damaged, block);
        else if (!same_content(*copy, context.sb))
            context.found_block(Code::superblock_copy_differs, block);
    });
}

void check_journal(Context &context) {
    const auto ring = journal::read_ring_header(context.region, context.sb);
    if (ring.ok()) {
        context.report.was_clean = ring.value().clean();
        return;
    }
    bool whole = false;
    for (std::uint64_t i = 0; i < kRingHeaders; ++i) {
        const std::uint64_t block = context.sb.journal_start.get() + i;
        whole |= block_ok(context.data_block(block), Magic::ring_header, context.fsid(), block);
    }
    context.found_block(whole ? Code::ring_tail_outside : Code::ring_headers_damaged,
                        context.sb.journal_start.get());
}

}  // namespace

Result<std::uint64_t> replay_journal(pm::Region &region, const journal::BootId &boot_id,
                                     bool may_write, Report *report) {
    const Superblock sb = TRY(superblock_of(region)).sb;
    if (must_mount_read_only(sb) && may_write)
        return Error(ENOTSUP,
                     "the volume uses a feature that this program may not write to; -n checks "
                     "it without writing");
    const auto chain = journal::verify_chain(region, sb, boot_id);
    if (!chain.ok() && chain.error().errno_value() == EUCLEAN) return 0;  // check() reports it
    if (!chain.ok()) return chain.error();
    const journal::Flaw flaw = chain.value().flaw;
    if (flaw.kind == journal::Flaw::Kind::none)
        return TRY(journal::recover(region, sb, boot_id)).records;
    report->add({.code = flaw.kind == journal::Flaw::Kind::broken ? Code::record_broken
                                                                  : Code::record_damaged,
                 .block = flaw.block.value(),
                 .detail = fmt::format("record {}; nothing was replayed", flaw.seq)},
                1);
    return 0;
}

Result<Report> check(pm::Region &region, const Options &options) {
    (void)pm::take_fault();
    const FoundSuperblock found = TRY(superblock_of(region));
    const Superblock &sb = found.sb;
    Report report;
    report.blocks = sb.block_count.get();
    Context context(region, sb, options, report);
    if (found.block != 0)
        context.found_block(Code::superblock_damaged, 0,
                            fmt::format("the copy in block {}", found.block));
    check_superblock_copies(context);
    check_journal(context);

    Space space(context);
    TRY(space.start());
    Inodes inodes(context, space);
    TRY(inodes.walk());
    check_lists(context, space, inodes);
    check_directories(context, space, inodes);
    TRY(check_grants(context, space, inodes));
    space.finish();
    report.inodes = inodes.used();
    report.unjudged |= context.lost_owners || context.lost_names;
    report.medium_failed = pm::take_fault();
    return report;
}

}  // namespace pmfs::fsck
