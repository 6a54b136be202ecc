// What the parts of a check share: the volume to read, the report to fill, and what damage hides.
#pragma once
#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>

#include "base/bytes.h"
#include "fsck/check.h"
#include "media/verify.h"
#include "pm/region.h"

namespace pmfs::fsck {

// What of a block does not depend on its place: all but the header.
template <class T>
ConstBytes content_of(const T &block) {
    return bytes_of(block).subspan(sizeof(media::BlockHeader));
}

struct Context {
    Context(const pm::Region &r, const media::Superblock &s, const Options &o, Report &out)
        : region(r), sb(s), options(o), report(out) {}

    const pm::Region &region;
    const media::Superblock &sb;
    const Options &options;
    Report &report;

    // Something that owns blocks, or that contains names, cannot be read: then leaked blocks and
    // wrong link counts cannot be judged.
    bool lost_owners = false;
    bool lost_names = false;

    std::uint64_t block_count() const { return sb.block_count.get(); }
    std::uint64_t fsid() const { return sb.header.fsid.get(); }
    bool inside(std::uint64_t block) const { return block < block_count(); }

    // `block` must be inside.
    ConstBytes meta_block(std::uint64_t block) const {
        PMFS_ASSERT(inside(block));
        return {region.meta() + block * media::kBlockSize, media::kBlockSize};
    }
    ConstBytes data_block(std::uint64_t block) const {
        PMFS_ASSERT(inside(block));
        return {region.data() + block * media::kBlockSize, media::kBlockSize};
    }
    // The block as a T if it is whole and ours, otherwise null.
    template <class T>
    const T *whole(std::uint64_t block, media::Magic magic) const {
        static_assert(sizeof(T) == media::kBlockSize || sizeof(T) == sizeof(media::NodeHeader));
        const ConstBytes bytes = meta_block(block);
        if (!media::block_ok(bytes, magic, fsid(), block) || !reserved_zero(bytes, magic))
            return nullptr;
        return reinterpret_cast<const T *>(bytes.data());
    }

    // As media::reserved_zero(), on a volume whose fields this program knows.
    bool reserved_zero(ConstBytes block, media::Magic magic) const {
        return !media::knows_all_fields(sb) || media::reserved_zero(block, magic);
    }

    void found(Problem problem) { report.add(std::move(problem), options.problems_kept_max); }
    void found_block(Code code, std::uint64_t block, std::string detail = {}) {
        found({.code = code, .block = block, .detail = std::move(detail)});
    }
    void found_inode(Code code, std::uint64_t inode, std::string detail = {}) {
        found({.code = code, .inode = inode, .detail = std::move(detail)});
    }
    // The block should have the content of `right`; it is made anew if it is not whole.
    template <class T>
    void should_be(std::uint64_t block, media::Magic magic, bool whole, const T &right) {
        const ConstBytes content = content_of(right);
        const ConstBytes now = meta_block(block).subspan(sizeof(media::BlockHeader));
        if (whole && std::ranges::equal(now, content)) return;
        report.changes.push_back({.block = block,
                                  .magic = magic,
                                  .anew = !whole,
                                  .offset = sizeof(media::BlockHeader),
                                  .bytes = {content.begin(), content.end()}});
    }

    // Gives up: with so many problems this is not a volume with a few faults.
    bool give_up() {
        constexpr std::uint64_t kFoundMax = 1'000'000;
        if (report.found < kFoundMax) return false;
        report.gave_up = report.unjudged = lost_owners = lost_names = true;
        return true;
    }
};

}  // namespace pmfs::fsck
