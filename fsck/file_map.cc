// Block maps: see file_map.h.
#include "fsck/file_map.h"

#include <fmt/format.h>
#include <sodium/crypto_generichash.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "fsck/names.h"
#include "fsck/tree.h"

namespace pmfs::fsck {

using namespace media;

namespace {

// The digest of a sealed map: docs/format.md "Digest".
class MapDigest {
public:
    explicit MapDigest(std::uint64_t size) {
        crypto_generichash_init(&state_, nullptr, 0, kBytes);
        update(size);
    }
    void add(const FileExtent &run) {
        update(run.file_block);
        update(run.start);
        update(run.blocks);
        update(run.flags);  // le32 flags and le32 zero
    }
    bool is(const std::uint8_t (&digest)[32]) {
        unsigned char out[kBytes];
        crypto_generichash_final(&state_, out, kBytes);
        return std::memcmp(out, digest, kBytes) == 0;
    }

private:
    static constexpr std::size_t kBytes = 32;
    void update(std::uint64_t value) {
        const le64 raw(value);
        crypto_generichash_update(&state_, reinterpret_cast<const unsigned char *>(&raw),
                                  sizeof raw);
    }
    crypto_generichash_state state_;
};

// Extents of one inode, in file order, one after another.
class MapCheck {
public:
    MapCheck(Context &context, Space &space, std::uint64_t number, const Inode &inode, MapOf of,
             std::vector<FileExtent> *out)
        : context_(context),
          space_(space),
          number_(number),
          inode_(inode),
          of_(of),
          out_(out),
          sealed_(of == MapOf::file && must_hold(inode)) {
        if (sealed_) digest_.emplace(inode.size.get());
    }

    void add(const FileExtent &extent);
    void add_broken(std::string detail);
    void finish();
    Owned owned;

private:
    // A sealed file without a name is being freed: part of its map may be gone.
    static bool must_hold(const Inode &inode) {
        return (inode.flags.get() & kSealed) != 0 && inode.nlink.get() != 0;
    }
    bool in_place(const FileExtent &extent) const;
    bool allowed(const FileExtent &extent) const;
    bool granted(const FileExtent &extent);
    void merge(const FileExtent &extent);
    void end_run();
    // File blocks that a full seal needs: whole mapping units, up to the one with the last byte.
    std::uint64_t full_end() const {
        return align_up(std::min(inode_.size.get(), kFileSizeMax), context_.sb.mapping_unit.get()) /
               kBlockSize;
    }
    void check_full(const FileExtent &run);
    void say_once(Code code, std::string detail) {
        if (said_) return;
        said_ = true;
        context_.found_inode(code, number_, std::move(detail));
    }

    Context &context_;
    Space &space_;
    const std::uint64_t number_;
    const Inode &inode_;
    const MapOf of_;
    std::vector<FileExtent> *const out_;
    const bool sealed_;
    std::uint64_t end_ = 0;  // first file block behind the extents so far

