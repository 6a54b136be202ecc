// The persistent B+tree: extent maps, directories and xattrs (media/format.h has its bytes).
//
// An operation of the filesystem first makes room where it will insert: each split is a transaction
// of its own that changes no content, so that the operation's transaction touches a leaf or two and
// stays below its maximum whatever the tree's depth.  In the same way a node that became sparse
// is merged after the operation.  A crash between them leaves a sound tree.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <span>

#include "base/ids.h"
#include "base/result.h"
#include "core/alloc.h"
#include "core/change.h"
#include "core/node.h"

namespace pmfs::core {

// Which tree of which inode; the root is read from the inode each time.
struct TreeId {
    InodeNo owner;
    media::TreeKind kind;
};

inline const media::le64 &root_of(const media::Inode &inode, media::TreeKind kind) {
    return kind == media::TreeKind::xattr ? inode.xattr_root : inode.map_root;
}
inline media::le64 &root_of(media::Inode &inode, media::TreeKind kind) {
    return kind == media::TreeKind::xattr ? inode.xattr_root : inode.map_root;
}

// A place in a tree: the nodes from the root down to a leaf.  Valid until the tree changes.
class Cursor {
public:
    Cursor(const Reader &reader, const media::Inode &inode, TreeId id)
        : reader_(reader), id_(id), root_(BlockNo(root_of(inode, id.kind).get())) {}

    // First entry with a key >= `key`, or the end.
    Result<> seek(std::uint64_t key);
    // Last entry with a key <= `key`, or the end if there is none.
    Result<> seek_floor(std::uint64_t key);
    // Descends only to the leaf where `key` belongs; at_end() stays true.
    Result<> seek_leaf(std::uint64_t key) { return descend(key); }
    bool at_end() const { return !valid_; }
    Result<> next();

    std::uint64_t key() const { return node(0).key(steps_[0].slot); }
    std::span<const std::byte> value() const { return node(0).value(steps_[0].slot); }

    BlockNo leaf_block() const { return steps_[0].block; }
    unsigned leaf_slot() const { return steps_[0].slot; }
    unsigned depth() const { return depth_; }  // levels; 0 for an empty tree
    BlockNo block(unsigned level) const { return steps_[level].block; }
    unsigned slot(unsigned level) const { return steps_[level].slot; }
    NodeView node(unsigned level) const { return NodeView(steps_[level].bytes); }

private:
    struct Step {
        BlockNo block;
        unsigned slot = 0;
        const std::byte *bytes = nullptr;
        // Keys of an interior node: low <= key < high.
        std::uint64_t low = 0, high = ~std::uint64_t{0};
    };
    Result<> descend(std::uint64_t key);
    Result<> load(unsigned level, BlockNo block, const Step *parent);
    Result<> enter(unsigned level, bool last);
    Result<> step();
    Result<> step_back();

    Reader reader_;
    TreeId id_;
    BlockNo root_;
    unsigned depth_ = 0;
    bool valid_ = false;
    std::array<Step, media::kTreeDepthMax> steps_;  // [0] = leaf
};

// --- changes within a transaction.  `inode` is its copy in that transaction.

// Gives an empty tree its first leaf.
Result<> tree_begin(Change &change, media::Inode *inode, TreeId id);
// Inserts into the leaf where `key` belongs, which has room (make_room).  EEXIST if it is there.
Result<> tree_insert(Change &change, media::Inode *inode, TreeId id, std::uint64_t key,
                     std::span<const std::byte> value);
// The entry must exist, and `value` must be as long as the old one.
Result<> tree_replace(Change &change, media::Inode *inode, TreeId id, std::uint64_t key,
                      std::span<const std::byte> value);
// May leave the leaf sparse or empty: tree_tidy() afterwards.
Result<> tree_erase(Change &change, media::Inode *inode, TreeId id, std::uint64_t key);

// --- changes of shape, each in transactions of its own (call with no Change open)

// Makes the leaf where `key` belongs have at least `bytes` free (sum of NodeView::cost).
Result<> tree_make_room(Core &core, TreeId id, std::uint64_t key, std::size_t bytes, Need need);
// Merges the leaf where `key` belongs with a neighbour if it is sparse, and so on upwards.  An
// error leaves a sparse but sound tree: best_effort() where that is good enough.
Result<> tree_tidy(Core &core, TreeId id, std::uint64_t key);
}  // namespace pmfs::core
