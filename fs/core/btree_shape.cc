// Splits and merges, each a transaction that changes no content: see btree.h.
#include "base/assert.h"
#include "base/errors.h"
#include "core/alloc.h"
#include "core/btree.h"
#include "core/inode.h"

namespace pmfs::core {

using media::Magic;
using media::NodeHeader;

namespace {

constexpr std::size_t kNodeBytes = media::kBlockSize - sizeof(NodeHeader);
constexpr std::size_t kChildCost = media::kEntryHeader + 8 + 2;

std::span<const std::byte> bytes_of_child(const media::le64 &child) {
    return std::as_bytes(std::span(&child, 1));
}

Result<NodeEdit> edit_node(Change &change, BlockNo block) {
    return NodeEdit(TRY(change.tx().edit<NodeHeader>(block, Magic::node)));
}

Result<NodeEdit> fresh_node(Change &change, BlockNo block, TreeId id, unsigned level) {
    NodeEdit node(TRY(change.tx().fresh<NodeHeader>(block, Magic::node)));
    node.init(id.owner.value(), id.kind, level);
    return node;
}

// True when `key` belongs behind everything in the tree: the node is then left full, so that a file
// that is written from front to end fills its nodes.
bool at_right_edge(const Cursor &at, unsigned level, std::uint64_t key) {
    for (unsigned l = level + 1; l < at.depth(); ++l)
        if (at.slot(l) + 1 != at.node(l).count()) return false;
    const NodeView node = at.node(level);
    return node.count() != 0 && node.key(node.count() - 1) < key;
}

unsigned split_slot(const NodeView &node, bool right_edge) {
    if (right_edge) return node.leaf() ? node.count() : node.count() - 1;
    std::size_t left = 0;
    unsigned slot = 0;
    while (slot + 1 < node.count() && left < node.used_bytes() / 2)
        left += NodeView::cost(node.value(slot++).size());
    return slot == 0 ? 1 : slot;
}

// Splits the node at `level` of the cursor; its parent has room, or it is the root.
Result<> split(Core &core, TreeId id, const Cursor &at, unsigned level, std::uint64_t key,
               Need need) {
    Change change(core);
    TRY(change.begin());
    media::Inode *inode = TRY(edit_inode(change, id.owner));
    const BlockNo left_block = at.block(level);
    const bool is_root = level + 1 == at.depth();
    const auto taken = TRY(core.allocator.take_meta(change, left_block, is_root ? 2 : 1, need));
    const BlockNo right_block = taken.start;
    NodeEdit left = TRY(edit_node(change, left_block));
    NodeEdit right = TRY(fresh_node(change, right_block, id, level));
    left.move_tail(split_slot(left, at_right_edge(at, level, key)), right);
    const std::uint64_t separator = right.count() != 0 ? right.key(0) : key;

    const media::le64 right_child(right_block.value()), left_child(left_block.value());
    if (is_root) {
        const BlockNo root_block(taken.start + 1);
        NodeEdit root = TRY(fresh_node(change, root_block, id, level + 1));
        root.insert(0, 0, bytes_of_child(left_child));
        root.insert(1, separator, bytes_of_child(right_child));
        root_of(*inode, id.kind).set(root_block.value());
    } else {
        NodeEdit parent = TRY(edit_node(change, at.block(level + 1)));
        parent.insert(at.slot(level + 1) + 1, separator, bytes_of_child(right_child));
    }
    inode->blocks.set(inode->blocks.get() + taken.blocks);
    TRY(change.commit());
    return {};
}

Result<> free_node(Change &change, media::Inode *inode, BlockNo block) {
    inode->blocks.set(inode->blocks.get() - 1);
    return change.core().allocator.give_back(change, {block, 1});
}

// An empty root is removed; an interior root with one child is replaced by it.
Result<bool> shrink_root(Core &core, TreeId id, const Cursor &at) {
    const unsigned top = at.depth() - 1;
    const NodeView root = at.node(top);
    if (root.leaf() ? root.count() != 0 : root.count() != 1) return false;
    Change change(core);
    TRY(change.begin());
    media::Inode *inode = TRY(edit_inode(change, id.owner));
    root_of(*inode, id.kind).set(root.leaf() ? 0 : root.child(0));
    TRY(free_node(change, inode, at.block(top)));
    TRY(change.commit());
    return true;
}

// Two neighbours under one parent, and their nodes as they are.
struct Neighbours {
    BlockNo left, right;
    unsigned right_slot;  // of the parent
    NodeView l, r;
};

// The node at `level` of the cursor and the one behind it, or before it; its parent has both.
Result<Neighbours> neighbours(Core &core, TreeId id, const Cursor &at, unsigned level) {
    const NodeView parent = at.node(level + 1);
    const unsigned slot = at.slot(level + 1);
    const unsigned right_slot = slot + 1 < parent.count() ? slot + 1 : slot;
    const BlockNo left(parent.child(right_slot - 1)), right(parent.child(right_slot));
    const Reader reader(core);
    const NodeView l(TRY(reader.get<NodeHeader>(left, Magic::node)));
    const NodeView r(TRY(reader.get<NodeHeader>(right, Magic::node)));
    if (l.level() != level || r.level() != level || left == right)
        return corrupt("neighbouring nodes of a tree are of different levels");
    for (const NodeView &node : {l, r})
        if (node.header().owner.get() != id.owner.value() ||
            node.header().kind != static_cast<std::uint8_t>(id.kind))
            return corrupt("a tree points to a node of another tree");
    return Neighbours{left, right, right_slot, l, r};
}

// Moves all of the right one of two neighbours into the left one, if they fit with room to spare or
// one of them is empty.
Result<bool> merge(Core &core, TreeId id, const Cursor &at, unsigned level) {
    const NodeView parent = at.node(level + 1);
    if (parent.count() < 2) return false;
    const Neighbours pair = TRY(neighbours(core, id, at, level));
    // An empty one is removed in any case: searches would have to skip it.
    const bool empty = pair.l.count() == 0 || pair.r.count() == 0;
    if (!empty && pair.l.used_bytes() + pair.r.used_bytes() > kNodeBytes * 3 / 4) return false;

    Change change(core);
    TRY(change.begin());
    media::Inode *inode = TRY(edit_inode(change, id.owner));
    NodeEdit left = TRY(edit_node(change, pair.left));
    NodeEdit right = TRY(edit_node(change, pair.right));
    // The first key of an interior node counts as minus infinity; next to other keys it must have
    // its real value.
    if (level != 0) right.set_key(0, parent.key(pair.right_slot));
    right.move_tail(0, left);
    NodeEdit up = TRY(edit_node(change, at.block(level + 1)));
    up.erase(pair.right_slot);
    TRY(free_node(change, inode, pair.right));
    TRY(change.commit());
    return true;
}

// Gives a node with one child another one from its neighbour, which is too full to be merged with
// it, so that the child has a neighbour to merge with.  False: it has two children, or no
// neighbour.
Result<bool> borrow(Core &core, TreeId id, const Cursor &at, unsigned level) {
    const NodeView parent = at.node(level + 1);
    if (level == 0 || at.node(level).count() != 1 || parent.count() < 2) return false;
    const Neighbours pair = TRY(neighbours(core, id, at, level));
    if (pair.l.count() + pair.r.count() < 3) return false;

    Change change(core);
    TRY(change.begin());
    NodeEdit left = TRY(edit_node(change, pair.left));
    NodeEdit right = TRY(edit_node(change, pair.right));
    NodeEdit up = TRY(edit_node(change, at.block(level + 1)));
    const std::uint64_t separator = up.key(pair.right_slot);
    if (at.block(level) == pair.right) {
        const unsigned last = left.count() - 1;
        const std::uint64_t key = left.key(last);
        const media::le64 child(left.child(last));
        right.set_key(0, separator);
        right.insert(0, key, bytes_of_child(child));
        left.erase(last);
        up.set_key(pair.right_slot, key);
    } else {
        const media::le64 child(right.child(0));
        left.insert(left.count(), separator, bytes_of_child(child));
        right.erase(0);
        up.set_key(pair.right_slot, right.key(0));
    }
    TRY(change.commit());
    return true;
}

}  // namespace

Result<> tree_tidy(Core &core, TreeId id, std::uint64_t key) {
    for (unsigned level = 0;;) {
        const Reader reader(core);
        const media::Inode *inode = TRY(read_inode(reader, id.owner));
        Cursor at(reader, *inode, id);
        TRY(at.seek_leaf(key));
        if (level >= at.depth()) return {};
        if (level + 1 == at.depth()) {
            if (!TRY(shrink_root(core, id, at))) return {};
            level = 0;
            continue;
        }
        if (at.node(level).used_bytes() >= kNodeBytes / 4) return {};
        if (!TRY(merge(core, id, at, level))) {
            // An empty leaf may be its parent's only child: then its ancestors get more children
            // first.
            if (at.node(0).count() != 0) return {};
            if (TRY(borrow(core, id, at, level))) {
                level = 0;
                continue;
            }
        }
        ++level;
    }
}

Result<> tree_make_room(Core &core, TreeId id, std::uint64_t key, std::size_t bytes, Need need) {
    PMFS_ASSERT(bytes <= NodeView::cost(media::kTreeValueMax));
    for (;;) {
        const Reader reader(core);
        const media::Inode *inode = TRY(read_inode(reader, id.owner));
        Cursor at(reader, *inode, id);
        TRY(at.seek_leaf(key));
        if (at.depth() == 0 || at.node(0).free_bytes() >= bytes) return {};
        unsigned level = 0;
        while (level + 1 < at.depth() && at.node(level + 1).free_bytes() < kChildCost) ++level;
        if (level + 1 == media::kTreeDepthMax)
            return Error(EFBIG, "a tree has reached its greatest depth");
        TRY(split(core, id, at, level, key, need));
    }
}

}  // namespace pmfs::core
