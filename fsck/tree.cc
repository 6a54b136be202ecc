// The B+tree, read without the engine: see tree.h and docs/format.md.
#include "fsck/tree.h"

#include <algorithm>
#include <optional>

namespace pmfs::fsck {

using namespace media;

namespace {

struct Entry {
    std::uint64_t key;
    ConstBytes value;
};

// A node whose header is whole, ours and of this tree.
class Node {
public:
    explicit Node(ConstBytes bytes) : bytes_(bytes), header_(load<NodeHeader>(bytes)) {}

    std::size_t count() const { return header_.count.get(); }
    unsigned level() const { return header_.level; }

    // All slots and entries are inside of the node, in their areas, and do not overlap.
    bool entries_ok() const;
    // Only after entries_ok().
    Entry entry(std::size_t i) const {
        const std::size_t at = slot(i);
        const std::size_t size = load<le16>(bytes_, at + 8).get();
        return {load<le64>(bytes_, at).get(), bytes_.subspan(at + kEntryHeader, size)};
    }

private:
    std::size_t slot(std::size_t i) const {
        return load<le16>(bytes_, sizeof(NodeHeader) + 2 * i).get();
    }

    ConstBytes bytes_;
    NodeHeader header_;
};

// One bit a byte of a node; false when one of these bytes was taken before.
class TakenBytes {
public:
    bool take(std::size_t from, std::size_t size) {
        while (size != 0) {
            const std::size_t count = std::min(64 - from % 64, size);
            const std::uint64_t ones =
                count == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1;
            const std::uint64_t bits = ones << (from % 64);
            if ((words_[from / 64] & bits) != 0) return false;
            words_[from / 64] |= bits;
            from += count;
            size -= count;
        }
        return true;
    }

private:
    std::uint64_t words_[kBlockSize / 64] = {};
};

bool Node::entries_ok() const {
    const std::size_t heap = header_.heap_start.get();
    if (heap > kBlockSize || sizeof(NodeHeader) + 2 * count() > heap) return false;
    TakenBytes taken;
    std::size_t live = 0;
    for (std::size_t i = 0; i < count(); ++i) {
        const std::size_t at = slot(i);
        if (at < heap || at + kEntryHeader > kBlockSize) return false;
        const std::size_t size = kEntryHeader + load<le16>(bytes_, at + 8).get();
        if (size > kEntryHeader + kTreeValueMax || at + size > kBlockSize) return false;
        if (!taken.take(at, size)) return false;
        live += size;
    }
    return live + header_.dead_bytes.get() == kBlockSize - heap;
}

class Walker {
public:
    Walker(Context &context, Space &space, std::uint64_t owner, TreeKind kind,
           const EntrySink &sink)
        : context_(context), space_(space), owner_(owner), kind_(kind), sink_(sink) {}

    // Keys of the subtree: low <= key < high.  `level`: the one that the parent requires; none for
    // the root.
    void visit(std::uint64_t block, std::optional<unsigned> level, std::uint64_t low,
               std::uint64_t high);
    TreeWalk walk;

private:
    std::optional<Code> fault_of(const NodeHeader &header, std::optional<unsigned> level) const;
    std::optional<Code> fault_of(const Node &node, std::uint64_t low, std::uint64_t high) const;
    void lose(Code code, std::uint64_t block) {
        context_.found({.code = code, .block = block, .inode = owner_});
        lose();
    }
    void lose() {
        walk.complete = false;
        context_.lost_owners = true;
        if (kind_ == TreeKind::directory) context_.lost_names = true;
    }

    Context &context_;
    Space &space_;
    const std::uint64_t owner_;
    const TreeKind kind_;
    const EntrySink &sink_;
};

std::optional<Code> Walker::fault_of(const NodeHeader &header,
                                     std::optional<unsigned> level) const {
    if (header.owner.get() != owner_ || header.kind != static_cast<std::uint8_t>(kind_))
        return Code::node_of_other_tree;
    if (level ? header.level != *level : header.level >= kTreeDepthMax)
        return Code::node_level_wrong;
    return {};
}

std::optional<Code> Walker::fault_of(const Node &node, std::uint64_t low,
                                     std::uint64_t high) const {
    if (!node.entries_ok()) return Code::node_entries_broken;
    // A leaf may be empty: erasing leaves it so, and merging it is another transaction.
    if (node.count() == 0)
        return node.level() == 0 ? std::nullopt : std::optional(Code::node_empty);
    // An interior node's first key counts as minus infinity, whatever its value.
    const std::size_t first = node.level() == 0 ? 0 : 1;
    for (std::size_t i = first; i < node.count(); ++i) {
        const std::uint64_t key = node.entry(i).key;
        if (i > first && key <= node.entry(i - 1).key) return Code::node_keys_unordered;
    }
    for (std::size_t i = first; i < node.count(); ++i) {
        const std::uint64_t key = node.entry(i).key;
        if (key < low || key >= high) return Code::node_keys_outside;
    }
    return {};
}

void Walker::visit(std::uint64_t block, std::optional<unsigned> level, std::uint64_t low,
                   std::uint64_t high) {
    if (!context_.inside(block)) return lose(Code::pointer_outside, block);
    if (!space_.claim(block, 1, BlockClass::metadata, owner_)) return lose();
    ++walk.nodes;
    const auto *header = context_.whole<NodeHeader>(block, Magic::node);
    if (header == nullptr) return lose(Code::node_damaged, block);
    if (const auto fault = fault_of(*header, level)) return lose(*fault, block);
    const Node node(context_.meta_block(block));
    if (const auto fault = fault_of(node, low, high)) return lose(*fault, block);

    if (node.level() == 0) {
        for (std::size_t i = 0; i < node.count(); ++i) {
            const Entry entry = node.entry(i);
            sink_(entry.key, entry.value);
        }
        return;
    }
    for (std::size_t i = 0; i < node.count(); ++i) {
        const Entry entry = node.entry(i);
        if (entry.value.size() != sizeof(le64)) {
            lose(Code::node_entries_broken, block);
            continue;
        }
        visit(load<le64>(entry.value).get(), node.level() - 1, i == 0 ? low : entry.key,
              i + 1 < node.count() ? node.entry(i + 1).key : high);
    }
}

}  // namespace

TreeWalk walk_tree(Context &context, Space &space, std::uint64_t root, std::uint64_t owner,
                   TreeKind kind, const EntrySink &sink) {
    Walker walker(context, space, owner, kind, sink);
    // No kind has a key of 2^64 - 1, so that may stand for infinity.
    walker.visit(root, std::nullopt, 0, ~std::uint64_t{0});
    return walker.walk;
}

}  // namespace pmfs::fsck