    // Of a sealed file.
    std::optional<MapDigest> digest_;
    FileExtent run_{};
    std::uint64_t covered_ = 0;  // file blocks from 0 on that have a place
    bool said_ = false;
};

void MapCheck::add_broken(std::string detail) {
    context_.found_inode(Code::extent_broken, number_, std::move(detail));
    owned.complete = false;
    context_.lost_owners = true;
}

// Inside the volume, and in one group.
bool MapCheck::in_place(const FileExtent &extent) const {
    return extent.start < context_.block_count() &&
           extent.blocks <= context_.block_count() - extent.start &&
           extent.start / kGroupBlocks == (extent.start + extent.blocks - 1) / kGroupBlocks;
}

bool MapCheck::allowed(const FileExtent &extent) const {
    if (extent.file_block < kDonorBase)
        return extent.file_block < kFileBlocksMax &&
               extent.blocks <= kFileBlocksMax - extent.file_block;
    return (inode_.flags.get() & kTrimPending) != 0 &&
           inode_.trim_from.get() <= extent.file_block &&
           extent.file_block - kDonorBase < kFileBlocksMax;
}

// False when it is unknown which blocks are meant.
bool MapCheck::granted(const FileExtent &extent) {
    const bool same = extent.file_block == extent.start;
    if (!same || extent.flags != 0)
        context_.found_inode(
            Code::grant_extent_wrong, number_,
            fmt::format("at file block {}: {} blocks from {} on, flags {:#x}", extent.file_block,
                        extent.blocks, extent.start, extent.flags));
    if (!same) context_.lost_owners = true;
    return same;
}

void MapCheck::add(const FileExtent &extent) {
    if (extent.blocks == 0 || (extent.flags & ~std::uint32_t{kUnwritten}) != 0)
        return add_broken(fmt::format("at file block {}: {} blocks, flags {:#x}", extent.file_block,
                                      extent.blocks, extent.flags));
    if (!in_place(extent)) {
        context_.found_inode(Code::extent_outside, number_,
                             fmt::format("at file block {}: {} blocks from {} on",
                                         extent.file_block, extent.blocks, extent.start));
        owned.complete = false;
        context_.lost_owners = true;
        return;
    }
    if (of_ == MapOf::grant_record && !granted(extent)) return;
    if (!allowed(extent))
        context_.found_inode(Code::extent_past_limit, number_,
                             fmt::format("at file block {}", extent.file_block));
    else if (extent.file_block < end_)
        context_.found_inode(Code::extents_overlap, number_,
                             fmt::format("at file block {}", extent.file_block));
    end_ = std::max(end_, extent.file_block + extent.blocks);
    if (of_ != MapOf::grant_record) {
        space_.claim(extent.start, extent.blocks, BlockClass::data, number_);
        owned.blocks += extent.blocks;
    }
    if (out_ != nullptr) out_->push_back(extent);
    if (sealed_ && extent.file_block < kDonorBase) merge(extent);
}

void MapCheck::merge(const FileExtent &extent) {
    if (run_.blocks != 0 && run_.file_block + run_.blocks == extent.file_block &&
        run_.start + run_.blocks == extent.start && run_.flags == extent.flags) {
        run_.blocks += extent.blocks;
        return;
    }
    end_run();
    run_ = extent;
}

void MapCheck::end_run() {
    if (run_.blocks == 0) return;
    digest_->add(run_);
    if ((inode_.flags.get() & kSealedFull) != 0) check_full(run_);
}

void MapCheck::check_full(const FileExtent &run) {
    const std::uint64_t unit = context_.sb.mapping_unit.get() / kBlockSize;
    if (run.file_block >= full_end()) return;
    if (run.file_block != covered_)
        return say_once(Code::sealed_incomplete, fmt::format("a hole at file block {}", covered_));
    if (run.flags != 0)
        return say_once(Code::sealed_incomplete,
                        fmt::format("unwritten blocks at file block {}", run.file_block));
    if (run.file_block % unit != 0 || run.start % unit != 0)
        return say_once(Code::sealed_misaligned,
                        fmt::format("file block {} is at block {}", run.file_block, run.start));
    covered_ = run.file_block + run.blocks;
}

void MapCheck::finish() {
    if (!sealed_ || !owned.complete) return;
    end_run();
    if ((inode_.flags.get() & kSealedFull) != 0 && covered_ < full_end())
        say_once(Code::sealed_incomplete, fmt::format("a hole at file block {}", covered_));
    if (!digest_->is(inode_.seal_digest)) say_once(Code::seal_digest_wrong, {});
}

FileExtent extent_of(const InlineExtent &raw) {
    return {raw.file_block.get(), raw.start.get(), raw.blocks.get(), raw.flags.get()};
}

void add_inline(MapCheck &check, const Inode &inode) {
    const ConstBytes bytes = std::as_bytes(std::span(inode.inline_bytes));
    for (std::size_t i = 0; i < inode.inline_count.get(); ++i)
        check.add(extent_of(load<InlineExtent>(bytes, i * sizeof(InlineExtent))));
}

}  // namespace

Owned walk_map(Context &context, Space &space, std::uint64_t number, const Inode &inode, MapOf of,
               std::vector<FileExtent> *out) {
    MapCheck check(context, space, number, inode, of, out);
    if (inode.map_root.get() == 0 && inode.inline_count.get() > kInlineExtents) {
        context.lost_owners = true;  // reported as inline_count_wrong
        check.owned.complete = false;
    } else if (inode.map_root.get() == 0) {
        add_inline(check, inode);
    } else {
        const TreeWalk walk =
            walk_tree(context, space, inode.map_root.get(), number, TreeKind::map,
                      [&](std::uint64_t key, ConstBytes value) {
                          if (value.size() != sizeof(MapValue))
                              return check.add_broken(
                                  fmt::format("at file block {}: {} bytes", key, value.size()));
                          const auto raw = load<MapValue>(value);
                          check.add({key, raw.start.get(), raw.blocks.get(), raw.flags.get()});
                      });
        check.owned.blocks += walk.nodes;
        check.owned.complete &= walk.complete;
    }
    check.finish();
    return check.owned;
}

Owned walk_blobs(Context &context, Space &space, std::uint64_t number, std::uint64_t start,
                 std::uint64_t blocks, std::uint64_t size, std::uint64_t *offset) {
    if (start >= context.block_count() || blocks == 0 || blocks > context.block_count() - start) {
        context.found_inode(Code::extent_outside, number,
                            fmt::format("a large value: {} blocks from {} on", blocks, start));
        context.lost_owners = true;
        return {0, false};
    }
    const bool alone = space.claim(start, blocks, BlockClass::data, number);
    for (std::uint64_t block = start; block < start + blocks && alone; ++block) {
        const ConstBytes bytes = context.data_block(block);
        const auto &blob = *reinterpret_cast<const BlobBlock *>(bytes.data());
        const std::uint64_t piece = std::min<std::uint64_t>(size - *offset, kBlobBytes);
        if (!block_ok(bytes, Magic::blob, context.fsid(), block) ||
            !context.reserved_zero(bytes, Magic::blob))
            context.found({.code = Code::blob_damaged, .block = block, .inode = number});
        else if (blob.owner.get() != number || blob.offset.get() != *offset ||
                 blob.size.get() != piece)
            context.found({.code = Code::blob_misplaced, .block = block, .inode = number});
        *offset += piece;
    }
    return {blocks, true};
}

namespace {

// A target that is too long for its inode, in one or two blocks.
Owned walk_long_target(Context &context, Space &space, std::uint64_t number, const Inode &inode) {
    const ConstBytes bytes = std::as_bytes(std::span(inode.inline_bytes));
    const std::uint64_t size = inode.size.get(), blocks = blob_blocks(size);
    std::vector<FileExtent> extents;
    std::uint64_t mapped = 0;
    for (std::uint32_t i = 0; i < inode.inline_count.get() && mapped < blocks; ++i) {
        extents.push_back(extent_of(load<InlineExtent>(bytes, i * sizeof(InlineExtent))));
        const FileExtent &e = extents.back();
        if (e.file_block != mapped || e.flags != 0 || e.blocks == 0) break;
        mapped += e.blocks;
    }
    if (mapped != blocks || extents.size() != inode.inline_count.get()) {
        context.found_inode(Code::symlink_broken, number,
                            fmt::format("a target of {} bytes is in {}", size,
                                        blocks == 1 ? "one block" : "two blocks"));
        context.lost_owners = true;
        return {0, false};
    }
    Owned owned;
    std::uint64_t offset = 0;
    for (const FileExtent &e : extents) {
        const Owned piece = walk_blobs(context, space, number, e.start, e.blocks, size, &offset);
        owned.add(piece);
        for (std::uint64_t block = e.start; block < e.start + piece.blocks; ++block) {
            const ConstBytes raw = context.data_block(block);
            const auto &blob = *reinterpret_cast<const BlobBlock *>(raw.data());
            if (!block_ok(raw, Magic::blob, context.fsid(), block) || blob.size.get() > kBlobBytes)
                continue;
            const auto text = text_in(std::as_bytes(std::span(blob.bytes)).first(blob.size.get()));
            if (text.find('\0') != std::string_view::npos)
                context.found_inode(Code::symlink_broken, number, "a zero byte in it");
        }
    }
    return owned;
}

}  // namespace

Owned walk_symlink(Context &context, Space &space, std::uint64_t number, const Inode &inode) {
    const std::uint64_t size = inode.size.get();
    if (size == 0 || size > kSymlinkMax) return {0, false};  // reported as size_wrong
    if (size <= kInlineBytes) {
        const auto target = text_in(std::as_bytes(std::span(inode.inline_bytes)).first(size));
        if (target.find('\0') != std::string_view::npos)
            context.found_inode(Code::symlink_broken, number, "a zero byte in it");
        return {};
    }
    return walk_long_target(context, space, number, inode);
}

}  // namespace pmfs::fsck
