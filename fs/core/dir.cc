// Directory entries: see dir.h.
#include "core/dir.h"

#include <sodium.h>

#include <cstring>

#include "base/assert.h"
#include "core/inode.h"

namespace pmfs::core {

using media::DirValue;

namespace {

TreeId tree_of(InodeNo dir) {
    return {dir, media::TreeKind::directory};
}

struct Encoded {
    std::array<std::byte, sizeof(DirValue) + media::kNameMax> bytes;
    std::size_t size;
    std::span<const std::byte> span() const { return {bytes.data(), size}; }
};
Encoded encode(std::string_view name, InodeNo ino, std::uint8_t type) {
    Encoded e;
    const DirValue v{media::le64(ino.value() | std::uint64_t{type} << media::kDirTypeShift)};
    std::memcpy(e.bytes.data(), &v, sizeof v);
    std::memcpy(e.bytes.data() + sizeof v, name.data(), name.size());
    e.size = sizeof v + name.size();
    return e;
}

}  // namespace

std::uint64_t name_hash(const media::Superblock &sb, std::string_view name) {
    static_assert(sizeof sb.hash_key == crypto_shorthash_KEYBYTES);
    media::le64 hash;
    static_assert(sizeof hash == crypto_shorthash_BYTES);
    crypto_shorthash(reinterpret_cast<unsigned char *>(&hash),
                     reinterpret_cast<const unsigned char *>(name.data()), name.size(),
                     sb.hash_key);
    const std::uint64_t key = (hash.get() >> 1) & ~media::kCollisionMask;
    return key == 0 ? media::kCollisionMask + 1 : key;
}

Result<> check_name(std::string_view name) {
    if (name.size() > media::kNameMax) return Error(ENAMETOOLONG, "a name has at most 255 bytes");
    if (name.empty() || name == "." || name == ".." || name.find('/') != name.npos ||
        name.find('\0') != name.npos)
        return Error(EINVAL, "not a valid file name");
    return {};
}

Result<Name> decode_name(const Cursor &at) {
    const auto value = at.value();
    if (value.size() <= sizeof(DirValue) || value.size() > sizeof(DirValue) + media::kNameMax)
        return corrupt("a directory entry has a wrong size");
    const std::uint64_t packed = load_u64(value.data());
    return Name{at.key(),
                InodeNo(packed & ((std::uint64_t{1} << media::kDirTypeShift) - 1)),
                static_cast<std::uint8_t>(packed >> media::kDirTypeShift),
                {reinterpret_cast<const char *>(value.data()) + sizeof(DirValue),
                 value.size() - sizeof(DirValue)}};
}

Result<Name> find_name(const Reader &reader, const media::Inode &dir, InodeNo dir_ino,
                       std::string_view name) {
    const std::uint64_t hash = name_hash(reader.core().superblock, name);
    Cursor at(reader, dir, tree_of(dir_ino));
    for (TRY(at.seek(hash)); !at.at_end(); TRY(at.next())) {
        if ((at.key() & ~media::kCollisionMask) != hash) break;
        const Name found = TRY(decode_name(at));
        if (found.text == name) return found;
    }
    return Error(ENOENT, "no such name in the directory");
}

namespace {

// The key that a new name gets: the first collision index that is free.
Result<std::uint64_t> free_key(const Reader &reader, const media::Inode &dir, InodeNo dir_ino,
                               std::string_view name) {
    const std::uint64_t hash = name_hash(reader.core().superblock, name);
    std::uint64_t key = hash;
    Cursor at(reader, dir, tree_of(dir_ino));
    for (TRY(at.seek(hash)); !at.at_end() && at.key() == key; TRY(at.next()))
        if ((++key & ~media::kCollisionMask) != hash)
            return Error(ENOSPC, "256 names of the directory have the same hash");
    return key;
}

}  // namespace

Result<> dir_make_room(Core &core, InodeNo dir, std::string_view name, Need need) {
    const Reader reader(core);
    const std::uint64_t key = TRY(free_key(reader, *TRY(read_inode(reader, dir)), dir, name));
    return tree_make_room(core, tree_of(dir), key, NodeView::cost(sizeof(DirValue) + name.size()),
                          need);
}

Result<> dir_make_leaf(Core &core, InodeNo dir) {
    if (TRY(read_inode(Reader(core), dir))->map_root.get() != 0) return {};
    Change change(core);
    TRY(change.begin());
    TRY(tree_begin(change, TRY(edit_inode(change, dir)), tree_of(dir)));
    TRY(change.commit());
    return {};
}

Result<> dir_insert(Change &change, media::Inode *dir, InodeNo dir_ino, std::string_view name,
                    InodeNo ino, std::uint8_t type) {
    const std::uint64_t key = TRY(free_key(Reader(change), *dir, dir_ino, name));
    TRY(tree_insert(change, dir, tree_of(dir_ino), key, encode(name, ino, type).span()));
    dir->entries.set(dir->entries.get() + 1);
    return {};
}

Result<> dir_remove(Change &change, media::Inode *dir, InodeNo dir_ino, std::uint64_t key) {
    TRY(tree_erase(change, dir, tree_of(dir_ino), key));
    if (dir->entries.get() == 0) return corrupt("a directory has more entries than it counts");
    dir->entries.set(dir->entries.get() - 1);
    return {};
}

Result<> dir_replace(Change &change, media::Inode *dir, InodeNo dir_ino, const Name &name,
                     InodeNo ino, std::uint8_t type) {
    const Encoded e = encode(name.text, ino, type);
    return tree_replace(change, dir, tree_of(dir_ino), name.key, e.span());
}

}  // namespace pmfs::core
