// Extended attributes: see file_map.h.
#include <fmt/format.h>

#include "fsck/file_map.h"
#include "fsck/names.h"
#include "fsck/tree.h"

namespace pmfs::fsck {

using namespace media;

namespace {

struct Attribute {
    std::uint32_t value_size = 0;
    unsigned runs = 0;
    std::string_view name;
    ConstBytes rest;  // the value, or the BlobRuns
};

// False when the parts do not add up.
bool decode(ConstBytes bytes, Attribute *out) {
    if (bytes.size() < sizeof(XattrValue)) return false;
    const auto head = load<XattrValue>(bytes);
    bytes = bytes.subspan(sizeof head);
    if (bytes.size() < head.name_size) return false;
    *out = {head.value_size.get(), head.runs, text_in(bytes.first(head.name_size)),
            bytes.subspan(head.name_size)};
    if (out->value_size > kXattrValueMax) return false;
    if (out->runs == 0) return out->rest.size() == out->value_size;
    return out->value_size != 0 && out->rest.size() == out->runs * sizeof(BlobRun);
}

bool name_ok(std::string_view name) {
    return !name.empty() && name.find('\0') == std::string_view::npos;
}

// The blobs hold exactly the value, without unneeded blocks.
Owned walk_value(Context &context, Space &space, std::uint64_t number, const Attribute &attribute) {
    Owned owned;
    if (attribute.runs == 0) return owned;  // the value is in the entry itself
    std::uint64_t offset = 0, blocks = 0;
    const std::uint64_t needed = divide_up(attribute.value_size, kBlobBytes);
    for (unsigned i = 0; i < attribute.runs; ++i) {
        const auto run = load<BlobRun>(attribute.rest, i * sizeof(BlobRun));
        if (run.blocks.get() > needed - blocks) {
            blocks = needed + 1;
            break;
        }
        blocks += run.blocks.get();
        owned.add(walk_blobs(context, space, number, run.start.get(), run.blocks.get(),
                             attribute.value_size, &offset));
        if (!owned.complete) return owned;
    }
    if (blocks != needed) {
        context.found_inode(Code::xattr_broken, number,
                            fmt::format("{}: its blocks do not hold {} bytes",
                                        in_quotes(attribute.name), attribute.value_size));
        context.lost_owners = true;
        owned.complete = false;
    }
    return owned;
}

}  // namespace

Owned walk_xattrs(Context &context, Space &space, std::uint64_t number, const Inode &inode) {
    if (inode.xattr_root.get() == 0) return {};
    Owned owned;
    SameHash same;
    const TreeWalk walk = walk_tree(
        context, space, inode.xattr_root.get(), number, TreeKind::xattr,
        [&](std::uint64_t key, ConstBytes value) {
            Attribute attribute;
            if (!decode(value, &attribute)) {
                context.found_inode(Code::xattr_broken, number, fmt::format("key {:#x}", key));
                context.lost_owners = true;
                owned.complete = false;
                return;
            }
            if (!name_ok(attribute.name))
                context.found_inode(Code::xattr_name_invalid, number, in_quotes(attribute.name));
            else if ((key & ~kCollisionMask) != name_key(context.sb, attribute.name))
                context.found_inode(Code::xattr_key_wrong, number, in_quotes(attribute.name));
            else if (same.seen(key, attribute.name))
                context.found_inode(Code::xattr_twice, number, in_quotes(attribute.name));
            owned.add(walk_value(context, space, number, attribute));
            check_acl(context, number, inode, attribute.name,
                      attribute.runs == 0 ? &attribute.rest : nullptr);
        });
    owned.blocks += walk.nodes;
    owned.complete &= walk.complete;
    return owned;
}

}  // namespace pmfs::fsck
