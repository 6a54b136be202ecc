// One node of a B+tree: a slot directory in key order over a heap of entries (media/format.h).
//
// A change touches the header's line, the slots behind the one that moved, and the entry: few
// lines, so a short record.  Reading never trusts the media: an entry whose offset or length points
// outside of the node does not exist, and check() says whether a node's structure is sound.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "media/format.h"

namespace pmfs::core {

inline std::uint64_t load_u64(const std::byte *at) {
    media::le64 v;
    std::memcpy(&v, at, sizeof v);
    return v.get();
}
inline std::uint16_t load_u16(const std::byte *at) {
    media::le16 v;
    std::memcpy(&v, at, sizeof v);
    return v.get();
}

// Reads a node that check() found sound.
class NodeView {
public:
    explicit NodeView(const void *bytes) : bytes_(static_cast<const std::byte *>(bytes)) {}

    const media::NodeHeader &header() const {
        return *reinterpret_cast<const media::NodeHeader *>(bytes_);
    }
    unsigned count() const { return header().count.get(); }
    unsigned level() const { return header().level; }
    bool leaf() const { return header().level == 0; }

    std::uint64_t key(unsigned slot) const { return load_u64(entry(slot)); }
    std::span<const std::byte> value(unsigned slot) const {
        const std::byte *at = entry(slot);
        const std::size_t size = load_u16(at + 8);
        const std::size_t room =
            media::kBlockSize - media::kEntryHeader - static_cast<std::size_t>(at - bytes_);
        return {at + media::kEntryHeader, size < room ? size : room};
    }
    // An interior node's child; 0 (never a node) if the entry is no child pointer.
    std::uint64_t child(unsigned slot) const {
        const auto v = value(slot);
        return v.size() == 8 ? load_u64(v.data()) : 0;
    }

    // First slot whose key is >= `key`; count() if none.
    unsigned lower_bound(std::uint64_t key) const;
    // The slot of the child that covers `key` in an interior node (the first one counts as -inf).
    unsigned child_slot(std::uint64_t key) const;

    // Bytes that an entry with this value takes, slot included.
    static std::size_t cost(std::size_t value_size) {
        return media::kEntryHeader + value_size + sizeof(media::le16);
    }
    std::size_t free_bytes() const {  // after compaction
        return header().heap_start.get() + header().dead_bytes.get() - slots_end();
    }
    std::size_t used_bytes() const {
        return media::kBlockSize - sizeof(media::NodeHeader) - free_bytes();
    }

    // True when every slot leads to an entry of its own inside the heap, and the keys grow.
    bool check() const;

protected:
    std::size_t slots_end() const { return sizeof(media::NodeHeader) + count() * 2; }
    std::uint16_t offset(unsigned slot) const {
        return load_u16(bytes_ + sizeof(media::NodeHeader) + slot * 2);
    }
    const std::byte *entry(unsigned slot) const {
        const std::size_t at = offset(slot);
        constexpr std::size_t last = media::kBlockSize - media::kEntryHeader;
        return bytes_ + (at <= last ? at : last);
    }
    const std::byte *bytes_;
};

// Changes a node's copy in a transaction.
class NodeEdit : public NodeView {
public:
    explicit NodeEdit(void *bytes) : NodeView(bytes), out_(static_cast<std::byte *>(bytes)) {}

    void init(std::uint64_t owner, media::TreeKind kind, unsigned level);
    // The caller has made sure that cost(value.size()) <= free_bytes().
    void insert(unsigned slot, std::uint64_t key, std::span<const std::byte> value);
    void erase(unsigned slot);
    // A value of the same length.
    void replace(unsigned slot, std::span<const std::byte> value);
    void set_key(unsigned slot, std::uint64_t key);
    // Moves slots [from, count) to the end of `to`.
    void move_tail(unsigned from, NodeEdit &to);

private:
    media::NodeHeader &mutable_header() { return *reinterpret_cast<media::NodeHeader *>(out_); }
    void set_offset(unsigned slot, std::size_t offset) {
        const media::le16 v(static_cast<std::uint16_t>(offset));
        std::memcpy(out_ + sizeof(media::NodeHeader) + slot * 2, &v, sizeof v);
    }
    void compact();
    std::byte *out_;
};

}  // namespace pmfs::core
