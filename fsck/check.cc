// The order of a check: what must be sound comes before what stands on it.
#include "fsck/check.h"

#include <fmt/format.h>

#include <cstring>

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

// All but the header, which says where each copy is.
template <class T>
bool same_content(const T &a, const T &b) {
    constexpr std::size_t skip = sizeof(BlockHeader);
    return std::memcmp(reinterpret_cast<const char *>(&a) + skip,
                       reinterpret_cast<const char *>(&b) + skip, sizeof(T) - skip) == 0;
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

// The copy of State to believe, or none.
const State *check_state(Context &context) {
    const std::uint64_t blocks[2] = {context.sb.state_block[0].get(),
                                     context.sb.state_block[1].get()};
    const auto *a = context.whole<State>(blocks[0], Magic::state);
    const auto *b = context.whole<State>(blocks[1], Magic::state);
    if (a == nullptr && b == nullptr) {
        context.found_block(Code::state_lost, blocks[0]);
        context.report.unjudged = true;
        return nullptr;
    }
    if (a == nullptr || b == nullptr)
        context.found_block(Code::state_copy_damaged, blocks[a == nullptr ? 0 : 1]);
    else if (!same_content(*a, *b))
        context.found_block(Code::state_copies_differ, blocks[1]);
    return a != nullptr ? a : b;
}

}  // namespace

Result<std::uint64_t> replay_journal(pm::Region &region, const journal::BootId &boot_id,
                                     bool may_write, Report *report) {
    const Superblock sb = TRY(superblock_of(region)).sb;
    if (must_mount_read_only(sb) && may_write)
        return Error(ENOTSUP,
                     "the volume uses a feature that this program may not write; -n checks "
                     "it without writing");
    const auto chain = journal::verify_chain(region, sb, boot_id);
    if (!chain.ok() && chain.error().errno_value() == EUCLEAN) return 0;  // check() says it
    if (!chain.ok()) return chain.error();
    const journal::Flaw flaw = chain.value().flaw;
    if (flaw.kind == journal::Flaw::Kind::none)
        return TRY(journal::recover(region, sb, boot_id)).records;
    report->add({.code = flaw.kind == journal::Flaw::Kind::broken ? Code::record_broken
                                                                  : Code::record_damaged,
                 .block = flaw.block,
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
    if (const State *state = check_state(context); state != nullptr) {
        Inodes inodes(context, space);
        TRY(inodes.walk(*state));
        check_lists(context, inodes, *state);
        check_directories(context, space, inodes);
        TRY(check_grants(context, space, inodes));
        space.finish();
        report.inodes = inodes.used();
    }
    report.unjudged |= context.lost_owners || context.lost_names;
    report.medium_failed = pm::take_fault();
    return report;
}

}  // namespace pmfs::fsck
