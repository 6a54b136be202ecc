// Grant records: see grants.h.
#include "fsck/grants.h"

#include <dirent.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <span>
#include <tuple>
#include <utility>

#include "fsck/inodes.h"

namespace pmfs::fsck {

using namespace media;

namespace {

// The field that a record must not have, or null.
const char *more_than_a_record(const Inode &inode) {
    if (inode.mode.get() != S_IFREG) return "a mode";
    if (inode.nlink.get() != 0) return "a link count";
    if (inode.size.get() != 0) return "a size";
    if (inode.xattr_root.get() != 0) return "attributes";
    // The file blocks that it maps.
    if (inode.trim_from.get() >= inode.rdev.get()) return "an empty range";
    if ((inode.flags.get() & kKnownInodeFlags) != kGrantRecord) return "flags of a file";
    return nullptr;
}

GrantHolder holder_of(const Inode &inode) {
    return load<GrantHolder>(std::as_bytes(std::span(inode.seal_digest)));
}

// Flags that are unknown, or that need others.
std::uint32_t wrong_flags(std::uint32_t flags) {
    std::uint32_t wrong = flags & ~std::uint32_t{kKnownGrantFlags};
    if ((flags & kGrantPlaced) == 0) wrong |= flags & kGrantLent;
    const std::uint32_t reason = (flags & kGrantReasons) >> kGrantReasonShift;
    if (reason > static_cast<std::uint32_t>(GrantReason::still_mapped))
        wrong |= flags & kGrantReasons;
    return wrong;
}

void check_record(Context &context, std::uint64_t number, const Inode &inode) {
    const std::uint32_t flags = inode.flags.get();
    if ((flags & ~std::uint32_t{kKnownInodeFlags}) != 0)
        context.found_inode(Code::flags_wrong, number, fmt::format("unknown: {:#x}", flags));
    if (const char *more = more_than_a_record(inode); more != nullptr)
        context.found_inode(Code::grant_record_not_bare, number, more);
    if (const std::uint32_t wrong = wrong_flags(holder_of(inode).flags.get()); wrong != 0)
        context.found_inode(Code::grant_flags_wrong, number, fmt::format("{:#x}", wrong));
    const std::size_t count_max = inode.map_root.get() == 0 ? kInlineExtents : 0;
    if (inode.inline_count.get() > count_max)
        context.found_inode(
            Code::inline_count_wrong, number,
            fmt::format("{} where at most {} can be", inode.inline_count.get(), count_max));
}

}  // namespace

bool is_placed_record(const Inode &inode) {
    return (inode.flags.get() & kGrantRecord) != 0 &&
           (holder_of(inode).flags.get() & kGrantPlaced) != 0;
}

GrantRecord walk_grant_record(Context &context, Space &space, std::uint64_t number,
                              const Inode &inode) {
    check_record(context, number, inode);
    GrantRecord record{number, inode.parent.get(), inode.entries.get(), {}, {}, true};
    record.owned = walk_xattrs(context, space, number, inode);
    record.owned.add(walk_map(context, space, number, inode, MapOf::grant_record, &record.extents));
    return record;
}

namespace {

struct Run {  // of blocks, [start, end)
    std::uint64_t start, end;
    std::size_t record = 0;  // index, of a claim
};

// The records of one file at a time.
class Grants {
public:
    Grants(Context &context, Space &space, Inodes &inodes)
        : context_(context),
          space_(space),
          inodes_(inodes),
          second_look_(context.region, context.sb, context.options, unheard_),
          second_space_(second_look_) {}

    Result<> check();

private:
    // Problems of one record that are reported together.
    struct Fault {
        std::uint64_t block = 0, blocks = 0;
    };

    // Whether the file that a record names can exist or have existed; otherwise `why` not.
    struct Verdict {
        bool sure = true;           // false: what it may claim is unknown
        const char *why = nullptr;  // set: the record is wrong
    };

    void check_file(std::span<const GrantRecord> records, bool sure);
    Verdict judge(const GrantRecord &record);
    std::vector<Run> mapped_by_file(const GrantRecord &record);
    void keep(std::uint64_t start, std::uint64_t end, std::uint64_t record, Fault *fault);

