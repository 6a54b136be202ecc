// Numbers that must not mix: an inode number is not a block number, and an index is not a count.
//
// An Id names one thing of a kind. Ids of the same kind can be compared, advanced by a plain count,
// and subtracted, which gives a count; `id % unit` counts from the last multiple of a unit. Nothing
// else is possible. All of it compiles to one register.
#pragma once
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>

namespace pmfs {

template <class Tag>
class Id {
public:
    constexpr Id() = default;
    constexpr explicit Id(std::uint64_t value) : value_(value) {}

    constexpr std::uint64_t value() const { return value_; }
    friend constexpr auto operator<=>(Id, Id) = default;

    constexpr Id &operator++() {
        ++value_;
        return *this;
    }
    constexpr Id &operator--() {
        --value_;
        return *this;
    }
    constexpr Id &operator+=(std::uint64_t count) {
        value_ += count;
        return *this;
    }
    constexpr Id &operator-=(std::uint64_t count) {
        value_ -= count;
        return *this;
    }
    friend constexpr Id operator+(Id id, std::uint64_t count) { return Id(id.value_ + count); }
    friend constexpr Id operator-(Id id, std::uint64_t count) { return Id(id.value_ - count); }
    friend constexpr std::uint64_t operator-(Id to, Id from) { return to.value_ - from.value_; }
    friend constexpr std::uint64_t operator%(Id id, std::uint64_t unit) { return id.value_ % unit; }

private:
    std::uint64_t value_ = 0;
};

using BlockNo = Id<struct BlockNoTag>;        // a 4 KiB block of the region, from its start
using FileBlock = Id<struct FileBlockTag>;    // a 4 KiB block of a file, from its start
using ByteOffset = Id<struct ByteOffsetTag>;  // a byte of the region, from its start
using InodeNo = Id<struct InodeNoTag>;        // a file, directory or symlink
using GroupNo = Id<struct GroupNoTag>;        // an allocation group
using ChunkNo = Id<struct ChunkNoTag>;        // an aligned 2 MiB of the region, from its start
using TxSeq = Id<struct TxSeqTag>;            // a transaction, in commit order; 0 is none

static_assert(sizeof(BlockNo) == sizeof(std::uint64_t));

}  // namespace pmfs

template <class Tag>
struct std::hash<pmfs::Id<Tag>> {
    std::size_t operator()(pmfs::Id<Tag> id) const noexcept {
        // Ids are dense, so spread them (the odd constant of Fibonacci hashing, Knuth 6.4).
        return static_cast<std::size_t>(id.value() * 0x9e3779b97f4a7c15u);
    }
};
