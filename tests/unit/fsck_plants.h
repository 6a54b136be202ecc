// Faults for fsck to find, one for each thing that it knows, in the volume of support/builder.h.
#pragma once
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <array>
#include <cstring>
#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "fsck/problem.h"
#include "media/format.h"
#include "media/verify.h"
#include "support/builder.h"

namespace pmfs::test {

using namespace media;
using fsck::Code;

inline InlineExtent &inline_extent(Populated &p, std::uint64_t number, std::size_t i) {
    return reinterpret_cast<InlineExtent *>(p.b.inode(number).inline_bytes)[i];
}
inline void damage(Populated &p, std::uint64_t block) {
    p.b.bytes(block)[2000] ^= std::byte{1};
}
// The i-th entry of a node, in key order.
inline std::byte *entry(Populated &p, std::uint64_t node, std::size_t i) {
    std::byte *bytes = p.b.bytes(node);
    const auto slot = load<le16>(ConstBytes(bytes, kBlockSize), sizeof(NodeHeader) + 2 * i);
    return bytes + slot.get();
}
inline std::uint64_t key(Populated &p, std::uint64_t node, std::size_t i) {
    return load<le64>(ConstBytes(entry(p, node, i), kEntryHeader)).get();
}
inline void set_key(Populated &p, std::uint64_t node, std::size_t i, std::uint64_t value) {
    const le64 raw(value);
    std::memcpy(entry(p, node, i), &raw, sizeof raw);
    p.b.seal(node);
}
// The value of the one entry of `node` whose bytes end in `text`.
inline std::byte *value_with(Populated &p, std::uint64_t node, std::string_view text) {
    const std::size_t count = p.b.block<NodeHeader>(node).count.get();
    for (std::size_t i = 0; i < count; ++i) {
        std::byte *at = entry(p, node, i);
        const std::size_t size = load<le16>(ConstBytes(at, kEntryHeader), 8).get();
        const std::string_view value(reinterpret_cast<char *>(at) + kEntryHeader, size);
        if (value.find(text) != value.npos) return at + kEntryHeader;
    }
    FAIL("no such entry");
    return nullptr;
}
inline void set_target(Populated &p, std::uint64_t node, std::string_view name, std::uint64_t ino,
                       std::uint64_t type) {
    const le64 packed(ino | type << kDirTypeShift);
    std::memcpy(value_with(p, node, name), &packed, sizeof packed);
    p.b.seal(node);
}
inline constexpr std::uint64_t kSummaryA = 1, kBitmap = 2, kClasses = 11, kMap = 20, kSummaryB = 21;
static_assert(group_layout(0).summary_b == kSummaryB && group_layout(0).inode_map == kMap);

// The same metadata block at another place.
inline void move_block(Populated &p, std::uint64_t from, std::uint64_t to) {
    std::memcpy(p.b.bytes(to), p.b.bytes(from), kBlockSize);
    p.b.block<BlockHeader>(to).self.set(to);
    p.b.seal(to);
    p.b.mark(to, 1, true);
    p.b.classify(to, 1, true);
    p.b.release(from, 1);
}

// An access control list: a user may read, which is as much as a mode of 0644 says.
inline std::string list_of_0644() {
    constexpr std::uint32_t kNobody = ~0u;
    const struct {
        le16 tag, allowed;
        le32 id;
    } entries[] = {{le16(0x01), le16(6), le32(kNobody)},
                   {le16(0x02), le16(4), le32(1000)},
                   {le16(0x04), le16(4), le32(kNobody)},
                   {le16(0x10), le16(4), le32(kNobody)},
                   {le16(0x20), le16(4), le32(kNobody)}};
    return std::string("\2\0\0\0", 4) +
           std::string(reinterpret_cast<const char *>(entries), sizeof entries);
}

struct Planted {
    Code code;
    const char *how;
    std::function<void(Populated &)> plant;  // finish() follows
    bool finish = true;
    std::uint64_t mapping_unit = 4096;
};

std::span<const Planted> volume_plants();  // journal, inode maps, lists, space, trees
std::span<const Planted> file_plants();    // inodes, names, block maps, values
std::span<const Planted> grant_plants();   // grant records
inline std::array<std::span<const Planted>, 3> all_plants() {
    return {volume_plants(), file_plants(), grant_plants()};
}

}  // namespace pmfs::test