    Context &context_;
    Space &space_;
    Inodes &inodes_;
    // A file's map is walked again when its blocks are needed.  Its faults were reported before.
    Report unheard_;
    Context second_look_;
    Space second_space_;
};

Result<> Grants::check() {
    std::vector<GrantRecord> &records = inodes_.grants();
    if (records.empty()) return {};
    TRY(second_space_.start());
    for (GrantRecord &record : records) {
        const Verdict verdict = judge(record);
        record.sure = verdict.sure;
        if (verdict.why != nullptr)
            context_.found_inode(Code::grant_file_impossible, record.inode,
                                 fmt::format("inode {}, generation {}: {}", record.file,
                                             record.generation, verdict.why));
    }
    // The sure ones first: then claims of others are not reported as their fault.
    const auto of = [](const GrantRecord &r) { return std::tuple(!r.sure, r.file, r.generation); };
    std::ranges::stable_sort(records, {}, of);
    for (auto first = records.begin(); first != records.end();) {
        const auto last =
            std::find_if(first, records.end(), [&](const auto &r) { return of(r) != of(*first); });
        check_file({first, last}, first->sure);
        if (context_.give_up()) return {};
        first = last;
    }
    return {};
}

// A slot keeps its generation when its file is freed, until the last inode of its chunk is freed
// together with the slots; and later files have greater ones.  So if a record's file is gone, its
// slot is missing, or was made again, or has the record's generation or a greater one.
Grants::Verdict Grants::judge(const GrantRecord &record) {
    if (record.file == 0) return {false, "no number"};
    if (record.generation == 0) return {false, "no generation"};
    if (!context_.inside(inodes_.maps().block_of(record.file)))
        return {false, "there can be no such inode"};
    const InodeInfo *info = inodes_.find(record.file);
    if (info == nullptr) return {!inodes_.hidden(record.file)};
    if (info->state != SlotState::free && info->state != SlotState::used) return {false};
    const std::uint64_t now = inodes_.at(record.file).generation.get();
    if (info->state == SlotState::used && now == 0) return {false};  // a problem of its own
    if (record.generation > now && now != 0) return {false, "a generation to come"};
    if (record.generation == now && info->state == SlotState::used &&
        (info->type != DT_REG || info->is_record()))
        return {false, info->type == DT_UNKNOWN ? nullptr : "no regular file"};
    return {};
}

// In the order of blocks; nothing when the file is gone.
std::vector<Run> Grants::mapped_by_file(const GrantRecord &record) {
    const InodeInfo *info = inodes_.find(record.file);
    if (info == nullptr || info->state != SlotState::used || info->type != DT_REG ||
        info->is_record())
        return {};
    const Inode &inode = inodes_.at(record.file);
    if (inode.generation.get() != record.generation) return {};
    std::vector<FileExtent> extents;
    (void)walk_map(second_look_, second_space_, record.file, inode, MapOf::file, &extents);
    std::vector<Run> runs;
    for (const FileExtent &extent : extents)
        runs.push_back({extent.start, extent.start + extent.blocks});
    std::ranges::sort(runs, {}, &Run::start);
    return runs;
}

void Grants::keep(std::uint64_t start, std::uint64_t end, std::uint64_t record, Fault *fault) {
    for (std::uint64_t at = start; at < end;) {
        const auto [next, owned] = space_.stretch(at, end);
        if (!owned) {
            space_.claim(at, next - at, BlockClass::data, record);
        } else {
            if (fault->blocks == 0) fault->block = at;
            fault->blocks += next - at;
        }
        at = next;
    }
}

// Several records of one file may claim the same blocks: each block is checked once.
void Grants::check_file(std::span<const GrantRecord> records, bool sure) {
    std::vector<Run> claims;
    for (std::size_t i = 0; i < records.size(); ++i)
        for (const FileExtent &extent : records[i].extents)
            claims.push_back({extent.start, extent.start + extent.blocks, i});
    std::ranges::sort(claims, {}, [](const Run &r) { return std::pair(r.start, r.record); });
    const std::vector<Run> mapped = mapped_by_file(records[0]);
    std::vector<Fault> faults(records.size());
    auto has = mapped.begin();  // the first run of the file that does not end before `at`
    std::uint64_t at = 0;
    for (const Run &claim : claims) {
        at = std::max(at, claim.start);
        while (at < claim.end) {
            while (has != mapped.end() && has->end <= at) ++has;
            std::uint64_t stop = claim.end;
            if (has != mapped.end() && has->start <= at) {
                stop = std::min(stop, has->end);
            } else {
                if (has != mapped.end()) stop = std::min(stop, has->start);
                keep(at, stop, records[claim.record].inode, &faults[claim.record]);
            }
            at = stop;
        }
    }
    if (!sure) return;
    for (std::size_t i = 0; i < records.size(); ++i)
        if (faults[i].blocks != 0)
            context_.found({.code = Code::grant_of_anothers_block,
                            .block = faults[i].block,
                            .inode = records[i].inode,
                            .detail = faults[i].blocks == 1
                                          ? ""
                                          : fmt::format("and {} more", faults[i].blocks - 1)});
}

}  // namespace

Result<> check_grants(Context &context, Space &space, Inodes &inodes) {
    Grants grants(context, space, inodes);
    return grants.check();
}

}  // namespace pmfs::fsck
