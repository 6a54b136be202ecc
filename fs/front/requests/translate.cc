// The numbers of a request: see translate.h.
#include "front/requests/translate.h"

#include <linux/fuse.h>

#include <cerrno>
#include <cstring>

#include "front/requests/message_check.h"

namespace pmfs::front {
namespace {

template <class T>
void put(Bytes message, std::size_t at, const T &value) {
    std::memcpy(message.data() + at, &value, sizeof value);
}

// False: the id does not exist outside.
bool map_id(const IdMap &map, std::uint32_t *id) {
    const auto outside = map.in(*id);
    *id = outside.value_or(IdMap::kOverflow);
    return outside.has_value();
}

// The owner that a SETATTR sets.
bool map_owner(Bytes message, const Policy &policy) {
    auto set = load<fuse_setattr_in>(message, sizeof(fuse_in_header));
    if ((set.valid & FATTR_UID) != 0 && !map_id(policy.users, &set.uid)) return false;
    if ((set.valid & FATTR_GID) != 0 && !map_id(policy.groups, &set.gid)) return false;
    put(message, sizeof(fuse_in_header), set);
    return true;
}

}  // namespace

int translate(Bytes message, const Client &client) {
    const Policy &policy = client.policy();
    auto header = load<fuse_in_header>(message);
    if (!policy.is_host) header.pid = 0;  // of another machine
    if (!client.whole()) {
        const auto node = client.inode_of(header.nodeid);
        if (!node) return ESTALE;
        header.nodeid = node->value();
        if (const std::size_t at = other_node_place(message)) {
            const auto other = client.inode_of(load<std::uint64_t>(message, at));
            if (!other) return ESTALE;
            put(message, at, other->value());
        }
    }
    const bool user = map_id(policy.users, &header.uid);
    const bool group = map_id(policy.groups, &header.gid);
    if (!(user && group) && !from_anybody(message) && !written_back(message)) return EOVERFLOW;
    if (header.opcode == FUSE_SETATTR && !map_owner(message, policy)) return EOVERFLOW;
    put(message, 0, header);
    return 0;
}

}  // namespace pmfs::front
