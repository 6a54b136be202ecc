// The repairs: see repair.h.
#include "fsck/repair.h"

#include <algorithm>
#include <set>
#include <tuple>

#include "base/bytes.h"
#include "base/errors.h"
#include "journal/journal.h"
#include "journal/tx.h"
#include "media/verify.h"

namespace pmfs::fsck {

using namespace media;

namespace {

// Damage can hide damage, but not for ever: a later pass that repairs nothing is the last one.
constexpr unsigned kPassesMax = 16;

bool is_of_superblock(Code code) {
    return code == Code::superblock_damaged || code == Code::superblock_copy_damaged ||
           code == Code::superblock_copy_differs;
}

bool is_of_journal(Code code) {
    return static_cast<unsigned>(code) / 100 == 2;
}

Result<> write_superblocks(pm::Region &region, const Report &report) {
    pm::FaultScope faults;
    bool any = false;
    Superblock sb = TRY(find_superblock({region.meta(), region.size()})).sb;
    for (const Problem &problem : report.problems) {
        if (!is_of_superblock(problem.code) || problem.repaired) continue;
        sb.header = header_of(Magic::superblock, sb.header.fsid.get(), problem.block, 0);
        seal_block(sb);
        region.fence(region.write(problem.block * kBlockSize, bytes_of(sb)));
        if (!region.keeps(problem.block * kBlockSize, bytes_of(sb)))
            return Error(EROFS, "the medium does not keep data that is written to it");
        any = true;
    }
    if (any && region.is_image()) TRY(region.sync());
    if (faults.met()) return Error(EIO, "the medium does not keep data that is written to it");
    return {};
}

// Bitmaps come first: what the journal reads of the others is checked against them.
unsigned rank(Magic magic) {
    return magic == Magic::bitmap ? 0 : magic == Magic::inode ? 2 : 1;
}

// One block of `changes`, or one inode.
Result<> make_change(journal::Journal &journal, std::span<const Change> changes) {
    const Change &first = changes.front();
    const BlockNo block(first.block);
    journal::Tx tx(journal);
    TRY(tx.begin());
    std::byte *bytes;
    if (first.magic == Magic::inode)
        bytes = reinterpret_cast<std::byte *>(
            TRY(tx.edit_inode(block, first.slot, InodeNo(first.self))));
    else if (first.anew)
        bytes = TRY(tx.fresh<std::byte>(block, first.magic));
    else
        bytes = TRY(tx.edit<std::byte>(block, first.magic));
    for (const Change &change : changes) std::ranges::copy(change.bytes, bytes + change.offset);
    TRY(tx.commit());
    return {};
}

Result<> make_changes(pm::Region &region, Report &report, const journal::BootId &boot_id) {
    const Superblock sb = TRY(find_superblock({region.meta(), region.size()})).sb;
    const auto journal =
        TRY(journal::Journal::open(region, sb, boot_id, journal::Journal::Use::write));
    std::vector<Change> &changes = report.changes;
    const auto place = [](const Change &c) { return std::tuple(rank(c.magic), c.block, c.slot); };
    std::ranges::stable_sort(changes, {}, place);
    for (auto at = changes.begin(); at != changes.end();) {
        const auto end = std::find_if(
            at, changes.end(), [&](const Change &change) { return place(change) != place(*at); });
        auto made = make_change(*journal, {at, end});
        if (!made.ok() && made.error().errno_value() == kParkErrno) {
            TRY(journal->group_commit(true));
            made = make_change(*journal, {at, end});
        }
        // (Other damage may keep it from being made; the next check finds it again.)
        if (!made.ok() && !is_damage(made.error())) return made;
        at = end;
    }
    return journal->close();
}

bool may_change(const pm::Region &region, const Report &report) {
    if (report.changes.empty() || report.medium_failed || report.gave_up) return false;
    if (std::ranges::any_of(report.problems, is_of_journal, &Problem::code)) return false;
    const auto found = find_superblock({region.meta(), region.size()});
    return found.ok() && knows_all_fields(found.value().sb);
}

// Brings `report` up to date with a check that was made after a repair.
void settle(Report &report, Report after) {
    const auto key = [](const Problem &p) { return std::tuple(p.code, p.block, p.inode); };
    std::set<std::tuple<Code, std::uint64_t, std::uint64_t>> left, known;
    for (const Problem &problem : after.problems) left.insert(key(problem));
    for (Problem &problem : report.problems) {
        problem.repaired |= !left.contains(key(problem));
        if (!problem.repaired) known.insert(key(problem));
    }
    std::uint64_t found = report.found;
    for (Problem &problem : after.problems)
        if (!known.contains(key(problem))) {
            report.problems.push_back(std::move(problem));
            ++found;
        }
    after.problems = std::move(report.problems);
    const std::uint64_t repaired = found - std::min(found, after.found);
    after.repaired = std::max(report.repaired, repaired);
    after.found += after.repaired;
    after.medium_failed |= report.medium_failed;
    after.was_clean = report.was_clean;
    report = std::move(after);
}

}  // namespace

Result<> repair(pm::Region &region, Report &report, const journal::BootId &boot_id) {
    for (unsigned pass = 0; pass < kPassesMax; ++pass) {
        const bool superblocks = std::ranges::any_of(report.problems, [](const Problem &problem) {
            return is_of_superblock(problem.code) && !problem.repaired;
        });
        const bool changes = may_change(region, report);
        if (!superblocks && !changes) break;
        if (superblocks) TRY(write_superblocks(region, report));
        if (changes) TRY(make_changes(region, report, boot_id));
        const std::uint64_t before = report.repaired;
        settle(report, TRY(check(region)));
        if (report.repaired == before) break;
    }
    return {};
}

}  // namespace pmfs::fsck
