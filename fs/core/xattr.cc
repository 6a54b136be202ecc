// Extended attributes and blobs: see xattr.h.
#include "core/xattr.h"

#include <algorithm>
#include <cstring>

#include "base/assert.h"
#include "core/btree.h"
#include "core/budget.h"
#include "core/dir.h"
#include "core/inode.h"
#include "media/geometry.h"
#include "media/verify.h"

namespace pmfs::core {

using media::BlobBlock;
using media::BlobRun;
using media::kBlobBytes;
using media::kBlockSize;
using media::XattrValue;

namespace {

TreeId tree_of(InodeNo ino) {
    return {ino, media::TreeKind::xattr};
}

using budget::kBlobRunsMax;
static_assert(sizeof(XattrValue) + media::kNameMax + kBlobRunsMax * sizeof(BlobRun) <=
              media::kTreeValueMax);
static_assert(sizeof(XattrValue) + media::kNameMax + media::kXattrInlineMax <=
              media::kTreeValueMax);

struct Entry {
    std::uint64_t key = 0;
    std::string_view name;
    std::size_t value_size = 0;
    std::span<const std::byte> inline_value;
    std::vector<Run> runs;
};

Result<Entry> decode(const Cursor &at) {
    const auto bytes = at.value();
    XattrValue v;
    if (bytes.size() < sizeof v) return corrupt("an extended attribute has a wrong size");
    std::memcpy(&v, bytes.data(), sizeof v);
    const std::size_t name_end = sizeof v + v.name_size;
    const std::size_t tail = v.runs == 0 ? v.value_size.get() : v.runs * sizeof(BlobRun);
    if (v.value_size.get() > media::kXattrValueMax || bytes.size() != name_end + tail)
        return corrupt("an extended attribute has a wrong size");
    Entry e;
    e.key = at.key();
    e.name = {reinterpret_cast<const char *>(bytes.data()) + sizeof v, v.name_size};
    e.value_size = v.value_size.get();
    if (v.runs == 0) {
        e.inline_value = bytes.subspan(name_end);
        return e;
    }
    for (std::size_t i = 0; i < v.runs; ++i) {
        BlobRun run;
        std::memcpy(&run, bytes.data() + name_end + i * sizeof run, sizeof run);
        e.runs.push_back({BlockNo(run.start.get()), run.blocks.get()});
    }
    return e;
}

Result<Entry> find(const Reader &reader, const media::Inode &inode, InodeNo ino,
                   std::string_view name) {
    const std::uint64_t hash = name_hash(reader.core().superblock, name);
    Cursor at(reader, inode, tree_of(ino));
    for (TRY(at.seek(hash)); !at.at_end(); TRY(at.next())) {
        if ((at.key() & ~media::kCollisionMask) != hash) break;
        Entry e = TRY(decode(at));
        if (e.name == name) return e;
    }
    return Error(ENODATA, "the file has no such attribute");
}

// The key that an attribute gets: the first collision index that is free, or its own.
Result<std::uint64_t> free_key(const Reader &reader, const media::Inode &inode, InodeNo ino,
                               std::string_view name) {
    const std::uint64_t hash = name_hash(reader.core().superblock, name);
    std::uint64_t key = hash;
    Cursor at(reader, inode, tree_of(ino));
    for (TRY(at.seek(hash)); !at.at_end() && at.key() == key; TRY(at.next())) {
        if (TRY(decode(at)).name == name) break;
        if ((++key & ~media::kCollisionMask) != hash)
            return Error(ENOSPC, "256 attributes of the file have the same hash");
    }
    return key;
}

Result<> remove_entry(Change &change, media::Inode *inode, InodeNo ino, const Entry &e) {
    const std::vector<Run> runs = e.runs;  // e points into a node that is about to change
    TRY(tree_erase(change, inode, tree_of(ino), e.key));
    for (Run run : runs) {
        inode->blocks.set(inode->blocks.get() - run.blocks);
        while (run.blocks != 0) {
            if (!change.has_room(budget::kDataRun))
                return corrupt("a large attribute value has too many pieces");
            const Run piece = change.core().allocator.piece(run);
            TRY(change.core().allocator.give_back(change, piece));
            run = {piece.end(), run.blocks - piece.blocks};
        }
    }
    return {};
}

}  // namespace

Result<std::vector<Run>> write_blob(Change &change, media::Inode *inode, InodeNo owner,
                                    std::span<const std::byte> value, const Goal &goal) {
    std::vector<Run> runs;
    Goal together = goal;
    together.together = true;
    BlobBlock blob;
    for (std::size_t at = 0; at < value.size();) {
        const std::uint64_t left = (value.size() - at + kBlobBytes - 1) / kBlobBytes;
        if (runs.size() == kBlobRunsMax || !change.has_room(budget::kDataRun))
            return Error(ENOSPC, "the free space is too scattered for such a large value");
        const Run run = TRY(change.core().allocator.take_data(change, together, left));
        runs.push_back(run);
        inode->blocks.set(inode->blocks.get() + run.blocks);
        for (BlockNo block = run.start; block < run.end(); ++block) {
            const std::size_t size = std::min(kBlobBytes, value.size() - at);
            std::memset(static_cast<void *>(&blob), 0, sizeof blob);
            blob.header = media::header_of(media::Magic::blob, change.core().blocks().fsid(),
                                           block.value(), 0);
            blob.owner.set(owner.value());
            blob.offset.set(static_cast<std::uint32_t>(at));
            blob.size.set(static_cast<std::uint32_t>(size));
            std::memcpy(blob.bytes, value.data() + at, size);
            media::seal_block(blob);
            change.after(change.core().journal.write_data(media::byte_of(block),
                                                          std::as_bytes(std::span(&blob, 1))));
            at += size;
        }
    }
    return runs;
}

Result<std::vector<std::byte>> read_blob(Core &core, InodeNo owner, std::span<const Run> runs,
                                         std::size_t size) {
    std::vector<std::byte> value;
    value.reserve(size);
    for (const Run &run : runs) {
        for (BlockNo block = run.start; block < run.end(); ++block) {
            if (block >= BlockNo(core.blocks().count()))
                return corrupt("a blob is outside the volume");
            const std::byte *bytes = core.journal.region().data() + media::byte_of(block);
            if (!media::block_ok({bytes, kBlockSize}, media::Magic::blob, core.blocks().fsid(),
                                 block.value()) ||
                (media::knows_all_fields(core.superblock) &&
                 !media::reserved_zero({bytes, kBlockSize}, media::Magic::blob)))
                return corrupt("a block of a large value is damaged");
            const auto *blob = reinterpret_cast<const BlobBlock *>(bytes);
            const std::size_t n = blob->size.get();
            if (blob->owner.get() != owner.value() || blob->offset.get() != value.size() ||
                n == 0 || n > kBlobBytes || n > size - value.size())
                return corrupt("a block of a large value belongs to another place");
            const auto *at = reinterpret_cast<const std::byte *>(blob->bytes);
            value.insert(value.end(), at, at + n);
        }
    }
    if (value.size() != size) return corrupt("a large attribute value is incomplete");
    return value;
}

// Its header gets the new place; a damaged block stays where it is.
Result<pm::Unfenced> copy_blob(Core &core, Run from, Run to) {
    pm::Unfenced unfenced;
    for (std::uint64_t i = 0; i < from.blocks; ++i) {
        const BlockNo old = from.start + i, fresh = to.start + i;
        const std::byte *bytes = core.journal.region().data() + media::byte_of(old);
        if (!media::block_ok({bytes, kBlockSize}, media::Magic::blob, core.blocks().fsid(),
                             old.value())) {
            core.journal.persist(std::move(unfenced));
            return corrupt("a block of a large value is damaged");
        }
        BlobBlock blob;
        std::memcpy(static_cast<void *>(&blob), bytes, sizeof blob);
        blob.header.self.set(fresh.value());
        media::seal_block(blob);
        unfenced.add(
            core.journal.write_data(media::byte_of(fresh), std::as_bytes(std::span(&blob, 1))));
    }
    return unfenced;
}

Result<std::optional<PlacedXattr>> next_xattr(const Reader &reader, const media::Inode &inode,
                                              InodeNo ino, std::uint64_t key) {
    Cursor at(reader, inode, tree_of(ino));
    TRY(at.seek(key));
    if (at.at_end()) return std::optional<PlacedXattr>();
    Entry e = TRY(decode(at));
    return std::optional(PlacedXattr{e.key, std::move(e.runs)});
}

Result<std::uint64_t> move_xattr(Core &core, InodeNo ino, std::uint64_t key, const Goal &goal) {
    std::string name;
    std::vector<std::byte> value;
    {
        const Reader reader(core);
        const media::Inode *inode = TRY(read_inode(reader, ino));
        Cursor at(reader, *inode, tree_of(ino));
        if (inode->xattr_root.get() != 0) TRY(at.seek(key));
        if (at.at_end() || at.key() != key) return Error(ENODATA, "the attribute was removed");
        const Entry e = TRY(decode(at));
        if (e.runs.empty()) return Error(ENODATA, "the attribute has no large value");
        name = e.name;
        // Otherwise another entry would be written, and this one would stay.
        if (TRY(find(reader, *inode, ino, name)).key != key)
            return corrupt("an extended attribute is not in its place");
        value = TRY(read_blob(core, ino, e.runs, e.value_size));
    }
    TRY(xattr_make_room(core, ino, name, value.size()));
    Change change(core);
    TRY(change.begin());
    media::Inode *inode = TRY(edit_inode(change, ino));
    TRY(set_xattr(change, inode, ino, name, value, goal));
    TRY(change.commit());
    return media::blob_blocks(value.size());
}

Result<std::vector<std::byte>> get_xattr(const Reader &reader, const media::Inode &inode,
                                         InodeNo ino, std::string_view name) {
    const Entry e = TRY(find(reader, inode, ino, name));
    if (!e.runs.empty()) return read_blob(reader.core(), ino, e.runs, e.value_size);
    return std::vector<std::byte>(e.inline_value.begin(), e.inline_value.end());
}

bool has_xattr(const Reader &reader, const media::Inode &inode, InodeNo ino,
               std::string_view name) {
    return inode.xattr_root.get() != 0 && find(reader, inode, ino, name).ok();
}

Result<> list_xattrs(const Reader &reader, const media::Inode &inode, InodeNo ino,
                     const std::function<void(std::string_view)> &each) {
    Cursor at(reader, inode, tree_of(ino));
    for (TRY(at.seek(0)); !at.at_end(); TRY(at.next())) each(TRY(decode(at)).name);
    return {};
}

Result<> xattr_make_room(Core &core, InodeNo ino, std::string_view name, std::size_t value_size) {
    const std::size_t tail =
        value_size <= media::kXattrInlineMax ? value_size : kBlobRunsMax * sizeof(BlobRun);
    const Reader reader(core);
    const std::uint64_t key = TRY(free_key(reader, *TRY(read_inode(reader, ino)), ino, name));
    return tree_make_room(core, tree_of(ino), key,
                          NodeView::cost(sizeof(XattrValue) + name.size() + tail), Need::growth);
}

Result<> set_xattr(Change &change, media::Inode *inode, InodeNo ino, std::string_view name,
                   std::span<const std::byte> value, const Goal &goal) {
    const Reader reader(change);
    const auto old = find(reader, *inode, ino, name);
    if (old.ok())
        TRY(remove_entry(change, inode, ino, old.value()));
    else if (old.error().errno_value() != ENODATA)
        return old.error();

    std::vector<std::byte> bytes(sizeof(XattrValue));
    const auto append = [&bytes](std::span<const std::byte> more) {
        bytes.insert(bytes.end(), more.begin(), more.end());
    };
    append(std::as_bytes(std::span(name)));
    std::vector<Run> runs;
    if (value.size() <= media::kXattrInlineMax) {
        append(value);
    } else {
        // The leaf first, because write_blob() stops when the transaction is full.
        if (inode->xattr_root.get() == 0) TRY(tree_begin(change, inode, tree_of(ino)));
        runs = TRY(write_blob(change, inode, ino, value, goal));
        for (const Run &run : runs) {
            const BlobRun r{media::le64(run.start.value()), media::le64(run.blocks)};
            append(std::as_bytes(std::span(&r, 1)));
        }
    }
    XattrValue v{};
    v.value_size.set(static_cast<std::uint32_t>(value.size()));
    v.name_size = static_cast<std::uint8_t>(name.size());
    v.runs = static_cast<std::uint8_t>(runs.size());
    std::memcpy(bytes.data(), &v, sizeof v);

    const std::uint64_t key = TRY(free_key(reader, *inode, ino, name));
    return tree_insert(change, inode, tree_of(ino), key, bytes);
}

Result<> remove_xattr(Change &change, media::Inode *inode, InodeNo ino, std::string_view name) {
    return remove_entry(change, inode, ino, TRY(find(Reader(change), *inode, ino, name)));
}

Result<> remove_any_xattr(Change &change, media::Inode *inode, InodeNo ino) {
    Cursor at(Reader(change), *inode, tree_of(ino));
    TRY(at.seek(0));
    if (at.at_end()) return Error(ENODATA, "the file has no attributes");
    return remove_entry(change, inode, ino, TRY(decode(at)));
}

}  // namespace pmfs::core
