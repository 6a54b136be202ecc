// Walking and changing a B+tree within a transaction: see btree.h.  Splits and merges are in
// btree_shape.cc.
#include "core/btree.h"

#include "base/assert.h"
#include "core/alloc.h"
#include "core/inode.h"

namespace pmfs::core {

using media::Magic;
using media::NodeHeader;

namespace {

// Each node is checked by itself.  A walk must also check that keys increase from node to node, or
// a forged tree could make it loop; and that the keys of an interior node are in the range of its
// entry in the parent (the first one counts as minus infinity): then no two entries can share a
// subtree, which a walk would visit as often as there are ways to it.
Error out_of_order() {
    return corrupt("the keys of a tree are out of order");
}

}  // namespace

// `parent`: null for the root; otherwise its slot is the entry that leads to the block.
Result<> Cursor::load(unsigned level, BlockNo block, const Step *parent) {
    const auto *header = TRY(reader_.get<NodeHeader>(block, Magic::node));
    if (header->owner.get() != id_.owner.value() ||
        header->kind != static_cast<std::uint8_t>(id_.kind) || header->level != level)
        return corrupt("a tree points to a node of another tree or level");
    Step &step = steps_[level];
    step = {block, 0, reinterpret_cast<const std::byte *>(header)};
    if (level == 0 || parent == nullptr) return {};
    const NodeView above(parent->bytes), view(header);
    step.low = parent->slot == 0 ? parent->low : above.key(parent->slot);
    step.high = parent->slot + 1 < above.count() ? above.key(parent->slot + 1) : parent->high;
    const unsigned count = view.count();
    if (count > 1 && (view.key(1) < step.low || view.key(count - 1) >= step.high))
        return out_of_order();
    return {};
}

// Goes down to the leaf that covers `key`; slots on the way are set, the leaf's is not.
Result<> Cursor::descend(std::uint64_t key) {
    valid_ = false;
    depth_ = 0;
    if (root_ == BlockNo(0)) return {};
    const auto *top = TRY(reader_.get<NodeHeader>(root_, Magic::node));
    if (top->level >= media::kTreeDepthMax)
        return corrupt("a tree is deeper than the format allows");
    const unsigned root_level = top->level;
    TRY(load(root_level, root_, nullptr));
    for (unsigned level = root_level; level > 0; --level) {
        const NodeView view = node(level);
        if (view.count() == 0) return corrupt("an interior node is empty");
        steps_[level].slot = view.child_slot(key);
        TRY(load(level - 1, BlockNo(view.child(steps_[level].slot)), &steps_[level]));
    }
    depth_ = root_level + 1;
    return {};
}

Result<> Cursor::seek(std::uint64_t key) {
    TRY(descend(key));
    if (depth_ == 0) return {};
    steps_[0].slot = node(0).lower_bound(key);
    valid_ = true;
    if (steps_[0].slot < node(0).count()) return {};
    steps_[0].slot = node(0).count();  // so that step() leaves the leaf
    --steps_[0].slot;
    TRY(step());
    if (valid_ && this->key() < key) return out_of_order();
    return {};
}

Result<> Cursor::seek_floor(std::uint64_t key) {
    TRY(descend(key));
    if (depth_ == 0) return {};
    const NodeView leaf = node(0);
    const unsigned at = leaf.lower_bound(key);
    valid_ = true;
    if (at < leaf.count() && leaf.key(at) == key) {
        steps_[0].slot = at;
        return {};
    }
    steps_[0].slot = at;
    TRY(step_back());
    if (valid_ && this->key() > key) return out_of_order();
    return {};
}

// Enters the child at steps_[level].slot and goes down to its first or last leaf entry.
Result<> Cursor::enter(unsigned level, bool last) {
    for (; level > 0; --level) {
        TRY(load(level - 1, BlockNo(node(level).child(steps_[level].slot)), &steps_[level]));
        const unsigned count = node(level - 1).count();
        steps_[level - 1].slot = last && count != 0 ? count - 1 : 0;
    }
    return {};
}

Result<> Cursor::next() {
    PMFS_ASSERT(valid_);
    const std::uint64_t from = key();
    TRY(step());
    if (valid_ && key() <= from) return out_of_order();
    return {};
}

// One entry on, or the end.
Result<> Cursor::step() {
    for (std::uint64_t empty = 0; empty <= reader_.core().blocks().count(); ++empty) {
        if (steps_[0].slot + 1 < node(0).count()) {
            ++steps_[0].slot;
            return {};
        }
        unsigned level = 1;
        while (level < depth_ && steps_[level].slot + 1 >= node(level).count()) ++level;
        if (level >= depth_) {
            valid_ = false;
            return {};
        }
        ++steps_[level].slot;
        TRY(enter(level, false));
        if (node(0).count() != 0) return {};  // otherwise it is an empty leaf: skip it
    }
    return corrupt("a tree has more empty leaves than the volume has blocks");
}

Result<> Cursor::step_back() {
    for (std::uint64_t empty = 0; empty <= reader_.core().blocks().count(); ++empty) {
        if (steps_[0].slot > 0) {
            --steps_[0].slot;
            return {};
        }
        unsigned level = 1;
        while (level < depth_ && steps_[level].slot == 0) ++level;
        if (level >= depth_) {
            valid_ = false;
            return {};
        }
        --steps_[level].slot;
        TRY(enter(level, true));
        if (node(0).count() != 0) return {};
    }
    return corrupt("a tree has more empty leaves than the volume has blocks");
}

namespace {

struct LeafPlace {
    NodeEdit node;
    unsigned slot;
};

// The leaf where `key` belongs, as a copy to change, and the slot of the first key >= `key` in it.
Result<LeafPlace> edit_leaf(Change &change, const media::Inode *inode, TreeId id,
                            std::uint64_t key) {
    const Reader reader(change);
    BlockNo block(root_of(*inode, id.kind).get());
    for (unsigned depth = 0; depth < media::kTreeDepthMax; ++depth) {
        const auto *header = TRY(reader.get<NodeHeader>(block, Magic::node));
        if (header->owner.get() != id.owner.value() ||
            header->kind != static_cast<std::uint8_t>(id.kind))
            return corrupt("a tree points to a node of another tree");
        const NodeView view(header);
        if (view.leaf()) {
            auto *copy = TRY(change.tx().edit<NodeHeader>(block, Magic::node));
            const NodeEdit node(copy);
            return LeafPlace{node, node.lower_bound(key)};
        }
        if (view.count() == 0) return corrupt("an interior node is empty");
        block = BlockNo(view.child(view.child_slot(key)));
    }
    return corrupt("a tree is deeper than the format allows");
}

Result<LeafPlace> edit_entry(Change &change, media::Inode *inode, TreeId id, std::uint64_t key) {
    LeafPlace leaf = TRY(edit_leaf(change, inode, id, key));
    if (leaf.slot >= leaf.node.count() || leaf.node.key(leaf.slot) != key)
        return corrupt("a tree lost an entry that was just read");
    return leaf;
}

}  // namespace

Result<> tree_begin(Change &change, media::Inode *inode, TreeId id) {
    const auto run = TRY(change.core().allocator.take_meta(
        change, media::first_block(group_of_inode(change.core().superblock, id.owner)), 1,
        Need::essential));
    NodeEdit leaf(TRY(change.tx().fresh<NodeHeader>(run.start, Magic::node)));
    leaf.init(id.owner.value(), id.kind, 0);
    root_of(*inode, id.kind).set(run.start.value());
    inode->blocks.set(inode->blocks.get() + 1);
    return {};
}

Result<> tree_insert(Change &change, media::Inode *inode, TreeId id, std::uint64_t key,
                     std::span<const std::byte> value) {
    if (root_of(*inode, id.kind).get() == 0) TRY(tree_begin(change, inode, id));
    LeafPlace leaf = TRY(edit_leaf(change, inode, id, key));
    if (leaf.slot < leaf.node.count() && leaf.node.key(leaf.slot) == key)
        return Error(EEXIST, "the tree has an entry with that key already");
    if (NodeView::cost(value.size()) > leaf.node.free_bytes())
        return corrupt("a tree's leaf is not the one that has room");
    leaf.node.insert(leaf.slot, key, value);
    return {};
}

Result<> tree_replace(Change &change, media::Inode *inode, TreeId id, std::uint64_t key,
                      std::span<const std::byte> value) {
    LeafPlace leaf = TRY(edit_entry(change, inode, id, key));
    if (leaf.node.value(leaf.slot).size() != value.size())
        return corrupt("a tree entry has an unexpected size");
    leaf.node.replace(leaf.slot, value);
    return {};
}

Result<> tree_erase(Change &change, media::Inode *inode, TreeId id, std::uint64_t key) {
    LeafPlace leaf = TRY(edit_entry(change, inode, id, key));
    leaf.node.erase(leaf.slot);
    return {};
}

}  // namespace pmfs::core
